from itertools import pairwise

import numpy as np
import pytest
from actquant_runtime import dequantize, quantize, quantize_with_feedback

from actquant.calibration.sampling import column_spans
from actquant.common.errors import QuantizationError
from actquant.encoders.feedback import (
    diagonal,
    encode_with_feedback,
    factor_inverse,
    output_error,
)
from actquant.format.tensor_types import row_bytes

WITHIN_BLOCKS = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K"),
    *("IQ4_XS", "Q4_K", "IQ4_NL"),
)
"""Types whose levels and grid entries are chosen inside a block, with feedback."""
AS_GGML_CHOOSES = ("Q4_0", "Q5_0", "Q5_K", "Q6_K", "Q8_0")


@pytest.fixture(scope="module")
def layer() -> tuple[np.ndarray, np.ndarray]:
    """A weight [24, 512] and the second moments of inputs that are far from independent."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.05, (24, 512)).astype(np.float32)
    mixed = rng.normal(size=(512, 512)) / np.sqrt(512) + 0.3 * np.eye(512)
    inputs = rng.normal(size=(2048, 512)) @ mixed
    return weight, inputs.T @ inputs / len(inputs)


def lost(weight: np.ndarray, decoded: np.ndarray, moments: np.ndarray) -> float:
    """The mean squared error of the layer's outputs."""
    difference = weight.astype(np.float64) - decoded
    return float(np.einsum("rc,cd,rd->", difference, moments, difference))


@pytest.mark.parametrize("type_name", [*WITHIN_BLOCKS, *AS_GGML_CHOOSES])
def test_the_layers_outputs_come_closer_than_with_ggmls_encoder(layer, type_name: str):
    weight, moments = layer
    data = quantize_with_feedback(weight, type_name, factor_inverse(moments))
    plain = dequantize(quantize(weight, type_name, np.ones_like(weight)), type_name, 512)
    share = 0.7 if type_name in WITHIN_BLOCKS else 0.85
    assert lost(weight, dequantize(data, type_name, 512), moments) < share * lost(
        weight, plain, moments
    )


@pytest.mark.parametrize("type_name", WITHIN_BLOCKS)
def test_without_anything_to_feed_back_every_weight_gets_its_nearest_value(layer, type_name: str):
    """Whatever was written into the wrong bits of a block would be far off."""
    weight, _ = layer
    identity = np.eye(512, dtype=np.float32)
    found = dequantize(quantize_with_feedback(weight, type_name, identity), type_name, 512)
    plain = dequantize(quantize(weight, type_name, np.ones_like(weight)), type_name, 512)
    assert np.square(weight - found).sum() < 1.02 * np.square(weight - plain).sum()


@pytest.mark.parametrize(
    "type_name", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ3_S", "Q2_K", "IQ4_NL", "Q6_K"]
)
def test_any_number_of_threads_gives_the_same_bytes(layer, type_name: str):
    weight, moments = layer
    factor = factor_inverse(moments)
    one, *others = (quantize_with_feedback(weight, type_name, factor, n) for n in (1, 2, 3, 7))
    assert all(np.array_equal(one, other) for other in others)
    rows = [quantize_with_feedback(row[None], type_name, factor, 1) for row in weight]
    np.testing.assert_array_equal(one, np.concatenate(rows))


@pytest.mark.parametrize("columns", [8, 300])
def test_rows_are_padded_and_padding_takes_nothing_from_the_rest(layer, columns: int):
    weight, moments = (part[..., :columns] for part in layer)
    moments = moments[:columns]
    for type_name in ("IQ2_XXS", "IQ3_S", "Q2_K", "Q8_0"):
        data = quantize_with_feedback(weight, type_name, factor_inverse(moments))
        assert data.shape == (24, row_bytes(columns, type_name))
        plain = quantize(weight, type_name, np.ones_like(weight))
        after, before = (
            lost(weight, dequantize(d, type_name, columns), moments) for d in (data, plain)
        )
        assert after <= before


def test_inputs_that_never_came_make_up_for_nothing(layer):
    weight, moments = layer
    seen = moments.copy()
    seen[100:] = seen[:, 100:] = 0
    found = encode_with_feedback("blk.q", weight, "Q4_K", [seen], np.ones_like(weight))
    assert 0 < found.error < 0.1 and found.guided
    np.testing.assert_array_equal(factor_inverse(np.zeros((4, 4))), np.eye(4))


def test_what_is_not_finite_is_named(layer):
    weight, moments = layer
    bad = moments.copy()
    bad[3, 3] = np.nan
    with pytest.raises(QuantizationError, match="blk.q: the second moments hold NaN"):
        encode_with_feedback("blk.q", weight, "Q4_K", [bad], weight)
    bad = weight.copy()
    bad[1, 2] = np.inf
    with pytest.raises(QuantizationError, match="blk.q: the weight holds NaN"):
        encode_with_feedback("blk.q", bad, "Q4_K", [moments], weight)
    with pytest.raises(ValueError, match=r"factor\[1, 1\] is not a positive number"):
        quantize_with_feedback(weight[:, :2], "Q4_K", np.diag([1.0, 0.0]))
    with pytest.raises(ValueError, match="factor must be"):
        quantize_with_feedback(weight, "Q4_K", np.eye(3))
    with pytest.raises(ValueError, match="F16 has no blocks"):
        quantize_with_feedback(weight, "F16", np.eye(512))


def test_spans_of_columns_are_encoded_apart(layer):
    weight, _ = layer
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(1024, 256)) @ (rng.normal(size=(256, 256)) / 16 + np.eye(256))
    moments, nothing = inputs.T @ inputs / len(inputs), np.zeros((256, 256))
    whole = np.block([[moments, nothing], [nothing, moments]])
    one, two = (
        encode_with_feedback("blk.q", weight, "Q2_K", spans, np.ones_like(weight))
        for spans in ([whole], [moments, moments])
    )
    np.testing.assert_array_equal(one.tensor.data, two.tensor.data)
    assert one.error == pytest.approx(two.error)
    np.testing.assert_array_equal(diagonal([moments, moments]), diagonal([whole]))
    assert output_error(weight, [moments, moments]) == pytest.approx(output_error(weight, [whole]))


@pytest.mark.parametrize("columns", [1024, 4096, 4304, 16384])
def test_spans_are_whole_blocks_and_cover_all_columns(columns: int):
    spans = column_spans(columns)
    assert spans[0].start == 0 and spans[-1].stop == columns
    assert all(a.stop == b.start and a.stop % 256 == 0 for a, b in pairwise(spans))
    assert max(span.stop - span.start for span in spans) <= 4096
    assert len(spans) == -(-columns // 4096)
