"""A processor that lacks what the runtime was built for is told so, and the process goes on.

QEMU plays the processor: a Nehalem of 2008, which has no AVX.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import actquant_runtime._core as native
import pytest
from native_build import newest_build
from policy_files import write_policy

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="every 64-bit Arm processor has what a build needs"
)
LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""


def on_a_nehalem(*command: object) -> subprocess.CompletedProcess[str]:
    emulator = shutil.which("qemu-x86_64")
    assert emulator, (
        "qemu-x86_64 is missing; scripts/system_packages.sh --for-tests installs qemu-user"
    )
    whole = [emulator, "-cpu", "Nehalem", *map(str, command)]
    return subprocess.run(whole, capture_output=True, text=True, timeout=120, check=False)


def test_a_program_that_opens_a_policy_is_told(tmp_path: Path):
    path = write_policy(tmp_path / "tiny.gguf")
    done = on_a_nehalem(newest_build("runtime/tools/actquant-run"), path, "--golden")
    assert done.returncode == 1, done.stderr
    assert "this machine lacks: AVX AVX2 FMA" in done.stderr


def test_python_is_told_when_it_loads_the_module():
    done = on_a_nehalem(sys.executable, "-S", "-E", "-c", LOAD, native.__file__)
    assert done.returncode == 1
    assert "ImportError" in done.stderr and "this machine lacks: AVX AVX2 FMA" in done.stderr
