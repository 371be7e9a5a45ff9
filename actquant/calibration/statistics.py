"""Statistics of every tensor, collected once and kept in the work folder.

An objective, the action loss or the executed actions, runs over the calibration frames with hooks
on the layers. Accumulators are taken in groups that fit into a given memory, one pass a group,
those that need gradients first: the others' passes go forward only. Each tensor's statistics are
an artefact of their own; a pass that was interrupted goes on from the samples it has done.

A large policy runs one frame at a time, which keeps all cores busy; what autograd saves of it is
held in bfloat16, and its products are computed from bfloat16 where the processor can and sums in
float32. Its weights may stay on disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress

from actquant.calibration.accumulators import (
    ACCUMULATORS,
    Accumulator,
    Arrays,
    MixedFramesError,
    SecondMoments,
)
from actquant.calibration.bfloat16 import bfloat16_products, save_in_bfloat16
from actquant.calibration.dataset import ACTION
from actquant.calibration.frames import Frames
from actquant.calibration.hooks import LayerHooks, frozen, make_layers
from actquant.calibration.losses import OBJECTIVES
from actquant.calibration.work_folder import Contents, WorkFolder
from actquant.common.errors import CalibrationError
from actquant.common.machine import total_memory
from actquant.common.progress import bar
from actquant.policies.base import LoadedPolicy, MatrixKind, QuantizableTensor

PARTIAL_STAGE = "statistics-partial"
MEMORY_SHARE = 1 / 6
"""Of the machine's memory: what the accumulators of one pass may take; a single one may take
more."""
LARGE_POLICY = 100_000_000
"""Parameters from which on one frame keeps all cores busy."""
SAVE_SECONDS = 120
"""After which the state of a pass is saved at the latest: it may take gigabytes, and a large
policy minutes for a few frames."""
Group = dict[QuantizableTensor, list[type[Accumulator]]]
"""What one pass collects."""
KindsOf = Mapping[MatrixKind, Sequence[str]]
"""Names of what is collected of each kind of matrix (ACCUMULATORS)."""


@dataclass(frozen=True)
class Statistics:
    """What was collected, one tensor in memory at a time.

    kept: names of the statistics that were there already for every tensor.
    """

    work: WorkFolder
    made_from: Mapping[str, str]
    kept: tuple[str, ...] = ()

    def of(self, tensor: str, statistic: str) -> Arrays:
        """Returns the arrays of a tensor's statistic, which is named as in ACCUMULATORS (see
        `Accumulator.result` there).

        Raises CalibrationError if it was not collected.
        """
        stored = self.work.load(statistic, tensor, self.made_from)
        if stored is None:
            raise CalibrationError(f"{self.work.folder} holds no {statistic} of {tensor}")
        return stored.arrays

    def moments(self, tensor: str) -> list[np.ndarray]:
        """Returns the second moments of a layer's inputs: [span, span] of each of its
        `column_spans`. Raises CalibrationError if they were not collected."""
        found = self.of(tensor, SecondMoments.name)
        return [found[str(place)] for place in range(len(found))]

    def holds(self, tensor: str, statistic: str) -> bool:
        """Returns whether this statistic of the tensor was collected."""
        return self.work.holds(statistic, tensor, self.made_from)

    @property
    def actions(self) -> np.ndarray:
        """The ground-truth chunks [n, H A], normalised, in the order of the frames' batches."""
        stored = self.work.load("frames", "actions", self.made_from)
        if stored is None:
            raise CalibrationError(f"{self.work.folder} holds no actions of the frames")
        return stored.arrays["actions"]


def collect(
    loaded: LoadedPolicy,
    tensors: Sequence[QuantizableTensor],
    frames: Frames,
    kinds: KindsOf,
    work: WorkFolder,
    made_from: Mapping[str, str],
    *,
    draws: int = 2,
    seed: int = 0,
    batch_size: int = 4,
    memory_bytes: int | None = None,
    save_every: int = 64,
    progress: Progress | None = None,
) -> Statistics:
    """Collects statistics of all tensors; what the work folder has already is not done again.

    tensors: in forward order, of these kinds of matrices; draws: draws of noise and time per frame,
    for the kinds that need them (the others take the first); made_from: hashes of everything that
    the result depends on; memory_bytes: what the accumulators of one pass may take, by default
    MEMORY_SHARE of the machine's; save_every: samples after which the state of a pass is saved, or
    earlier after SAVE_SECONDS.

    Raises CalibrationError if a loss or a result is not finite, or a layer was never used.
    """
    if memory_bytes is None:
        memory_bytes = int(MEMORY_SHARE * total_memory())
    names = dict.fromkeys(name for found in kinds.values() for name in found)
    held = {
        tensor: {name for name in kinds[tensor.kind] if work.holds(name, tensor.name, made_from)}
        for tensor in tensors
    }
    lacking = {name for t in tensors for name in kinds[t.kind] if name not in held[t]}
    kept = tuple(name for name in names if name not in lacking)
    for objective in OBJECTIVES:
        running = [
            (tensor, kind, name in held[tensor])
            for tensor in tensors
            for name in kinds[tensor.kind]
            if (kind := ACCUMULATORS[name]).objective == objective
        ]
        for group in _groups(running, len(frames), memory_bytes):
            run = _Pass(loaded, frames, objective, group, work, made_from)
            try:
                run.collect(draws, seed, batch_size, save_every, progress)
            except MixedFramesError:
                batch_size = 1  # for all layers that follow, too
                run = _Pass(loaded, frames, objective, group, work, made_from)
                run.collect(draws, seed, batch_size, save_every, progress)
    work.build("frames", "actions", made_from, lambda: _actions(frames, batch_size))
    return Statistics(work, made_from, kept)


