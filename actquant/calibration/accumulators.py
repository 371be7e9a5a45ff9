"""What is summed up for one weight matrix, z = W x, while an objective runs over frames.

An accumulator is one statistic of one weight matrix. Hooks (`hooks.py`) hand it what passes through
the layer; a module that is called several times in one forward pass, e.g. once a camera, hands it
each call. Its state can be saved and restored between two batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from actquant.calibration.sampling import column_spans, sampled_rows
from actquant.common.errors import CalibrationError

Arrays = dict[str, np.ndarray]
DOUBLE_COLUMNS = 1024
"""Up to so many columns second moments are summed in double precision."""
LOSS, ACTIONS = "loss", "actions"
"""Objectives (`losses.OBJECTIVES`): the action loss of training, and the executed actions."""


class MixedFramesError(CalibrationError):
    """The first axis of a layer's input is not that of the frames: only one frame at a time can be
    told from the others."""


class Accumulator(ABC):
    """One statistic of one weight [rows, columns]; x: [B, ..., columns], z and dz: [B, ..., rows].

    `forward` comes once for each call of the layer, `backward` in any order after all of them,
    `end_batch` when both are through.
    """

    name: ClassVar[str]
    """Of the statistic, and of the stage of its artefacts."""
    needs_gradients: ClassVar[bool] = False
    needs_draws: ClassVar[bool] = False
    """Whether further draws of noise and time over the same frames tell it more."""
    objective: ClassVar[str] = LOSS
    """What runs, and is differentiated."""

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        self.tensor = tensor
        self.shape = (rows, columns)

    @classmethod
    @abstractmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        """Returns the memory that it needs for this many frames."""

    @abstractmethod
    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        """Takes a call's input and output. Raises MixedFramesError if it needs B to be `frames`
        and it is not."""

    def backward(self, x: Tensor, dz: Tensor) -> None:  # noqa: B027  most need no gradient
        """Takes a call's input and the gradient of its output."""

    @abstractmethod
    def end_batch(self) -> None:
        """Adds what came in since the last batch ended."""

    @abstractmethod
    def state(self) -> Arrays:
        """Returns everything that `restore` needs to go on."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes over a state."""

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds the state of another process, which saw the frames that follow; of sums."""
        own = self.state()
        self.restore({key: own[key] + arrays[key] for key in own})

    @abstractmethod
    def result(self, samples: int) -> Arrays:
        """Returns the statistic over `samples` samples.

        Raises CalibrationError if it is not finite, or if nothing came in that should have.
        """

    def _finite(self, arrays: Arrays, what: str) -> Arrays:
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CalibrationError(f"{self.tensor}: NaN or infinity in its {what}")
        return arrays


def check_frames(tensor: str, values: Tensor, frames: int) -> None:
    """Raises MixedFramesError if the first axis [B, ...] is not that of the frames; of a single
    frame are all values, whatever their axes."""
    if frames > 1 and values.shape[0] != frames:
        raise MixedFramesError(
            f"{tensor}: saw a batch of {values.shape[0]} for {frames} frames; its activations "
            "cannot be told apart by frame"
        )


class MeanActivations(Accumulator):
    """Mean input and output of each frame over its tokens: float64 [n, columns] and [n, rows]."""

    name = "mean_activations"

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        super().__init__(tensor, rows, columns)
        self._means: dict[str, list[np.ndarray]] = {"inputs": [], "outputs": []}
        self._sums: dict[str, Tensor] = {}
        self._tokens = 0

    @classmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        return 8 * frames * (rows + columns)

    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        for side, values in (("inputs", x), ("outputs", z)):
            check_frames(self.tensor, values, frames)
            tokens = values.detach().reshape(frames, -1, values.shape[-1]).double()
            total = tokens.sum(dim=1)
            self._sums[side] = self._sums[side] + total if side in self._sums else total
        self._tokens += tokens.shape[1]

    def end_batch(self) -> None:
        if not self._sums:
            raise CalibrationError(f"{self.tensor} was never used in the policy's action loss")
        for side, total in self._sums.items():
            self._means[side].append((total / self._tokens).cpu().numpy())
        self._sums, self._tokens = {}, 0

    def state(self) -> Arrays:
        return {side: np.concatenate(parts) for side, parts in self._means.items() if parts}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._means = {side: [arrays[side]] if side in arrays else [] for side in self._means}

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        for side, means in self._means.items():
            means.append(arrays[side])

    def result(self, samples: int) -> Arrays:
        return self._finite(self.state(), "activations")


class Fisher(Accumulator):
    """Mean over samples of the squared gradient of each weight: float32 [rows, columns].

    The Action-Mixed Fisher of ActQuant (arXiv:2605.24011, stage 2) with the action loss alone:
    F_ij = mean of (dL/dW_ij)^2. For one sample the gradient is the sum over its tokens of dz x'.
    """

    name = "fisher"
    needs_gradients = True
    needs_draws = True

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        super().__init__(tensor, rows, columns)
        self._sum = torch.zeros(rows, columns)
        self._calls = self._frames = 0
        self._gradient: Tensor | None = None

    @classmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        return 4 * rows * columns

    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        check_frames(self.tensor, x, frames)
        self._calls, self._frames = self._calls + 1, frames

    def backward(self, x: Tensor, dz: Tensor) -> None:
        dz = self._counted(dz)
        gradient = torch.bmm(
            dz.reshape(self._frames, -1, dz.shape[-1]).transpose(1, 2).float(),
            x.reshape(self._frames, -1, x.shape[-1]).float(),
        )
        if self._calls == 1:
            self._add(gradient)
            return
        # A module called once per camera: its gradients are summed before they are squared.
        self._gradient = gradient if self._gradient is None else self._gradient.add_(gradient)

    def _counted(self, dz: Tensor) -> Tensor:
        """Returns the gradients of the rows that are summed up."""
        return dz

    def _add(self, gradient: Tensor) -> None:
        self._sum = self._sum.to(gradient.device)
        for sample in gradient:
            self._sum.addcmul_(sample, sample)

    def end_batch(self) -> None:
        if self._gradient is not None:
            self._add(self._gradient)
        self._calls, self._gradient = 0, None

    def state(self) -> Arrays:
        return {"sum": self._sum.cpu().numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._sum = torch.from_numpy(arrays["sum"].copy())

    def result(self, samples: int) -> Arrays:
        return self._finite({self.name: (self._sum / samples).cpu().numpy()}, "gradients")


class ActionJacobian(Fisher):
    """Mean over samples of the squared gradient of u'a by each weight: float32 [rows, columns], or
    [n, columns] of the `sampled_rows` of a large matrix, which are then there as `rows` [n].

    a is the normalised chunk [H, A] after all flow steps, u ~ N(0, 1) / sqrt(H A) anew for each
    sample: by Hutchinson's estimate the result is the diagonal of J'J / (H A), with J the Jacobian
    of the chunk. Sum over weights of it times (w - w')^2 then predicts the mean squared error of
    the executed actions, in the unit of their standard deviations, to first order.
    """

    name = "action_jacobian"
    objective = ACTIONS

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        self._rows = sampled_rows(rows, columns)
        super().__init__(tensor, rows if self._rows is None else len(self._rows), columns)

    @classmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        sampled = sampled_rows(rows, columns)
        return 4 * columns * (rows if sampled is None else len(sampled))

    def _counted(self, dz: Tensor) -> Tensor:
        if self._rows is None:
            return dz
        return dz[..., torch.from_numpy(self._rows).to(dz.device)]

    def result(self, samples: int) -> Arrays:
        found = super().result(samples)
        return found if self._rows is None else {**found, "rows": self._rows}


class SecondMoments(Accumulator):
    """Mean over tokens of x x', the Hessian of the layer's output, for each of the `column_spans`:
    arrays `0`, `1`, … of [span, span], float64 where the matrix has at most DOUBLE_COLUMNS columns
    and float32 otherwise."""

    name = "second_moments"
    objective = ACTIONS

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        super().__init__(tensor, rows, columns)
        self._spans = column_spans(columns)
        self._dtype = _moments_type(columns)
        widths = [span.stop - span.start for span in self._spans]
        self._sums = [torch.zeros(width, width, dtype=self._dtype) for width in widths]
        self._tokens = 0

    @classmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        widths = [span.stop - span.start for span in column_spans(columns)]
        return _moments_type(columns).itemsize * sum(width * width for width in widths)

    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        self._tokens += x.shape[:-1].numel()
        self._add(x.detach().reshape(-1, x.shape[-1]).to(self._dtype))

    def _add(self, tokens: Tensor) -> None:
        """Adds the products of tokens [T, columns] with themselves."""
        self._sums = [total.to(tokens.device) for total in self._sums]
        for span, total in zip(self._spans, self._sums, strict=True):
            total.addmm_(tokens[:, span].T, tokens[:, span])

    def end_batch(self) -> None:
        """Does nothing: every call was added when it came."""

    def state(self) -> Arrays:
        sums = {str(place): total.cpu().numpy() for place, total in enumerate(self._sums)}
        return {**sums, "tokens": np.array([self._tokens])}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._sums = [torch.from_numpy(arrays[str(i)].copy()) for i in range(len(self._sums))]
        self._tokens = int(arrays["tokens"][0])

    def result(self, samples: int) -> Arrays:
        if not self._tokens:
            raise CalibrationError(f"{self.tensor} was never used in the policy's action loss")
        means = [(total / self._tokens).cpu().numpy() for total in self._sums]
        return self._finite({str(i): mean for i, mean in enumerate(means)}, "activations")


class GuidedMoments(SecondMoments):
    """Mean over tokens and draws of s x x', with s the mean square of the gradient of u'a (see
    `ActionJacobian`) by the layer's outputs at that token: arrays as of `SecondMoments`.

    A token whose outputs do not move the actions then does not count, however large its inputs are:
    the Hessian of the actions along a row, averaged over the rows (GuidedQuant, arXiv:2505.07004,
    with one group of rows).
    """

    name = "guided_moments"
    needs_gradients = True
    needs_draws = True

    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        self._tokens += x.shape[:-1].numel()

    def backward(self, x: Tensor, dz: Tensor) -> None:
        weights = self._weights(dz.reshape(-1, dz.shape[-1]).double())
        tokens = x.reshape(-1, x.shape[-1]).to(self._dtype)
        self._add(tokens * weights.sqrt().to(self._dtype))

    def _weights(self, dz: Tensor) -> Tensor:
        """Returns s [T, 1] of gradients [T, rows]."""
        return dz.square().mean(dim=1, keepdim=True)


def _moments_type(columns: int) -> torch.dtype:
    return torch.float64 if columns <= DOUBLE_COLUMNS else torch.float32


class EmbeddingJacobian(Accumulator):
    """What `ActionJacobian` and `SecondMoments` are to a layer, for a table [tokens, dimension]:

    rows [n], the tokens that occurred; action_jacobian float32 [n, dimension] of these rows; and
    gradient_moments float64 [dimension, dimension], the mean of dz dz' over the tokens of all
    frames. A change d of a row costs d' (dz dz') d: the moments are the Hessian along a row.

    Where the first axis of the tokens is not that of the frames, as of positions that all frames
    share, the gradients of all frames are summed before they are squared: since their projections
    u are independent, the expectation is the same.
    """

    name = "embedding_jacobian"
    needs_gradients = True
    needs_draws = True
    objective = ACTIONS

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        super().__init__(tensor, rows, columns)
        self._rows = torch.empty(0, dtype=torch.int64)
        self._squares = torch.zeros(0, columns)
        self._moments = torch.zeros(columns, columns, dtype=torch.float64)
        self._frames = 1
        self._calls: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        return 4 * min(rows, 1024) * columns + 8 * columns * columns

    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        self._frames = frames

    def backward(self, x: Tensor, dz: Tensor) -> None:
        x, dz = x.cpu(), dz.cpu()
        groups = self._frames if x.ndim and x.shape[0] == self._frames else 1
        self._calls.append((x.reshape(groups, -1), dz.reshape(groups, -1, dz.shape[-1]).float()))

    def end_batch(self) -> None:
        by_groups: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for tokens, dz in self._calls:
            by_groups.setdefault(len(tokens), []).append((tokens, dz))
            every = dz.reshape(-1, dz.shape[-1]).double()
            self._moments.addmm_(every.T, every)
        for groups, calls in by_groups.items():
            for group in range(groups):
                tokens = torch.cat([tokens[group] for tokens, _ in calls])
                self._add(tokens, torch.cat([dz[group] for _, dz in calls]))
        self._calls = []

    def _add(self, tokens: Tensor, dz: Tensor) -> None:
        """Adds one sample's squared gradients: tokens [T], dz [T, columns]."""
        rows, place = torch.unique(tokens, return_inverse=True)
        gradient = torch.zeros(len(rows), dz.shape[-1]).index_add_(0, place, dz)
        self._add_squares(rows, gradient.square())

    def _add_squares(self, rows: Tensor, squares: Tensor) -> None:
        """Adds squared gradients [n, columns] of rows [n], each there once."""
        known, place = torch.unique(torch.cat([self._rows, rows]), return_inverse=True)
        total = torch.zeros(len(known), squares.shape[-1])
        total.index_add_(0, place, torch.cat([self._squares, squares]))
        self._rows, self._squares = known, total

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        rows, squares, moments = (
            torch.from_numpy(arrays[name].copy()) for name in ("rows", "squares", "moments")
        )
        self._add_squares(rows, squares)
        self._moments += moments

    def state(self) -> Arrays:
        return {
            "rows": self._rows.numpy(),
            "squares": self._squares.numpy(),
            "moments": self._moments.numpy(),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._rows, self._squares, self._moments = (
            torch.from_numpy(arrays[name].copy()) for name in ("rows", "squares", "moments")
        )

    def result(self, samples: int) -> Arrays:
        if not len(self._rows):
            raise CalibrationError(f"{self.tensor} was never used in the policy's actions")
        found = {
            "rows": self._rows.numpy(),
            "action_jacobian": (self._squares / samples).numpy(),
            "gradient_moments": (self._moments / samples).numpy(),
        }
        return self._finite(found, "gradients")


ACCUMULATORS: dict[str, type[Accumulator]] = {
    kind.name: kind
    for kind in (
        MeanActivations,
        Fisher,
        ActionJacobian,
        SecondMoments,
        GuidedMoments,
        EmbeddingJacobian,
    )
}
