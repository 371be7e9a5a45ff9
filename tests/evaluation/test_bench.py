"""The memory that `inspect` predicts is what a process of `bench` takes."""

import pytest
from actquant_runtime import Runtime
from tiny_policies import build_tiny_smolvla

from actquant.common.errors import EvaluationError
from actquant.compression.pipeline import compress
from actquant.evaluation.bench import measure, predict_memory, profile
from actquant.evaluation.inspection import inspect_model
from actquant.format.model_file import read_model


@pytest.mark.parametrize("hidden", [128, 768])
def test_peak_memory_is_predicted_within_five_percent(hidden, tmp_path):
    policy = build_tiny_smolvla(tmp_path / "policy", hidden=hidden, layers=4)
    out = tmp_path / "m.gguf"
    compress(policy, out, recipe="f16", control_rate_hz=10, verify="none")
    predicted = inspect_model(out).memory
    assert predicted is not None
    measured = measure(out, n=2, threads=1)
    assert predicted.peak_rss_bytes == pytest.approx(measured.peak_rss_bytes, rel=0.05)
    assert predicted.weights_bytes < out.stat().st_size


def test_a_profile_counts_every_product(tmp_path):
    policy = build_tiny_smolvla(tmp_path / "policy", hidden=256)
    out = tmp_path / "m.gguf"
    compress(policy, out, recipe="rtn", bpw=4.5, control_rate_hz=10, verify="none")
    found = profile(out, runs=2, threads=1)
    assert found.reach_per_s["f32"] > 0 and found.reach_per_s["memory"] > 0
    model = read_model(out)
    nodes = model.graph("vision").nodes()
    layers = [node for node in nodes if node.op == "linear" and not node.host]
    counted = [c for c in found.operators if (c.stage, c.op) == ("vision", "linear")]
    cameras = len(Runtime(str(out)).describe()["cameras"])
    assert sum(c.calls for c in counted) == cameras * len(layers)
    assert sum(c.operations for c in counted) == cameras * sum(
        2 * node.size * node.inputs[0].shape[-1] for node in layers
    )
    for cost in found.operators:
        assert cost.calls > 0 and cost.ms >= 0 and cost.least_ms >= 0
        assert cost.kernel in ("ggml", *found.reach_per_s)
    assert {stage.stage for stage in found.stages} == {"vision", "prefix", "denoise"}


def test_what_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(EvaluationError, match="cannot be run"):
        predict_memory(tmp_path / "m.gguf")
