import numpy as np
import pytest

import actquant.recipes.actquant as recipe
from actquant.allocation.budget import TensorSize
from actquant.calibration import sampling


class Collected:
    """Statistics of one matrix."""

    def __init__(self, rows: int, columns: int) -> None:
        rng = np.random.default_rng(0)
        scale = np.exp(rng.normal(0, 1, (rows, 1)))
        self.jacobian = (scale * rng.random((rows, columns)) ** 4).astype(np.float32)
        self.rows: np.ndarray | None = None

    def only(self, rows: np.ndarray) -> "Collected":
        """Returns what is collected of a matrix of which some rows stand for all."""
        sampled = Collected(*self.jacobian.shape)
        sampled.jacobian, sampled.rows = self.jacobian[rows], rows
        return sampled

    def holds(self, tensor: str, statistic: str) -> bool:
        return False

    def moments(self, tensor: str, statistic: str) -> list[np.ndarray]:
        assert statistic == "guided_moments"
        return [np.eye(self.jacobian.shape[1])]

    def of(self, tensor: str, statistic: str) -> dict[str, np.ndarray]:
        assert statistic == "action_jacobian"
        rows = {} if self.rows is None else {"rows": self.rows}
        return {"action_jacobian": self.jacobian, **rows}


def test_errors_of_some_rows_are_those_of_all(monkeypatch):
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (512, 256)) * np.exp(rng.normal(0, 0.5, (512, 1)))
    size = TensorSize("blk", 512, 256, "language.0")
    weight, statistics = weight.astype(np.float32), Collected(512, 256)
    whole = recipe.measure_errors(size, weight, statistics)
    monkeypatch.setattr(recipe, "SAMPLED_WEIGHTS", 128 * 256)
    sampled = recipe.measure_errors(size, weight, statistics)
    monkeypatch.setattr(sampling, "SAMPLED_WEIGHTS", 128 * 256)
    rows = sampling.sampled_rows(512, 256)
    assert rows is not None and len(rows) == 128
    stood_for = recipe.measure_errors(size, weight, statistics.only(rows))
    assert whole.keys() == sampled.keys() == stood_for.keys() and len(whole) > 10
    for name, error in whole.items():
        assert sampled[name] == pytest.approx(error, rel=0.1)
        # nothing is known of what the other rows have to lose: a factor that all types share
        assert stood_for[name] / stood_for["Q2_K"] == pytest.approx(error / whole["Q2_K"], rel=0.1)
    assert stood_for["Q2_K"] == pytest.approx(whole["Q2_K"], rel=0.4)
    ordered = [whole[name] for name in ("IQ1_S", "IQ2_XS", "IQ3_XXS", "Q4_K", "Q6_K", "Q8_0")]
    assert ordered == sorted(ordered, reverse=True)
