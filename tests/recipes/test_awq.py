import actquant_runtime
import numpy as np
import pytest

from actquant.encoders.blocks import encode
from actquant.recipes.awq import AWQ, scale_inputs
from actquant.recipes.recipe import Layer, Recipe

TYPE = "Q2_K"


class Collected:
    """Second moments of inputs of which a few columns are large."""

    def __init__(self, size: np.ndarray) -> None:
        self.matrix = np.diag(size.astype(np.float64) ** 2)

    def moments(self, tensor: str) -> list[np.ndarray]:
        return [self.matrix]


def loss(weight: np.ndarray, scales: np.ndarray, moments: np.ndarray) -> float:
    data = encode("blk", weight * scales, TYPE).tensor.data
    decoded = actquant_runtime.dequantize(data, TYPE, weight.shape[1]) / scales
    return float((((weight - decoded) @ moments) * (weight - decoded)).sum())


@pytest.fixture
def layers() -> list[Layer]:
    rng = np.random.default_rng(0)
    shapes = {"q": (64, 256), "k": (16, 256)}
    return [
        Layer(name, rng.normal(0, 1, shape).astype(np.float32), TYPE)
        for name, shape in shapes.items()
    ]


def test_columns_with_large_inputs_are_scaled_up_and_lose_less(layers):
    size = np.where(np.arange(256) % 32 == 0, 20.0, 0.2)
    collected = Collected(size)
    scales = scale_inputs(layers, collected)
    assert scales.shape == (256,) and scales.dtype == np.float32
    assert scales[size > 1].min() > 1.5 * scales[size < 1].max()
    for layer in layers:
        ones = np.ones(256, np.float32)
        scaled, plain = (loss(layer.weight, s, collected.matrix) for s in (scales, ones))
        assert scaled < 0.8 * plain


@pytest.mark.parametrize("size", [0.0, 3.0])
def test_inputs_of_one_size_are_left_alone(layers, size):
    np.testing.assert_array_equal(scale_inputs(layers, Collected(np.full(256, size))), 1)


def test_a_recipe_that_scales_inputs_is_not_tuned():
    with pytest.raises(ValueError, match="both: tuning knows the policy's own norms only"):
        Recipe(
            name="both", summary="", allocate=AWQ.allocate, scale_inputs=scale_inputs, tuned=True
        )
