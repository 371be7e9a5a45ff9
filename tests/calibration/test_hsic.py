import numpy as np
import pytest

from actquant.calibration.hsic import (
    HsicScorer,
    center,
    hsic,
    linear_kernel,
    rbf_kernel,
    standardize,
)
from actquant.common.errors import CalibrationError


def brute_force_hsic(kernel_a: np.ndarray, kernel_b: np.ndarray) -> float:
    n = len(kernel_a)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(kernel_a @ h @ kernel_b @ h) / (n - 1) ** 2)


def brute_force_rbf(a: np.ndarray, sigma: float) -> np.ndarray:
    n, d = a.shape
    kernel = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            kernel[i, j] = np.exp(-np.sum((a[i] - a[j]) ** 2) / (2 * sigma**2 * d))
    return kernel


def test_hsic_is_the_trace_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    expected = brute_force_hsic(brute_force_rbf(a, 5.0), b @ b.T)
    assert hsic(rbf_kernel(a, 5.0), center(linear_kernel(b))) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(rbf_kernel(a, 0.7), brute_force_rbf(a, 0.7), atol=1e-12)


def test_the_median_heuristic_squares_a_squared_distance():
    a = np.array([[0.0], [1.0], [3.0]])  # squared distances 1, 4, 9; median 4
    assert rbf_kernel(a, None)[0, 2] == pytest.approx(np.exp(-9 / (2 * 4**2)))
    assert np.isfinite(rbf_kernel(np.zeros((4, 2)), None)).all()


def test_independent_variables_score_about_nothing_and_dependent_ones_do():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(400, 2))
    kernel_a = rbf_kernel(a, 1.0)

    def with_other(b: np.ndarray) -> float:
        return hsic(kernel_a, center(linear_kernel(standardize(b))))

    independent = with_other(rng.normal(size=(400, 2)))
    assert with_other(a) > 30 * independent > 0
    assert with_other(np.ones((400, 2))) == pytest.approx(0, abs=1e-12)
    # A dependence without correlation needs a kernel that is not linear.
    squared = standardize(a[:, :1] ** 2)
    assert hsic(rbf_kernel(a[:, :1], 1.0), center(linear_kernel(squared))) > 20 * independent


def test_scores_combine_both_sides_and_negatives_count_as_nothing():
    rng = np.random.default_rng(2)
    n = 60
    x, y = rng.normal(size=(n, 4)), rng.normal(size=(n, 2))
    scorer = HsicScorer(x, y, sigma=1.0)
    t = scorer.score(x, np.hstack([y, y]))
    assert t.F_out == pytest.approx(t.hsic_y_out - t.hsic_x_out)
    assert t.sens == pytest.approx(t.F_out - (t.hsic_y_in - t.hsic_x_in))
    assert t.score("sens") > t.score("F_out") * 0.5 > 0
    assert scorer.score(x, x).sens == 0
    weighted = HsicScorer(x, y, sigma=1.0, lambda_x=100.0).score(x, x)
    assert weighted.F_out < 0 and weighted.score("F_out") == 0
    with pytest.raises(CalibrationError, match="too few"):
        HsicScorer(x[:2], y[:2])
