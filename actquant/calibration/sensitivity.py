"""How much each tensor matters for the action: the HSIC information bottleneck of ActQuant.

Stage 1 of arXiv:2605.24011. For each linear layer its input and its output, averaged over the
tokens of a frame, are compared over the calibration frames with X, the input of the first block,
and Y, the ground-truth action chunk: F(Z) = -lambda_x HSIC(X, Z) + lambda_y HSIC(Z, Y). The scores
are F_out = F(Z_out) and sens = F(Z_out) - F(Z_in). Everything is float64 and seeded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich.progress import Progress
from torch import Tensor, nn

from actquant.calibration.frames import Frames, action_losses
from actquant.common.errors import CalibrationError
from actquant.common.progress import bar
from actquant.policies.base import LoadedPolicy, QuantizableTensor

SIGMA = 5.0
LAMBDA_X = LAMBDA_Y = 1.0
Score = Literal["F_out", "sens"]
DEFAULT_SCORE: Score = "F_out"
"""The public code's default. `sens` is often negative, and negative scores count as 0."""


def squared_distances(a: np.ndarray) -> np.ndarray:
    """a: [n, d] -> [n, n]"""
    norms = (a * a).sum(axis=1)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * (a @ a.T), 0.0)


def rbf_kernel(a: np.ndarray, sigma: float | None = SIGMA) -> np.ndarray:
    """a: [n, d] -> [n, n], exp(-|a_i - a_j|^2 / (2 sigma^2 d)).

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
    """a: [n, d] -> [n, n]"""
    return a @ a.T


def center(kernel: np.ndarray) -> np.ndarray:
    """H K H with H = I - 11'/n."""
    return kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()


def hsic(kernel_a: np.ndarray, centered_b: np.ndarray) -> float:
    """HSIC(A, B) = tr(K_A H K_B H) / (n - 1)^2 of a kernel [n, n] and an already centred one."""
    return float((kernel_a * centered_b).sum() / (len(kernel_a) - 1) ** 2)


def standardize(a: np.ndarray) -> np.ndarray:
    """Each column of [n, d] to mean 0 and standard deviation 1 (a constant column to 0)."""
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
        """The score that allocation uses: never negative."""
        return max(self.F_out if kind == "F_out" else self.sens, 0.0)


@dataclass
class Activations:
    """Per frame and tensor the mean input [n, d_in] and output [n, d_out] over the tokens.

    x: [n, d] input of the first block; y: [n, H A] ground-truth chunk, normalised.
    """

    x: np.ndarray
    y: np.ndarray
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@dataclass
class _Pool:
    """Running sums over the tokens of each frame of a batch, over all calls of a module."""

    total: Tensor | None = None
    count: int = 0

    def add(self, values: Tensor, frames: int, name: str) -> None:
        if values.shape[0] != frames:
            raise CalibrationError(
                f"{name}: saw a batch of {values.shape[0]} for {frames} frames; its activations "
                "cannot be told apart by frame"
            )
        tokens = values.detach().reshape(frames, -1, values.shape[-1]).double()
        total = tokens.sum(dim=1)
        self.total = total if self.total is None else self.total + total
        self.count += tokens.shape[1]

    def mean(self, name: str) -> np.ndarray:
        if self.total is None:
            raise CalibrationError(f"{name} was never used in the policy's action loss")
        return (self.total / self.count).cpu().numpy()


@dataclass
class _Collector:
    """Forward hooks on the linear layers; `take` gives a batch's means and starts afresh."""

    frames: int = 0
    pools: dict[tuple[str, str], _Pool] = field(default_factory=dict)

    def attach(self, module: nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for side, values in (("in", inputs[0]), ("out", output)):
                pool = self.pools.setdefault((name, side), _Pool())
                pool.add(values, self.frames, name)

        return module.register_forward_hook(hook)

    def take(self, names: Sequence[str], side: str) -> dict[str, np.ndarray]:
        return {name: self.pools.get((name, side), _Pool()).mean(name) for name in names}


def collect_activations(
    loaded: LoadedPolicy,
    tensors: Sequence[QuantizableTensor],
    frames: Frames,
    *,
    seed: int = 0,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Activations:
    """Run the action loss over the frames and keep what every linear layer saw and said.

    The loss pass is used, with noise and time fixed per frame, so that the layers of an action
    expert get data as well. The first block is the first one of the language model, whose input is
    the whole prefix; for a policy without one, the first block of all.

    Raises CalibrationError if a tensor is not used or anything is not finite.
    """
    names = [tensor.name for tensor in tensors]
    first = next((t.name for t in tensors if t.group == "language"), names[0])
    collector = _Collector()
    handles = [
        collector.attach(loaded.policy.get_submodule(tensor.module), tensor.name)
        for tensor in tensors
    ]
    parts: dict[str, list[dict[str, np.ndarray]]] = {"in": [], "out": []}
    chunks: list[np.ndarray] = []
    try:
        with torch.no_grad(), bar(progress, "sensitivity", len(frames)) as advance:
            for batch in frames.batches(batch_size):
                count = len(batch.frames)
                collector.frames, collector.pools = count, {}
                action_losses(loaded, batch, seed)
                for side, taken in parts.items():
                    taken.append(collector.take(names, side))
                chunks.append(batch.tensors["action"].reshape(count, -1).double().numpy())
                advance(count)
    finally:
        for handle in handles:
            handle.remove()
    joined = {
        side: {name: np.concatenate([part[name] for part in taken]) for name in names}
        for side, taken in parts.items()
    }
    for name in names:
        if not (np.isfinite(joined["in"][name]).all() and np.isfinite(joined["out"][name]).all()):
            raise CalibrationError(f"{name}: NaN or infinity in its activations")
    return Activations(joined["in"][first], np.concatenate(chunks), joined["in"], joined["out"])


def score_activations(
    activations: Activations,
    *,
    sigma: float | None = SIGMA,
    lambda_x: float = LAMBDA_X,
    lambda_y: float = LAMBDA_Y,
) -> dict[str, TensorScore]:
    """Scores of every tensor: RBF kernels for activations, a linear one for the standardised Y.

    Raises CalibrationError for fewer than four frames.
    """
    if len(activations.x) < 4:
        raise CalibrationError(f"{len(activations.x)} frames are too few for HSIC; at least 4")
    kernel_x = center(rbf_kernel(activations.x, sigma))
    kernel_y = center(linear_kernel(standardize(activations.y)))
    scores: dict[str, TensorScore] = {}
    for name, output in activations.outputs.items():
        before = rbf_kernel(activations.inputs[name], sigma)
        after = rbf_kernel(output, sigma)
        values = {
            "hsic_x_in": hsic(before, kernel_x),
            "hsic_y_in": hsic(before, kernel_y),
            "hsic_x_out": hsic(after, kernel_x),
            "hsic_y_out": hsic(after, kernel_y),
        }
        f_in = -lambda_x * values["hsic_x_in"] + lambda_y * values["hsic_y_in"]
        f_out = -lambda_x * values["hsic_x_out"] + lambda_y * values["hsic_y_out"]
        scores[name] = TensorScore(**values, F_out=f_out, sens=f_out - f_in)
    return scores


def sensitivity(
    loaded: LoadedPolicy,
    tensors: Sequence[QuantizableTensor],
    frames: Frames,
    *,
    sigma: float | None = SIGMA,
    seed: int = 0,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> dict[str, TensorScore]:
    """Scores of all tensors from calibration frames (see the module's head)."""
    activations = collect_activations(
        loaded, tensors, frames, seed=seed, batch_size=batch_size, progress=progress
    )
    return score_activations(activations, sigma=sigma)
