"""What is packed for others: the source archive's files, and what the archive says of itself."""

import shutil
import subprocess
import sys
import tarfile
from email.parser import BytesParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
# Their sources are of no use without the rest of the repository.
LEFT_OUT = ("runtime/fuzz/", "runtime/tests/")
ALONE = {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the source archive by their path in it."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    with tarfile.open(path) as opened:
        members = [member for member in opened if not member.isdir()]
        assert all(member.isfile() for member in members)
        found = {member.name: opened.extractfile(member) for member in members}
        return {name.partition("/")[2]: file.read() for name, file in found.items() if file}


def ours(*arguments: str) -> set[str]:
    """The files here that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_archive_holds_what_a_wheel_is_built_from_and_nothing_else(archive):
    wanted = {n for n in ours("actquant", "runtime") if not n.startswith(LEFT_OUT)} | ALONE
    assert set(archive) == wanted | {"PKG-INFO"}


def test_the_archive_is_what_lies_here(archive):
    for name in ("CMakeLists.txt", "pyproject.toml", "runtime/include/actquant.h"):
        assert archive[name] == (ROOT / name).read_bytes()


def test_the_archive_says_what_it_is(archive):
    told = BytesParser().parsebytes(archive["PKG-INFO"])
    assert (told["Name"], told["License-Expression"]) == ("actquant", "MIT")
    assert told["Requires-Python"] == ">=3.12"
    assert {"serve", "hub", "compress"} <= set(told.get_all("Provides-Extra", []))


@pytest.mark.parametrize("name", ["packages_check.sh", "wheels.sh", "debs.sh"])
def test_scripts_are_bash(name):
    subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)


def test_what_checks_packages_says_what_it_needs():
    command = [ROOT / "scripts/packages_check.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "packages_check.sh POLICY.gguf" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze reads units")
def test_systemd_understands_the_unit_of_the_server(tmp_path):
    program = tmp_path / "bin/actquant-serve"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    text = (ROOT / "runtime/server/actquant-serve.service.in").read_text()
    unit = tmp_path / "actquant-serve.service"
    unit.write_text(text.replace("@CMAKE_INSTALL_PREFIX@", str(tmp_path)))
    command = ["systemd-analyze", "verify", "--man=no", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
