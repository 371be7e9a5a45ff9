"""libactquant as a C program gets it: installed, compiled against, linked."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from actquant_runtime import Runtime
from native_build import ROOT, newest_build
from policy_files import CHUNK, HEIGHT, WIDTH, write_policy

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(robot LANGUAGES C)
find_package(actquant 0.1 REQUIRED)
add_executable(act act.c)
target_link_libraries(act PRIVATE actquant::actquant)
"""


def tool(name: str) -> str:
    """A program of the toolchain that built the runtime."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not on the PATH; scripts/system_packages.sh installs it"
    return found


def check(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = newest_build("runtime/library/libactquant.so").parents[2]
    prefix = tmp_path_factory.mktemp("prefix")
    check(tool("cmake"), "--install", build, "--component", "actquant_c", "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def library(installed: Path) -> Path:
    (path,) = installed.rglob("libactquant.so")
    return path


@pytest.fixture(scope="module")
def program(library: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("program") / "act"
    where = [f"-I{installed / 'include'}", f"-L{library.parent}", f"-Wl,-rpath,{library.parent}"]
    source = Path(__file__).with_name("act.c")
    check(tool("cc"), *STRICT, source, "-o", target, *where, "-lactquant")
    return target


def test_a_c_program_gets_the_actions_of_the_python_face(program, tmp_path):
    path = write_policy(tmp_path / "tiny.gguf")
    image = (7 * np.arange(HEIGHT * WIDTH * 3)).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    frame = {
        "observation.images.scene": image,
        "observation.images.wrist": image,
        "observation.state": np.array([0.25, -0.5, 1.0], np.float32),
        "task": "push the red cube",
    }
    lines = check(program, path, 7).split()
    actions = np.array(lines, np.float32).reshape(CHUNK, -1)
    np.testing.assert_array_equal(actions, Runtime(path, threads=1).act(frame, seed=7))


def test_a_c_program_reads_what_is_wrong(program, tmp_path):
    done = subprocess.run([program, tmp_path / "absent.gguf", "1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "open: cannot open the model file" in done.stderr and "absent.gguf" in done.stderr
    path = write_policy(tmp_path / "damaged.gguf")
    path.write_bytes(path.read_bytes().replace(b"actquant", b"act\xff\xc8ant", 1))
    done = subprocess.run([program, path, "1"], capture_output=True)
    assert "the text of the key 'general.architecture' is no UTF-8" in done.stderr.decode()


def test_a_cmake_project_finds_the_package(installed, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    shutil.copy(Path(__file__).with_name("act.c"), tmp_path)
    cmake, build = tool("cmake"), tmp_path / "build"
    check(cmake, "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={installed}")
    check(cmake, "--build", build)
    done = subprocess.run([build / "act"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr


def test_nothing_but_the_interface_is_exported(library):
    header = (ROOT / "runtime/include/actquant.h").read_text()
    declared = set(re.findall(r"AQ_API [^;(]*?(aq_\w+)\(", header))
    lines = check(tool("nm"), "--dynamic", "--defined-only", library).splitlines()
    assert {line.split()[-1] for line in lines} == declared
    assert {"aq_open", "aq_describe", "aq_act", "aq_close", "aq_last_error"} <= declared


def test_the_licences_of_what_is_inside_come_with_it(installed):
    names = {path.name for path in (installed / "share/licenses/actquant").iterdir()}
    assert names == {"LICENSE.ggml", "LICENSE.json", "LICENSE.xxhash"}


def test_the_library_needs_nothing_of_the_build_folder(library):
    done = check(tool("readelf"), "--dynamic", library)
    assert "RUNPATH" not in done and "RPATH" not in done
    assert f"Library soname: [{os.path.basename(os.readlink(library))}]" in done
