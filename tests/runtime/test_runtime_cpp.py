"""The tests in C++, each a program that ends with 0, or says which line does not hold."""

import subprocess
from pathlib import Path

import pytest
from native_build import ROOT, newest_build

TESTS = sorted(path.stem for path in (ROOT / "runtime/tests").glob("test_*.cpp"))


@pytest.mark.parametrize("name", TESTS)
def test_program_passes(name: str, tmp_path: Path):
    program = newest_build(f"runtime/tests/{name}")
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_there_are_programs():
    assert {"test_c_api", "test_threads"} <= set(TESTS)
