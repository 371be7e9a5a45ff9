"""One set of hooks on weight matrices, whatever is accumulated from what passes through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  as everywhere
from torch import Tensor, nn

from actquant.calibration.accumulators import Accumulator


class LayerHooks:
    """Hands the inputs, outputs and gradients of modules with a weight matrix to accumulators.

    A convolution is handed over as the linear layer that it is on the patches of its input, an
    embedding with the tokens as its input.

    layers: each module with its accumulators; in_bfloat16: keep the inputs in bfloat16 for the
    backward pass. Use `watch` around the forward and, where one of the accumulators needs
    gradients, the backward pass of one batch of losses that are independent of each other (their
    sum is what is differentiated).
    """

    def __init__(
        self,
        layers: Sequence[tuple[nn.Module, Sequence[Accumulator]]],
        *,
        in_bfloat16: bool = False,
    ) -> None:
        self._layers = layers
        self._in_bfloat16 = in_bfloat16
        self._last: tuple[Tensor, int, Tensor] | None = None

    @contextmanager
    def watch(self, frames: int) -> Iterator[None]:
        """Puts the hooks on; the batch ends for the accumulators if the block ends without error.

        frames: the number of samples of the batch.
        """
        handles = [
            module.register_forward_hook(self._hook(accumulators, frames))
            for module, accumulators in self._layers
        ]
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()
        for _, accumulators in self._layers:
            for accumulator in accumulators:
                accumulator.end_batch()

    def _hook(self, accumulators: Sequence[Accumulator], frames: int) -> Any:
        guided = [each for each in accumulators if each.needs_gradients]

        def forward(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            x = inputs[0].detach()
            rows = rows_in(module, x)
            for accumulator in accumulators:
                accumulator.forward(rows, rows_out(module, output.detach()), frames)
            if not guided:
                return output
            if not output.requires_grad:
                # Nothing before it needs a gradient. A copy of a leaf may be changed in place.
                output = output.detach().requires_grad_(True).clone()
            scale = _scale(module, x, output.detach())
            kept, dtype = self._kept(inputs[0]), x.dtype

            def backward(dz: Tensor) -> None:
                # Anew: patches take many times the memory of x.
                rows = rows_in(module, kept.to(dtype))
                for accumulator in guided:
                    accumulator.backward(rows, rows_out(module, dz) * scale)

            output.register_hook(backward)
            return output

        return forward

    def _kept(self, x: Tensor) -> Tensor:
        """Returns an input as it is kept; layers that share one, as queries and keys do, share what
        is kept of it, unless it was changed in place in between."""
        if not self._in_bfloat16 or x.dtype != torch.float32:
            return x.detach()
        if self._last is None or self._last[0] is not x or self._last[1] != x._version:
            self._last = x, x._version, x.detach().bfloat16()
        return self._last[2]


def rows_in(module: nn.Module, x: Tensor) -> Tensor:
    """Returns what a module multiplies its weight matrix with: [B, ..., columns]; of a convolution
    the patches of x [B, C, (H,) W], of an embedding the tokens themselves."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return x
    widths: Any = module._reversed_padding_repeated_twice  # pyright: ignore[reportPrivateUsage]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, widths, mode=mode)
    sizes: list[Any] = [module.kernel_size, module.stride, module.dilation]
    if isinstance(module, nn.Conv1d):
        padded, sizes = padded.unsqueeze(2), [(1, *size) for size in sizes]
    kernel, stride, dilation = sizes
    return F.unfold(padded, kernel, dilation=dilation, stride=stride).transpose(1, 2)


def rows_out(module: nn.Module, z: Tensor) -> Tensor:
    """Returns a module's output, or its gradient, as [B, ..., rows]."""
    return z.flatten(2).transpose(1, 2) if isinstance(module, (nn.Conv1d, nn.Conv2d)) else z


def _scale(module: nn.Module, x: Tensor, z: Tensor) -> float:
    """Returns by what an embedding multiplies its rows, as Gemma's does; 1 for all else."""
    if not isinstance(module, nn.Embedding):
        return 1.0
    rows = F.embedding(x, module.weight).double()
    square = float((rows * rows).sum())
    return float((rows * z).sum()) / square if square else 1.0


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Lets no parameter need a gradient: the hooks make them, and autograd does half the work."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def make_layers(
    policy: nn.Module, accumulators: Mapping[str, Sequence[Accumulator]]
) -> list[tuple[nn.Module, Sequence[Accumulator]]]:
    """Returns what `LayerHooks` takes. accumulators: by the path of the module."""
    return [
        (module, found)
        for path, found in accumulators.items()
        for module in sharing_weight(policy, policy.get_submodule(path))
    ]


def sharing_weight(policy: nn.Module, module: nn.Module) -> list[nn.Module]:
    """Returns the modules that do the same as `module` with the same weight, itself among them: a
    table of tokens may be known by several names."""
    is_table = isinstance(module, nn.Embedding)
    return [
        other
        for other in policy.modules()
        if getattr(other, "weight", None) is module.weight
        and isinstance(other, nn.Embedding) == is_table
    ]
