"""ggml's encoders through the binding."""

import threading
import time

import numpy as np
import pytest
from actquant_runtime import ArgumentError, dequantize, quantize, types

# Relative rms error on N(0, 1) weights, without preference between them: an upper bound.
ERROR_BOUNDS = {
    "F32": 0, "F16": 3e-4, "BF16": 2.5e-3, "Q8_0": 0.007, "Q6_K": 0.02, "Q5_1": 0.038,
    "Q5_K": 0.04, "Q5_0": 0.045, "Q4_1": 0.078, "Q4_K": 0.08, "Q4_0": 0.092, "IQ4_NL": 0.083,
    "IQ4_XS": 0.083, "Q3_K": 0.17, "IQ3_S": 0.155, "IQ3_XXS": 0.21, "Q2_K": 0.31, "IQ2_S": 0.29,
    "IQ2_XS": 0.34, "IQ2_XXS": 0.38, "IQ1_M": 0.5, "IQ1_S": 0.54,
}  # fmt: skip


def normal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def relative_error(weights, type_name, importance=None, weighting=None) -> float:
    if importance is None:
        importance = np.ones_like(weights)
    decoded = dequantize(quantize(weights, type_name, importance), type_name, weights.shape[1])
    weighting = 1 if weighting is None else weighting
    return np.sqrt((weighting * (weights - decoded) ** 2).sum() / (weighting * weights**2).sum())


def test_every_type_has_a_bound():
    assert set(types()) == set(ERROR_BOUNDS)


@pytest.mark.parametrize("type_name", ERROR_BOUNDS)
def test_error_is_bounded_and_real(type_name):
    error = relative_error(normal(16, 512), type_name)
    assert error <= ERROR_BOUNDS[type_name]
    assert error >= 0.5 * ERROR_BOUNDS[type_name]


def test_more_bits_mean_less_error():
    """Within each family of formats."""
    weights = normal(16, 512)
    for family in (
        ["F32", "F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"],
        ["IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"],
        ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"],
    ):
        bits = [types()[name]["bits_per_weight"] for name in family]
        errors = [relative_error(weights, name) for name in family]
        assert bits == sorted(bits, reverse=True) and errors == sorted(errors)


@pytest.mark.parametrize(
    "type_name",
    ["Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M",
     "IQ1_S"],
)  # fmt: skip
def test_importance_of_single_weights_lowers_the_weighted_error(type_name):
    weights = normal(8, 512)
    importance = np.random.default_rng(1).exponential(size=weights.shape).astype(np.float32) ** 3
    weighted = relative_error(weights, type_name, importance, importance)
    assert weighted < relative_error(weights, type_name, weighting=importance)


@pytest.mark.parametrize("factor", [1e-25, 1e20])
@pytest.mark.parametrize("type_name", ["IQ2_XS", "Q3_K"])
def test_only_the_ratio_of_importances_matters(type_name, factor):
    weights = normal(8, 512)
    importance = np.random.default_rng(1).exponential(size=weights.shape).astype(np.float32)
    scaled = (importance.astype(np.float64) * factor).astype(np.float32)
    a = dequantize(quantize(weights, type_name, importance), type_name, 512)
    b = dequantize(quantize(weights, type_name, scaled), type_name, 512)
    # Rounding in f32 may turn a few near ties.
    assert np.mean(a != b) < 0.01


def test_rows_are_padded_with_zeros():
    for name, info in types().items():
        weights = normal(3, 300)
        data = quantize(weights, name, np.ones_like(weights))
        blocks = -(-300 // info["block_size"])
        assert data.shape == (3, blocks * info["type_size"]) and data.dtype == np.uint8
        decoded = dequantize(data, name, 300)
        assert decoded.shape == (3, 300)
        padded = np.pad(weights, ((0, 0), (0, blocks * info["block_size"] - 300)))
        # Zeros that fill a row up count next to nothing.
        filled = ((0, 0), (0, padded.shape[1] - 300))
        importance = np.pad(np.ones_like(weights), filled, constant_values=1e-8)
        np.testing.assert_array_equal(data, quantize(padded, name, importance))


def test_rows_do_not_influence_each_other_and_threads_change_nothing():
    weights, importance = normal(9, 256), np.abs(normal(9, 256, seed=1))
    for name in ("IQ2_XS", "IQ3_S", "Q2_K", "Q8_0"):
        together = quantize(weights, name, importance, threads=3)
        np.testing.assert_array_equal(together, quantize(weights, name, importance, threads=1))
        alone = [quantize(weights[k : k + 1], name, importance[k : k + 1]) for k in range(9)]
        np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("type_name", ERROR_BOUNDS)
def test_degenerate_rows(type_name):
    weights = normal(6, 512)
    weights[0] = 0
    weights[1, 256:] = 0
    weights[2] = 1
    weights[3] *= 1e-6
    importance = np.ones_like(weights)
    importance[3:5] = 1e-6
    importance[5, :300] = 1e-6
    decoded = dequantize(quantize(weights, type_name, importance), type_name, 512)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded[0]).max() == 0
    assert np.sqrt(np.mean((decoded[2] - 1) ** 2)) < 0.5


def test_unfit_arguments_are_refused():
    weights = normal(2, 256)
    with pytest.raises(ArgumentError, match="there is no quantization type 'Q9'.*Q8_0"):
        quantize(weights, "Q9")
    with pytest.raises(ArgumentError, match="IQ2_XS needs an importance"):
        quantize(weights, "IQ2_XS")
    with pytest.raises(ArgumentError, match="shape of weights"):
        quantize(weights, "Q4_K", np.ones((1, 256)))
    for bad in (np.nan, np.inf):
        broken = weights.copy()
        broken[1, 7] = bad
        with pytest.raises(ArgumentError, match=r"weights\[1, 7\] is not finite"):
            quantize(broken, "Q8_0")
        with pytest.raises(ArgumentError, match=r"importance\[1, 7\]"):
            quantize(weights, "Q4_K", np.abs(broken))
    for sign in (-1, 0):
        with pytest.raises(ArgumentError, match=r"importance\[0, 0\] is not a positive number"):
            quantize(weights, "Q4_K", sign * np.ones_like(weights))
    with pytest.raises(ArgumentError, match="weights are empty"):
        quantize(np.zeros((0, 256)), "Q8_0")
    with pytest.raises(ArgumentError, match="rows of 10 bytes do not hold 256 weights"):
        dequantize(np.zeros((1, 10)), "Q8_0", 256)


def test_gil_is_released_while_quantizing():
    weights = normal(512, 2048)
    work = threading.Thread(target=quantize, args=(weights, "IQ2_XS", np.ones_like(weights), 1))
    work.start()
    ticks = 0
    while work.is_alive():
        ticks += 1
        time.sleep(0.001)
    assert ticks > 5
