"""One set of hooks on linear layers, whatever is accumulated from what passes through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from actquant.calibration.accumulators import Accumulator


class LayerHooks:
    """Hands the inputs, outputs and gradients of linear layers to accumulators.

    layers: each module with its accumulators. Use `watch` around the forward and, where one of them
    needs gradients, the backward pass of one batch of losses that are independent of each other
    (their sum is what is differentiated).
    """

    def __init__(self, layers: Sequence[tuple[nn.Module, Sequence[Accumulator]]]) -> None:
        self._layers = layers

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
            for handle in handles:
                handle.remove()
        for _, accumulators in self._layers:
            for accumulator in accumulators:
                accumulator.end_batch()

    def _hook(self, accumulators: Sequence[Accumulator], frames: int) -> Any:
        guided = [each for each in accumulators if each.needs_gradients]

        def forward(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            x = inputs[0].detach()
            for accumulator in accumulators:
                accumulator.forward(x, output.detach(), frames)
            if not guided:
                return
            if not output.requires_grad:
                output.requires_grad_(True)  # a leaf: nothing before it needs a gradient

            def backward(dz: Tensor) -> None:
                for accumulator in guided:
                    accumulator.backward(x, dz)

            output.register_hook(backward)

        return forward


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
    """Returns what `LayerHooks` takes. accumulators: by the path of the `nn.Linear`."""
    return [(policy.get_submodule(path), found) for path, found in accumulators.items()]
