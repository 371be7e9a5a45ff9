"""The binding's own promises: its stub is current, and it brings no torch."""

import subprocess
import sys
from pathlib import Path

import actquant_runtime
from policy_files import write_policy


def test_stub_is_what_nanobind_generates(tmp_path):
    fresh = tmp_path / "_core.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q"]
    subprocess.run([*command, "-m", "actquant_runtime._core", "-o", fresh], check=True)
    stub = Path(actquant_runtime.__file__).with_name("_core.pyi")
    assert stub.read_text() == fresh.read_text()


def test_torch_is_never_imported(tmp_path):
    path = write_policy(tmp_path / "tiny.gguf")
    code = (
        "import sys; from actquant_runtime import Runtime, golden_observation;"
        f"runtime = Runtime({str(path)!r});"
        "observation, noise = golden_observation(runtime.describe(), 1, 'push');"
        "runtime.act(observation, noise=noise); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_build_info_names_what_was_built():
    info = actquant_runtime.build_info()
    assert info["ggml_version"] and info["hardware_threads"] >= 1
    assert "LLAMAFILE" in info["cpu_features"]
