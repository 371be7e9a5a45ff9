"""One optimiser for two processes that share their weights' memory.

Each process computes gradients into its own row; each parameter belongs to one process, which
averages the rows, takes the step on the float32 weights and writes the bfloat16 ones that both
compute with. Nothing is copied between processes.

Matrices inside the transformer layers take orthogonalised momentum steps (Muon), the rest AdamW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Quintic Newton-Schulz coefficients of Muon (Jordan et al., 2024).
_NS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Returns the nearest semi-orthogonal matrices to [n, rows, columns], about."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2).contiguous()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True).bfloat16() + 1e-7)
    a, b, c = _NS
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.transpose(1, 2) if tall else x).float()


@dataclass
class Shared:
    """Flat buffers in shared memory, one value per weight."""

    weights: Tensor  # float32
    average: Tensor  # float32, exponential moving average of the weights
    first: Tensor  # float32, first moment
    second: Tensor  # float32, second moment
    working: Tensor  # bfloat16 (float32 in tests), what the computation uses
    gradients: Tensor  # [processes, n], like `working`
    control: Tensor  # float64 [16]: what the first process tells the others
    norms: Tensor  # float32 [processes]

    def state(self) -> dict[str, Tensor]:
        names = ("weights", "average", "first", "second")
        return {n: getattr(self, n).clone() for n in names}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)
        self.working.copy_(self.weights)


@dataclass(frozen=True)
class Slot:
    """Where a weight lies in the flat buffers, and who updates it."""

    start: int
    shape: tuple[int, ...]
    owner: int
    muon: bool

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape)


def lay_out(tensors: dict[str, Tensor], processes: int, muon: bool) -> dict[str, Slot]:
    """Slots for all weights: owners take like amounts of every shape, each owner contiguously."""
    chosen = {
        n: muon and t.ndim == 2 and (".layers." in n or "action_time_mlp" in n)
        for n, t in tensors.items()
    }
    order = sorted(
        tensors, key=lambda n: (chosen[n], -tensors[n].numel(), tuple(tensors[n].shape), n)
    )
    owners: dict[str, int] = {}
    load = [[0, 0] for _ in range(processes)]
    for name in order:
        kind = int(chosen[name])
        owner = min(range(processes), key=lambda p: load[p][kind])
        owners[name] = owner
        load[owner][kind] += tensors[name].numel()
    slots, start = {}, 0
    for owner in range(processes):
        for name in (n for n in order if owners[n] == owner):
            slots[name] = Slot(start, tuple(tensors[name].shape), owner, chosen[name])
            start += tensors[name].numel()
    return slots


def allocate(
    tensors: dict[str, Tensor], slots: dict[str, Slot], processes: int, dtype: torch.dtype
) -> Shared:
    """Allocates shared buffers that start from the given weights."""
    count = max(s.end for s in slots.values())

    def zeros(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(*shape, dtype=kind).share_memory_()

    shared = Shared(
        *(zeros(count) for _ in range(4)),
        working=zeros(count, kind=dtype),
        gradients=zeros(processes, count, kind=dtype),
        control=zeros(16, kind=torch.float64),
        norms=zeros(processes),
    )
    for name, slot in slots.items():
        shared.weights[slot.start : slot.end] = tensors[name].detach().float().flatten()
    shared.average.copy_(shared.weights)
    shared.working.copy_(shared.weights)
    return shared


def views(flat: Tensor, slots: dict[str, Slot]) -> dict[str, Tensor]:
    """Returns named views into a flat buffer."""
    return {n: flat[s.start : s.end].view(s.shape) for n, s in slots.items()}


@dataclass(frozen=True)
class OptimizerSettings:
    """Of the optimiser."""

    betas: tuple[float, float] = (0.9, 0.95)
    muon_momentum: float = 0.95
    newton_schulz: int = 4
    weight_decay: float = 0.01
    clip: float = 1.0


class Optimizer:
    """One process's part of the update."""

    def __init__(
        self,
        shared: Shared,
        slots: dict[str, Slot],
        rank: int,
        barrier: Any,
        settings: OptimizerSettings,
    ) -> None:
        self.shared, self.rank, self.barrier, self.settings = shared, rank, barrier, settings
        mine = [s for s in slots.values() if s.owner == rank]
        self.plain = slice(*_span([s for s in mine if not s.muon]))
        groups: dict[tuple[int, ...], list[Slot]] = {}
        for slot in mine:
            if slot.muon:
                groups.setdefault(slot.shape, []).append(slot)
        self.groups = groups
        self.span = slice(*_span(mine))

    def leaves(self, slots: dict[str, Slot]) -> dict[str, Tensor]:
        """Weights to compute with, whose gradients land in this process's row."""
        rows = views(self.shared.gradients[self.rank], slots)
        out = {}
        for name, view in views(self.shared.working, slots).items():
            leaf = view.detach().requires_grad_(True)
            leaf.grad = rows[name]
            out[name] = leaf
        return out

    @torch.no_grad()
    def step(self, number: int, rate: float, decay: float) -> float:
        """Updates after all backward passes; `number` from 1. Returns the gradient norm."""
        shared, span = self.shared, self.span
        self.barrier.wait()
        gradient = shared.gradients[0, span].float()
        for row in shared.gradients[1:, span]:  # mean(0) would take ten times as long
            gradient += row
        gradient /= len(shared.gradients)
        shared.norms[self.rank] = gradient.square().sum()
        self.barrier.wait()
        norm = float(shared.norms.sum().sqrt())
        gradient *= min(1.0, self.settings.clip / (norm + 1e-6))
        weights = shared.weights[span]
        weights *= 1 - rate * self.settings.weight_decay
        self._adam(gradient, number, rate)
        for shape, slots in self.groups.items():
            self._muon(gradient, shape, slots, rate)
        shared.working[span] = weights.to(shared.working.dtype)
        shared.average[span].lerp_(weights, 1 - decay)
        shared.gradients[self.rank].zero_()
        self.barrier.wait()
        return norm

    def _adam(self, gradient: Tensor, number: int, rate: float) -> None:
        shared, part = self.shared, self.plain
        g = gradient[part.start - self.span.start : part.stop - self.span.start]
        low, high = self.settings.betas
        first, second = shared.first[part], shared.second[part]
        first.lerp_(g, 1 - low)
        second.mul_(high).addcmul_(g, g, value=1 - high)
        scale = (second / (1 - high**number)).sqrt_().add_(1e-8)
        shared.weights[part].addcdiv_(first, scale, value=-rate / (1 - low**number))

    def _muon(
        self, gradient: Tensor, shape: tuple[int, ...], slots: list[Slot], rate: float
    ) -> None:
        shared, momentum = self.shared, self.settings.muon_momentum
        stack = torch.empty(len(slots), *shape)
        for i, slot in enumerate(slots):
            g = gradient[slot.start - self.span.start : slot.end - self.span.start]
            first = shared.first[slot.start : slot.end]
            first.lerp_(g, 1 - momentum)
            stack[i] = torch.lerp(g, first, momentum).view(shape)
        update = orthogonalise(stack, self.settings.newton_schulz)
        # One learning rate suits both with 0.2 (Moonlight); the matrices bear a higher one.
        scale = 0.3 * math.sqrt(max(shape))
        for i, slot in enumerate(slots):
            shared.weights[slot.start : slot.end].add_(update[i].flatten(), alpha=-rate * scale)


def _span(slots: list[Slot]) -> tuple[int, int]:
    if not slots:
        return 0, 0
    start, end = min(s.start for s in slots), max(s.end for s in slots)
    if end - start != sum(s.end - s.start for s in slots):
        raise ValueError("the slots of one process are not contiguous")
    return start, end
