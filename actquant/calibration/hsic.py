"""How much a tensor matters for the action: the HSIC information bottleneck of ActQuant.

Stage 1 of arXiv:2605.24011. For each linear layer its input and its output, averaged over the
tokens of a frame, are compared over the calibration frames with X, the input of the first block,
and Y, the ground-truth action chunk: F(Z) = -lambda_x HSIC(X, Z) + lambda_y HSIC(Z, Y). The scores
are F_out = F(Z_out) and sens = F(Z_out) - F(Z_in). Everything is float64.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import CalibrationError

SIGMA = 5.0
LAMBDA_X = LAMBDA_Y = 1.0
Score = Literal["F_out", "sens"]
DEFAULT_SCORE: Score = "F_out"
"""The public code's default. `sens` is often negative, and negative scores count as 0."""


def squared_distances(a: np.ndarray) -> np.ndarray:
    """Returns the squared distances of all pairs of rows: a [n, d] -> [n, n]."""
    norms = (a * a).sum(axis=1)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * (a @ a.T), 0.0)


def rbf_kernel(a: np.ndarray, sigma: float | None = SIGMA) -> np.ndarray:
    """Returns exp(-|a_i - a_j|^2 / (2 sigma^2 d)): a [n, d] -> [n, n].

    Without sigma: exp(-D / (2 m^2)) with m the median of the squared distances D (i < j). That
    squares a squared distance, as ActQuant's public code does.
    """
    distances = squared_distances(a)
    if sigma is not None:
        return np.exp(-distances / (2 * sigma**2 * a.shape[1]))
    pairs = distances[np.triu_indices(len(a), 1)]
    median = float(np.median(pairs)) if len(pairs) else 0.0
    if median <= 0:
        median = float(pairs.mean()) if len(pairs) else 0.0
    return np.exp(-distances / (2 * max(median, 1e-2) ** 2))


def linear_kernel(a: np.ndarray) -> np.ndarray:
    """Returns the inner products of all pairs of rows: a [n, d] -> [n, n]."""
    return a @ a.T


def center(kernel: np.ndarray) -> np.ndarray:
    """Returns H K H with H = I - 11'/n."""
    return kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()


def hsic(kernel_a: np.ndarray, centered_b: np.ndarray) -> float:
    """Returns HSIC(A, B) = tr(K_A H K_B H) / (n - 1)^2; kernels [n, n], the second centred."""
    return float((kernel_a * centered_b).sum() / (len(kernel_a) - 1) ** 2)


def standardize(a: np.ndarray) -> np.ndarray:
    """Scales each column of [n, d] to mean 0 and standard deviation 1 (a constant column to 0)."""
    return (a - a.mean(axis=0)) / (a.std(axis=0) + 1e-8)


class TensorScore(BaseModel):
    """HSIC of one tensor's input and output with X and Y, and the two scores made of them."""

    model_config = ConfigDict(extra="forbid")

    hsic_x_in: float
    hsic_y_in: float
    hsic_x_out: float
    hsic_y_out: float
    F_out: float
    sens: float

    def score(self, kind: Score) -> float:
        """Returns the score that allocation uses: never negative."""
        return max(self.F_out if kind == "F_out" else self.sens, 0.0)


class HsicScorer:
    """Scores tensors against X and Y: RBF kernels for activations, a linear one for Y.

    x: [n, d], the input of the first block, averaged per frame; y: [n, H A], the chunks, which are
    standardised here.

    Raises CalibrationError for fewer than four frames.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        sigma: float | None = SIGMA,
        lambda_x: float = LAMBDA_X,
        lambda_y: float = LAMBDA_Y,
    ) -> None:
        if len(x) < 4:
            raise CalibrationError(f"{len(x)} frames are too few for HSIC; at least 4")
        self.sigma, self.lambda_x, self.lambda_y = sigma, lambda_x, lambda_y
        self._kernel_x = center(rbf_kernel(x, sigma))
        self._kernel_y = center(linear_kernel(standardize(y)))

    def score(self, inputs: np.ndarray, outputs: np.ndarray) -> TensorScore:
        """Scores one tensor by its mean inputs [n, d_in] and outputs [n, d_out]."""
        before, after = rbf_kernel(inputs, self.sigma), rbf_kernel(outputs, self.sigma)
        values = {
            "hsic_x_in": hsic(before, self._kernel_x),
            "hsic_y_in": hsic(before, self._kernel_y),
            "hsic_x_out": hsic(after, self._kernel_x),
            "hsic_y_out": hsic(after, self._kernel_y),
        }
        f_in = -self.lambda_x * values["hsic_x_in"] + self.lambda_y * values["hsic_y_in"]
        f_out = -self.lambda_x * values["hsic_x_out"] + self.lambda_y * values["hsic_y_out"]
        return TensorScore(**values, F_out=f_out, sens=f_out - f_in)
