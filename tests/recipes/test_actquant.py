import numpy as np
import pytest

import actquant.recipes.actquant as recipe
from actquant.allocation.budget import TensorSize


class Collected:
    """Statistics of one matrix."""

    def __init__(self, rows: int, columns: int) -> None:
        rng = np.random.default_rng(0)
        scale = np.exp(rng.normal(0, 1, (rows, 1)))
        self.jacobian = (scale * rng.random((rows, columns)) ** 4).astype(np.float32)

    def holds(self, tensor: str, statistic: str) -> bool:
        return False

    def of(self, tensor: str, statistic: str):
        moments = np.eye(self.jacobian.shape[1])
        return {"action_jacobian": self.jacobian, "second_moments": moments}


def test_errors_of_every_fourth_row_are_those_of_all(monkeypatch):
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (512, 256)) * np.exp(rng.normal(0, 0.5, (512, 1)))
    size = TensorSize("blk", 512, 256, "language.0")
    found = []
    for weights in (512 * 256, 128 * 256):
        monkeypatch.setattr(recipe, "MEASURED_WEIGHTS", weights)
        statistics = Collected(512, 256)
        found.append(recipe.measure_errors(size, weight.astype(np.float32), statistics))
    whole, sampled = found
    assert whole.keys() == sampled.keys() and len(whole) > 10
    for name, error in whole.items():
        assert sampled[name] == pytest.approx(error, rel=0.1)
    ordered = [whole[name] for name in ("IQ1_S", "IQ2_XS", "IQ3_XXS", "Q4_K", "Q6_K", "Q8_0")]
    assert ordered == sorted(ordered, reverse=True)
