"""Scaled inputs: which there are, and that the policy computes the same with them."""

from pathlib import Path

import numpy as np
import pytest
from tiny_families import build_tiny, loading

from actquant.capture.input_scales import scalable_inputs
from actquant.capture.policy import capture_policy, convert_f32, quantizable
from actquant.compression.folding import fold
from actquant.fidelity.parity import check_parity
from actquant.format.encoding import matrix_shape
from actquant.policies import load_policy

FAMILIES = {"smolvla": 0.5, "pi05": 0.3, "xvla": 0.25}
"""Family -> share of its linear layers whose inputs can be scaled at least. Where norms come after
the residual sum, as in ACT, there is none."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_computes_the_same_with_its_inputs_scaled(family, tmp_path: Path):
    build_tiny(family, tmp_path / "tiny")
    with loading(family):
        loaded = load_policy(tmp_path / "tiny", control_rate_hz=10)
    captured = capture_policy(loaded)
    names = [tensor.name for tensor in quantizable(loaded)]
    inputs = scalable_inputs(captured, names)
    layers = [name for scaled in inputs for name in scaled.layers]
    assert len(set(layers)) == len(layers) >= FAMILIES[family] * len(names)
    rng = np.random.default_rng(0)

    def scales(scaled):
        columns = matrix_shape(captured.params.shape(scaled.layers[0]))[1]
        return np.exp(rng.normal(0, 0.7, columns)).astype(np.float32)

    folding = fold(captured, inputs, scales)
    values = dict(folding.values)
    for name in {*folding.columns, *folding.rows}:
        weight = captured.params[name].detach().numpy()
        values[name] = folding.weight(name, weight)
        assert not np.allclose(values[name], weight, rtol=0.1)
    path = convert_f32(loaded, tmp_path / "scaled.gguf", values)
    check_parity(path, loaded, n=1)  # raises ParityError
