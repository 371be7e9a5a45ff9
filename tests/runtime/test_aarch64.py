"""The runtime for 64-bit Arm: compiled here, run by QEMU as processors of several kinds."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from native_build import ROOT, newest_build
from tiny_policies import build_tiny_smolvla

from actquant.compression.pipeline import compress

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the other tests run the kernels themselves"
)
BUILD = ROOT / "build/cross/aarch64"  # not where tests look for what runs here
EMULATOR = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
KERNEL_TESTS = ["test_attention", "test_panel_product", "test_row_kernels"]
TARGETS = [*KERNEL_TESTS, "test_threads", "actquant-run", "actquant-bench"]


@pytest.fixture(scope="module")
def build() -> Path:
    """Builds into a folder that stays, so that only what changed is compiled again."""
    for program in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        assert shutil.which(program), (
            f"{program} is missing; scripts/system_packages.sh --for-tests installs it"
        )
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=OFF", "-DACTQUANT_BUILD_PYTHON=OFF"]
    options += ["-DACTQUANT_BUILD_TESTS=ON", f"-DPython_EXECUTABLE={ROOT / '.venv/bin/python'}"]
    options += [f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'runtime/cmake/aarch64-linux-gnu.cmake'}"]
    (ggml,) = newest_build("ggml-source").glob("*/vendor/llama.cpp/ggml")
    options += [f"-DGGML_SOURCE_DIR={ggml}"]
    for command in (
        ["cmake", "-S", ROOT, "-B", BUILD, *options],
        ["cmake", "--build", BUILD, "--parallel", "2", "--target", *TARGETS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return BUILD / "runtime"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a program as a kind of processor, in a folder of its own: some write files."""
    return partial(run_in, tmp_path)


def run_in(folder: Path, program: Path, *arguments: object, processor: str) -> str:
    environment = {**os.environ, "QEMU_CPU": processor}
    command = [*EMULATOR, str(program), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{processor}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_every_kernel_is_as_exact_as_elsewhere(build: Path, run):
    tried = "".join(run(build / "tests" / name, processor="max") for name in KERNEL_TESTS)
    assert "neon_dot" in tried and "neon_i8mm" in tried


def test_threads_share_the_work(build: Path, run):
    run(build / "tests/test_threads", processor="max")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with products for our kernels, and golden values made here."""
    folder = tmp_path_factory.mktemp("aarch64")
    checkpoint = build_tiny_smolvla(folder / "tiny", hidden=256)
    compress(checkpoint, folder / "p.gguf", recipe="rtn", bpw=4.5, control_rate_hz=10)
    return folder / "p.gguf"


@pytest.mark.parametrize(
    ("processor", "kernels"),
    [("max", "neon_i8mm"), ("cortex-a76", "neon_dot"), ("cortex-a53", "baseline")],
)
def test_a_policy_acts_as_where_it_was_made(build, run, policy, processor: str, kernels: str):
    tools = build / "tools"
    assert "passed" in run(tools / "actquant-run", policy, "--golden", processor=processor)
    told = run(tools / "actquant-bench", policy, "--runs", 1, "--json", processor=processor)
    assert json.loads(told)["kernels"] == kernels
