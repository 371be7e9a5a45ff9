"""The memory that `inspect` predicts is what a process of `bench` takes."""

import pytest
from tiny_policies import build_tiny_smolvla

from actquant.common.errors import EvaluationError
from actquant.compression.pipeline import compress
from actquant.evaluation.bench import measure, predict_memory
from actquant.evaluation.inspection import inspect_model


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


def test_what_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(EvaluationError, match="cannot be opened"):
        predict_memory(tmp_path / "m.gguf")
