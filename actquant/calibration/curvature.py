"""How much the action loss bends along each single weight: the Action-Mixed Fisher of ActQuant.

Stage 2 of arXiv:2605.24011: F_ij = mean over samples of (dL/dW_ij)^2, with L the action loss alone
(alpha = 1, flow matching). A sample is a frame with one draw of noise and time. For z = W x the
gradient of one sample is sum over its tokens of dz x', so hooks on the linear layers give the
gradients of all samples of a batch from one backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from actquant.calibration.frames import Frames, action_losses
from actquant.common.errors import CalibrationError
from actquant.common.progress import bar
from actquant.compression.artifacts import WorkFolder
from actquant.policies.base import LoadedPolicy, QuantizableTensor

PARTIAL_STAGE = "curvature-partial"


class FisherHooks:
    """Sums of squared per-sample gradients of linear weights, gathered by hooks.

    sums: name -> float32 [rows, columns]. Use `watch` around forward and backward of one batch of
    losses that are independent of each other (their sum is what is differentiated).
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.sums = {
            name: torch.zeros_like(module.weight, dtype=torch.float32)  # pyright: ignore
            for name, module in modules.items()
        }
        self._modules = dict(modules)
        self._calls: dict[str, int] = {}
        self._gradients: dict[str, Tensor] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Hooks on; what came in is squared and added when the block ends without an error."""
        self._calls, self._gradients = {}, {}
        handles = [
            module.register_forward_hook(lambda m, i, o, n=name: self._forward(n, i[0], o))
            for name, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, gradient in self._gradients.items():
            self._add(name, gradient)
        self._gradients = {}

    def _forward(self, name: str, x: Tensor, output: Any) -> Any:
        if not output.requires_grad:
            output.requires_grad_(True)  # a leaf: nothing before it needs a gradient
        x = x.detach()
        self._calls[name] = self._calls.get(name, 0) + 1
        output.register_hook(lambda dz: self._backward(name, x, dz))
        return output

    def _backward(self, name: str, x: Tensor, dz: Tensor) -> None:
        batch = x.shape[0]
        gradient = torch.bmm(
            dz.reshape(batch, -1, dz.shape[-1]).transpose(1, 2).float(),
            x.reshape(batch, -1, x.shape[-1]).float(),
        )
        if self._calls[name] == 1:
            self._add(name, gradient)
            return
        # A module called once per camera: its gradients are summed before they are squared.
        earlier = self._gradients.get(name)
        self._gradients[name] = gradient if earlier is None else earlier.add_(gradient)

    def _add(self, name: str, gradient: Tensor) -> None:
        for sample in gradient:
            self.sums[name].addcmul_(sample, sample)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter needs a gradient: the hooks make them, and autograd does half the work."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def curvature(
    loaded: LoadedPolicy,
    tensors: Sequence[QuantizableTensor],
    frames: Frames,
    *,
    draws: int = 2,
    seed: int = 0,
    batch_size: int = 4,
    work: WorkFolder | None = None,
    made_from: Mapping[str, str] | None = None,
    save_every: int = 64,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Fisher of every weight: name -> float32 [rows, columns].

    draws: draws of noise and time per frame. With a work folder the sums are saved every
    `save_every` samples, and a run that was interrupted goes on from there if `made_from` is the
    same.

    Raises CalibrationError if a loss or a result is not finite.
    """
    modules = {t.name: loaded.policy.get_submodule(t.module) for t in tensors}
    hooks = FisherHooks(modules)
    sources = dict(made_from or {})
    done = _resume(hooks, work, sources)
    total, seen, saved = draws * len(frames), 0, done
    with _frozen(loaded.policy), bar(progress, "curvature", total, done) as advance:
        for draw in range(draws):
            for batch in frames.batches(batch_size):
                seen += len(batch.frames)
                if seen <= done:
                    continue
                with hooks.watch(), torch.enable_grad():
                    action_losses(loaded, batch, seed, draw).sum().backward()
                advance(len(batch.frames))
                if work is not None and seen - saved >= save_every and seen < total:
                    _save(hooks, work, sources, seen)
                    saved = seen
    fisher = {name: (value / total).cpu().numpy() for name, value in hooks.sums.items()}
    for name, value in fisher.items():
        if not np.isfinite(value).all():
            raise CalibrationError(f"{name}: NaN or infinity in its gradients")
    return fisher


def _resume(hooks: FisherHooks, work: WorkFolder | None, made_from: dict[str, str]) -> int:
    """Load saved sums; returns how many samples are in them."""
    stored = None if work is None else work.load(PARTIAL_STAGE, made_from)
    if stored is None or set(stored.arrays) != set(hooks.sums):
        return 0
    for name, array in stored.arrays.items():
        hooks.sums[name] = torch.from_numpy(array.copy())
    return int(stored.info["samples"])


def _save(hooks: FisherHooks, work: WorkFolder, made_from: dict[str, str], samples: int) -> None:
    arrays = {name: value.cpu().numpy() for name, value in hooks.sums.items()}
    work.save(PARTIAL_STAGE, made_from, arrays, {"samples": samples})
