"""Kernels are chosen when a policy is opened; which ones changes actions by rounding alone."""

from pathlib import Path

import actquant_runtime
import numpy as np
import pytest
from actquant_runtime import Runtime, golden_observation
from tiny_policies import build_tiny_smolvla

from actquant.compression.pipeline import compress


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same policy in blocks of 2 to 4 bits, and in f32; layers of 256."""
    folder = tmp_path_factory.mktemp("kernels")
    checkpoint = build_tiny_smolvla(folder / "tiny", hidden=256)
    files = {}
    for recipe, bpw in (("rtn", 4.5), ("f32", None)):
        files[recipe] = folder / f"{recipe}.gguf"
        compress(checkpoint, files[recipe], recipe=recipe, bpw=bpw, control_rate_hz=10)
    return files


def actions(file: Path, threads: int = 1) -> np.ndarray:
    runtime = Runtime(str(file), threads=threads)
    observation, noise = golden_observation(runtime.describe(), seed=3)
    return runtime.act(observation, noise=noise)


def available() -> list[str]:
    best = actquant_runtime.build_info()["kernels"]
    sets = ["ggml", "baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16"]
    return sets[: sets.index(best) + 1] if best in sets else ["ggml", "baseline", "avx2", best]


def test_kernels_change_actions_by_rounding_alone(files, monkeypatch):
    found = {}
    for isa in available():
        monkeypatch.setenv("ACTQUANT_ISA", isa)
        assert actquant_runtime.build_info()["kernels"] == isa
        found[isa] = actions(files["rtn"])
    spread = np.std(found["ggml"])
    for isa, result in found.items():
        distance = np.sqrt(np.mean((result - found["ggml"]) ** 2)) / spread
        assert distance < 0.05, (isa, distance)
    if "avx2" in found:  # other kernels did run
        assert not np.array_equal(found["avx2"], found["ggml"])


def test_a_file_in_f32_is_not_rounded(files, monkeypatch):
    exact = {}
    for isa in available():
        monkeypatch.setenv("ACTQUANT_ISA", isa)
        exact[isa] = actions(files["f32"])
    for result in exact.values():
        np.testing.assert_allclose(result, exact["ggml"], atol=1e-5 * np.std(exact["ggml"]))


def test_actions_do_not_depend_on_the_number_of_threads(files):
    np.testing.assert_array_equal(actions(files["rtn"], 1), actions(files["rtn"], 3))


def test_an_unknown_instruction_set_is_refused_by_name(files, monkeypatch):
    monkeypatch.setenv("ACTQUANT_ISA", "sse9")
    with pytest.raises(actquant_runtime.ArgumentError, match="ACTQUANT_ISA is 'sse9'; there are"):
        Runtime(str(files["f32"]))
