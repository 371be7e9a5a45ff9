"""Full disks, places without permission, and odd names: one clear line, and nothing is lost."""

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import odd_calls
import pytest
from typer.testing import CliRunner

from actquant.cli import app

NOBODY = 65534
CONVERT = ("--recipe", "q8_0", "--control-rate-hz", "10", "--verify", "none")


@pytest.fixture(scope="module")
def compress(
    checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ...]:
    """A compression that takes what an earlier one kept in the cache; libraries have had their say
    about what this machine lacks."""
    brief = ("--recipe", "q8_0", "--frames", "4", "--held-out", "4")
    words = ("compress", str(checkpoint), "--dataset", str(dataset), *brief)
    out = tmp_path_factory.mktemp("first") / "m.gguf"
    assert CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    return words


def run(*words: object) -> tuple[int, str]:
    """Returns the exit code of a command and the one line that it says."""
    outcome = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(outcome.exception, SystemExit | None), outcome.output
    lines = outcome.stderr.splitlines()
    assert len(lines) == (outcome.exit_code != 0), outcome.output
    return outcome.exit_code, "".join(lines)


@contextlib.contextmanager
def small_files(limit_bytes: int) -> Iterator[None]:
    """No file may grow beyond a limit: writing fails where a disk would be full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Runs as a user whom permissions bind."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public(checkpoint: Path) -> Iterator[Path]:
    """A folder that every user may enter, with a checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(checkpoint, folder / "tiny")
        yield folder


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 64 KiB, where the tests may mount one."""
    folder = tmp_path_factory.mktemp("disk")
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(
    compress: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "m.gguf"
    assert run(*compress, "--out", out) == (0, "")
    before = out.read_bytes()
    with small_files(100_000):
        status, told = run(*compress, "--out", out)
    assert status == 1 and "cannot be written" in told and "File too large" in told
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_a_full_disk_is_named_and_left_empty(compress: tuple[str, ...], disk: Path) -> None:
    status, told = run(*compress, "--out", disk / "m.gguf")
    assert status == 1 and "m.gguf" in told and "No space left on device" in told
    assert not list(disk.iterdir())
    (disk / "filling").write_bytes(bytes(64 << 10))
    status, told = run(*compress, "--out", disk / "m.gguf")
    assert status == 1 and "cannot be written to: No space left on device" in told
    assert [path.name for path in disk.iterdir()] == ["filling"]


def test_a_work_folder_on_a_full_disk_is_named(
    compress: tuple[str, ...], disk: Path, tmp_path: Path
) -> None:
    (disk / "filling").unlink(missing_ok=True)
    status, told = run(*compress, "--work", disk / "work", "--out", tmp_path / "m.gguf")
    assert status == 1 and "No space left on device" in told
    assert not list(tmp_path.iterdir())
    assert not list((disk / "work").rglob("*.tmp"))


def test_a_folder_without_permission_is_named_at_once(public: Path) -> None:
    locked = public / "locked"
    locked.mkdir(mode=0o555)
    with unprivileged():
        for words in [
            ("--out", locked / "m.gguf"),
            ("--out", public / "m.gguf"),
            ("--out", "/proc/m.gguf"),
        ]:
            status, told = run("compress", public / "tiny", *CONVERT, *words)
            assert status == 1 and "cannot be written to" in told
    assert sorted(path.name for path in public.iterdir()) == ["locked", "tiny"]


def test_what_may_not_be_read_is_named(public: Path) -> None:
    model, result = public / "m.gguf", public / "r.json"
    for path in (model, result):
        path.write_bytes(b"secret")
        path.chmod(0)
    with unprivileged():
        for words in [
            ("inspect", model),
            ("bench", model),
            ("verify", model),
            ("compare", result, result),
        ]:
            status, told = run(*words)
            assert status == 2 and "cannot be read: this user has no permission" in told
    assert stat.S_IMODE(model.stat().st_mode) == 0 and model.read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["模型 [bold] ä", "-dash", "n" * 215, "new\nline"])
def test_odd_names_are_written_and_read(
    name: str, compress: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / name
    assert run(*compress, f"--out={out}") == (0, "")
    assert run("inspect", out) == (0, "")
    assert list(tmp_path.iterdir()) == [out]


def test_a_path_of_many_folders(compress: tuple[str, ...], tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 10)
    deep.mkdir(parents=True)
    assert run(*compress, "--out", deep / "m.gguf") == (0, "")
    status, told = run("inspect", deep.joinpath(*["d" * 200] * 12))
    assert status == 2 and "File name too long" in told and len(told) < 400


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff.json"))
    path.write_text(odd_calls.result().model_dump_json())
    for words in (("compare", path, path), ("eval", path, "--out", path), ("inspect", path)):
        status, told = run(*words)
        assert status == 2 and "r\\udcff.json: the name is no UTF-8" in told
