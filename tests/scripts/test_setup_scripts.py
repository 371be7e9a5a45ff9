"""What set-up would install and say, on machines made of stub programs."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
REAL_PROGRAMS = ("bash", "cat", "dirname", "env", "grep", "mktemp", "nproc", "rm", "sed", "true")
GRAPHICS = "libEGL.so.1 (libc6) => /x\nlibEGL_mesa.so.0 (libc6) => /x\nlibGL.so.1 (libc6) => /x"
GRAPHICS_PACKAGES = "libegl1 libegl-mesa0 libgl1"
BOOST_PACKAGES = "libboost-system-dev libboost-thread-dev libboost-program-options-dev"


class Machine:
    """Runs a script where the PATH holds nothing but stubs; `log` is what the stubs were told."""

    def __init__(self, folder: Path):
        self.programs = folder / "bin"
        self.home = folder / "home"
        self.log_path = folder / "log"
        self.programs.mkdir()
        self.home.mkdir()
        self.log_path.touch()
        for name in REAL_PROGRAMS:
            (self.programs / name).symlink_to(shutil.which(name) or f"/bin/{name}")
        self.stub("id", "echo 0")
        self.stub("uname", "echo x86_64")
        self.stub("ldconfig", ":")
        self.stub("apt-get", f'echo "apt-get $*" >>{self.log_path}')

    def stub(self, name: str, body: str, folder: Path | None = None) -> Path:
        path = (folder or self.programs) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        path.chmod(0o755)
        return path

    def offers_python(self, version: str) -> None:
        self.stub("apt-cache", f"printf 'python3:\\n  Candidate: {version}\\n'")

    def has_python(
        self,
        name: str = "python3",
        usable: bool = True,
        details: str = "",
        folder: Path | None = None,
    ) -> Path:
        status = 0 if usable else 1
        body = f"""case "$2" in *ensurepip*) exit {status} ;; *) echo "{details}" ;; esac"""
        return self.stub(name, body, folder)

    def has_everything_but_python(self) -> None:
        for name in ("g++", "make", "cmake"):
            self.stub(name, ":")
        self.stub("ldconfig", f"echo '{GRAPHICS}'")

    def run(self, script: str, *arguments: object, **variables: str):
        environment = {"PATH": str(self.programs), "HOME": str(self.home), **variables}
        command = [str(SCRIPTS / script), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

    @property
    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def installed(machine: Machine) -> str:
    update, install = machine.log
    assert update == "apt-get update -q"
    return install.removeprefix("apt-get install -q -y --no-install-recommends ")


def test_bare_machine_gets_python_compilers_graphics_and_boost(machine):
    machine.offers_python("3.13.5-1")
    done = machine.run("system_packages.sh")
    assert done.returncode == 0, done.stderr
    python = "python3 python3-venv python3-dev"
    assert installed(machine) == f"{python} g++ make cmake {GRAPHICS_PACKAGES} {BOOST_PACKAGES}"


def test_bare_machine_with_python_3_12_needs_no_boost(machine):
    machine.offers_python("3.12.3-0ubuntu2")
    assert machine.run("system_packages.sh").returncode == 0
    assert (
        installed(machine) == f"python3 python3-venv python3-dev g++ make cmake {GRAPHICS_PACKAGES}"
    )


def test_python_3_12_needs_boost_where_ur_rtde_has_no_wheel(machine):
    machine.stub("uname", "echo aarch64")
    machine.has_everything_but_python()
    machine.offers_python("3.12.3-0ubuntu2")
    assert machine.run("system_packages.sh").returncode == 0
    assert installed(machine) == f"python3 python3-venv python3-dev {BOOST_PACKAGES}"


def test_complete_machine_installs_nothing(machine, tmp_path):
    machine.has_everything_but_python()
    (tmp_path / "Python.h").touch()
    machine.has_python("python3.12", details=f"3.12 {tmp_path} /opt/python")
    done = machine.run("system_packages.sh")
    assert (done.returncode, done.stdout, done.stderr, machine.log) == (0, "", "", [])


@pytest.mark.parametrize(
    ("architecture", "packages"),
    [("x86_64", ["g++-aarch64-linux-gnu", "qemu-user"]), ("aarch64", BOOST_PACKAGES.split())],
)
def test_tests_get_a_compiler_for_arm_where_none_is_native(
    machine, tmp_path, architecture, packages
):
    machine.stub("uname", f"echo {architecture}")
    machine.has_everything_but_python()
    (tmp_path / "Python.h").touch()
    machine.has_python("python3.12", details=f"3.12 {tmp_path} /opt/python")
    assert machine.run("system_packages.sh", "--for-tests").returncode == 0
    assert installed(machine).split() == packages


def test_the_vulkan_backend_gets_its_compiler_and_a_driver(machine, tmp_path):
    machine.has_everything_but_python()
    (tmp_path / "Python.h").touch()
    machine.has_python("python3.12", details=f"3.12 {tmp_path} /opt/python")
    machine.stub("glslc", "exit 0")
    assert machine.run("system_packages.sh", "--for-gpu").returncode == 0
    assert "mesa-vulkan-drivers" in installed(machine).split()
    assert "glslc" not in installed(machine).split()


def test_distribution_python_without_headers_gets_them(machine, tmp_path):
    machine.has_everything_but_python()
    machine.has_python(details=f"3.12 {tmp_path} /usr")
    assert machine.run("system_packages.sh").returncode == 0
    assert installed(machine) == "python3.12-dev"


def test_other_python_without_headers_is_refused(machine, tmp_path):
    machine.has_everything_but_python()
    machine.has_python(details=f"3.12 {tmp_path} /opt/python")
    done = machine.run("system_packages.sh")
    assert done.returncode == 1
    assert "lacks its C headers" in done.stderr and "make setup PYTHON=" in done.stderr
    assert machine.log == []


def test_too_old_distribution_is_refused_before_anything_is_installed(machine):
    machine.offers_python("3.11.2-1+b1")
    machine.has_python(usable=False)
    done = machine.run("system_packages.sh")
    assert done.returncode == 1
    assert "Python 3.12 or 3.13" in done.stderr and "offers Python 3.11." in done.stderr
    assert "uv python install 3.12" in done.stderr and "pyenv install 3.12" in done.stderr
    assert machine.log == ["apt-get update -q"]


def test_without_root_and_sudo_the_packages_are_named(machine):
    machine.stub("id", "echo 1000")
    machine.stub("sudo", "exit 1")
    machine.offers_python("3.13.5-1")
    done = machine.run("system_packages.sh")
    packages = (
        f"python3 python3-venv python3-dev g++ make cmake {GRAPHICS_PACKAGES} {BOOST_PACKAGES}"
    )
    assert done.returncode == 1
    assert f"sudo apt-get install {packages}\n" in done.stderr
    assert machine.log == []


def test_without_root_and_package_lists_python_is_named_too(machine):
    machine.stub("id", "echo 1000")
    machine.has_everything_but_python()
    done = machine.run("system_packages.sh")
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv python3-dev" in done.stderr


def test_sudo_installs_where_it_asks_for_no_password(machine):
    machine.stub("id", "echo 1000")
    machine.stub("sudo", 'shift; exec "$@"')
    machine.has_everything_but_python()
    machine.offers_python("3.12.3-0ubuntu2")
    assert machine.run("system_packages.sh").returncode == 0
    assert installed(machine) == "python3 python3-venv python3-dev"


def test_without_apt_the_packages_are_named(machine, tmp_path):
    (machine.programs / "apt-get").unlink()
    machine.has_everything_but_python()
    (machine.programs / "cmake").unlink()
    (tmp_path / "Python.h").touch()
    machine.has_python(details=f"3.12 {tmp_path} /usr")
    done = machine.run("system_packages.sh")
    assert done.returncode == 1 and "no apt-get. Install what gives you: cmake" in done.stderr


def test_find_python_prefers_the_named_one_then_3_12(machine):
    versions = machine.home / ".pyenv/versions"
    uv = machine.home / ".local/share/uv/python"
    found = [
        machine.has_python("python3.12"),
        machine.has_python("python3.13"),
        machine.has_python("python3"),
        machine.has_python("python3", folder=versions / "3.12.1/bin"),
        machine.has_python("python3", folder=uv / "cpython-3.12.4-linux-x86_64-gnu/bin"),
        machine.has_python("python3", folder=versions / "3.13.0/bin"),
    ]
    named = machine.has_python("python3", folder=machine.home / "mine")
    assert machine.run("find_python.sh", PYTHON=str(named)).stdout.strip() == str(named)
    for path in found:
        assert machine.run("find_python.sh").stdout.strip() == str(path)
        path.unlink()
    assert machine.run("find_python.sh").returncode == 1


def test_find_python_passes_over_those_without_venv_and_says_what_to_do(machine):
    machine.has_python("python3.12", usable=False)
    usable = machine.has_python("python3.13")
    assert machine.run("find_python.sh").stdout.strip() == str(usable)
    usable.unlink()
    done = machine.run("find_python.sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "python3-venv" in done.stderr and "make setup PYTHON=" in done.stderr


def test_ur_rtde_is_compiled_only_without_a_wheel(machine):
    python = machine.stub("python3", f'echo "$CMAKE_TOOLCHAIN_FILE $*" >>{machine.log_path}')
    assert machine.run("ur_rtde/install.sh", python).returncode == 0
    (wheel,) = machine.log
    assert "--only-binary ur-rtde ur-rtde==" in wheel

    body = f"""echo "$CMAKE_TOOLCHAIN_FILE $*" >>{machine.log_path}
case "$*" in *--only-binary*) exit 1 ;; esac"""
    python = machine.stub("python3", body)
    done = machine.run("ur_rtde/install.sh", python)
    assert done.returncode == 0 and "compiling it" in done.stdout
    compiled = machine.log[-1]
    assert compiled.startswith(str(SCRIPTS / "ur_rtde/toolchain.cmake"))
    assert "--build-constraint" in compiled and "--only-binary" not in compiled


def test_fresh_machine_says_what_it_needs(machine):
    done = machine.run("fresh_machine.sh")
    assert done.returncode == 2 and "fresh_machine.sh SUITE" in done.stderr
    done = machine.run("fresh_machine.sh", "trixie")
    assert done.returncode == 1 and "apt-get install mmdebstrap" in done.stderr
    machine.stub("id", "echo 1000")
    done = machine.run("fresh_machine.sh", "trixie")
    assert done.returncode == 1 and "needs root" in done.stderr