def _actions(frames: Frames, batch_size: int) -> Contents:
    chunks = [
        batch.tensors[ACTION].reshape(len(batch.frames), -1).double().numpy()
        for batch in frames.batches(batch_size)
    ]
    return {"actions": np.concatenate(chunks)}, {}


def _groups(
    running: Sequence[tuple[QuantizableTensor, type[Accumulator], bool]],
    frames: int,
    memory_bytes: int,
) -> Iterator[Group]:
    """Accumulators that fit into the memory together, those that need gradients first.

    running: tensors in forward order, each with what it needs and whether that is there already;
    the groups are the same whatever is there, so that a stopped pass is found again.
    """
    first = [each for each in running if each[1].needs_gradients]
    then = [each for each in running if not each[1].needs_gradients]
    group: Group = {}
    taken = 0
    for tensor, kind, is_held in (*first, *then):
        size = kind.state_bytes(*tensor.shape, frames)
        if taken and taken + size > memory_bytes:
            yield group
            group, taken = {}, 0
        if not is_held:
            group.setdefault(tensor, []).append(kind)
        taken += size
    yield group


class _Pass:
    """One run over the frames for some tensors, each with the kinds of statistics it lacks."""

    def __init__(
        self,
        loaded: LoadedPolicy,
        frames: Frames,
        objective: str,
        wanted: Group,
        work: WorkFolder,
        made_from: Mapping[str, str],
    ) -> None:
        self.loaded, self.frames, self.work, self.made_from = loaded, frames, work, made_from
        self.objective = OBJECTIVES[objective]
        self.is_large = sum(p.numel() for p in loaded.policy.parameters()) >= LARGE_POLICY
        self.accumulators = {
            tensor: [kind(tensor.name, *tensor.shape) for kind in kinds]
            for tensor, kinds in wanted.items()
        }

    def collect(
        self, draws: int, seed: int, batch_size: int, save_every: int, progress: Progress | None
    ) -> None:
        """Runs over the frames and writes an artefact for each tensor and kind."""
        if not self.accumulators:
            return
        every = [each for found in self.accumulators.values() for each in found]
        draws = draws if any(each.needs_draws for each in every) else 1
        total, seen = draws * len(self.frames), 0
        done = saved = self._resume()
        saved_at = time.monotonic()
        still = frozen(self.loaded.policy) if self._guided(0) else nullcontext()
        packed = save_in_bfloat16(self.loaded.policy) if self.is_large else nullcontext()
        products = bfloat16_products() if self.is_large else nullcontext()
        if self.is_large:
            batch_size = 1
        with still, products, bar(progress, "statistics", total, done) as advance:
            for draw in range(draws):
                hooks = self._hooks(draw)
                for batch in self.frames.batches(batch_size):
                    count = len(batch.frames)
                    seen += count
                    if seen <= done:
                        continue
                    with (
                        hooks.watch(count),
                        self.loaded.computing(),
                        packed,
                        torch.set_grad_enabled(self._guided(draw)),
                    ):
                        values = self.objective(self.loaded, batch, seed, draw)
                        if self._guided(draw):
                            values.sum().backward()
                    advance(count)
                    is_due = time.monotonic() - saved_at >= SAVE_SECONDS
                    if (is_due or seen - saved >= save_every) and seen < total:
                        self._save(seen)
                        saved, saved_at = seen, time.monotonic()
        self._finish(total)

    def _taking(self, draw: int) -> dict[QuantizableTensor, list[Accumulator]]:
        """The accumulators that take this draw."""
        return {
            tensor: [each for each in found if draw == 0 or each.needs_draws]
            for tensor, found in self.accumulators.items()
        }

    def _guided(self, draw: int) -> bool:
        return any(a.needs_gradients for found in self._taking(draw).values() for a in found)

    def _hooks(self, draw: int) -> LayerHooks:
        by_path = {tensor.module: found for tensor, found in self._taking(draw).items()}
        return LayerHooks(make_layers(self.loaded.policy, by_path), in_bfloat16=self.is_large)

    @property
    def _item(self) -> str:
        return next(iter(self.accumulators)).name

    def _names(self) -> list[str]:
        return [f"{t.name} {each.name}" for t, found in self.accumulators.items() for each in found]

    def _resume(self) -> int:
        """Takes over a saved state; returns how many samples are in it."""
        stored = self.work.load(PARTIAL_STAGE, self._item, self.made_from)
        if stored is None or stored.info["names"] != self._names():
            return 0
        for tensor, found in self.accumulators.items():
            for each in found:
                prefix = f"{tensor.name} {each.name} "
                arrays = stored.arrays.items()
                each.restore(
                    {key.removeprefix(prefix): a for key, a in arrays if key.startswith(prefix)}
                )
        return int(stored.info["samples"])

    def _save(self, samples: int) -> None:
        arrays = {
            f"{tensor.name} {each.name} {key}": array
            for tensor, found in self.accumulators.items()
            for each in found
            for key, array in each.state().items()
        }
        info = {"samples": samples, "names": self._names()}
        self.work.save(PARTIAL_STAGE, self._item, self.made_from, (arrays, info))

    def _finish(self, total: int) -> None:
        for tensor, found in self.accumulators.items():
            for each in found:
                samples = total if each.needs_draws else len(self.frames)
                self.work.save(each.name, tensor.name, self.made_from, (each.result(samples), {}))
        self.work.discard(PARTIAL_STAGE, self._item)
