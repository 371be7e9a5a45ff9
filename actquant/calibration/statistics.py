"""Statistics of every tensor, collected once and kept in the work folder.

An objective, the action loss or the executed actions, runs over the calibration frames with hooks
on the layers. Accumulators are taken in groups that fit into a given memory, one pass a group,
those that need gradients first: the others' passes go forward only. Each tensor's statistics are
an artefact of their own; a pass that was interrupted goes on from the samples it has done.

A large policy runs one frame at a time, which keeps all cores busy; what autograd saves of it is
held in bfloat16, and its products are computed from bfloat16 where the processor can and sums in
float32. Its weights may stay on disk.

A GPU that has room for the policy is used.

Several processes take a part of the frames each and put what they found into the work folder, which
they share; the first one adds it up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from actquant.calibration.accumulators import (
    ACCUMULATORS,
    Accumulator,
    Arrays,
    MixedFramesError,
    SecondMoments,
)
from actquant.calibration.bfloat16 import bfloat16_products, save_in_bfloat16
from actquant.calibration.dataset import ACTION
from actquant.calibration.devices import find_device, placed
from actquant.calibration.frames import Batch, Frames
from actquant.calibration.hooks import LayerHooks, frozen, make_layers
from actquant.calibration.losses import OBJECTIVES
from actquant.calibration.work_folder import Contents, WorkFolder
from actquant.common.errors import CalibrationError
from actquant.common.machine import return_freed_memory, total_memory
from actquant.common.processes import ALONE, Processes
from actquant.common.progress import bar
from actquant.policies.base import LoadedPolicy, MatrixKind, QuantizableTensor

PARTIAL_STAGE = "statistics-partial"
MEMORY_SHARE = 1 / 8
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

    def moments(self, tensor: str, statistic: str = SecondMoments.name) -> list[np.ndarray]:
        """Returns the second moments of a layer's inputs, plain or guided: [span, span] of each of
        its `column_spans`. Raises CalibrationError if they were not collected."""
        found = self.of(tensor, statistic)
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
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Statistics:
    """Collects statistics of all tensors; what the work folder has already is not done again.

    tensors: in forward order, of these kinds of matrices; draws: draws of noise and time per frame,
    for the kinds that need them (the others take the first); made_from: hashes of everything that
    the result depends on; memory_bytes: what the accumulators of one pass may take, by default
    MEMORY_SHARE of the machine's; save_every: samples after which the state of a pass is saved, or
    earlier after SAVE_SECONDS; processes: those that collect together, with one work folder.

    Raises CalibrationError if a loss or a result is not finite, a layer was never used, or there
    are more processes than batches.
    """
    if memory_bytes is None:
        own = int(MEMORY_SHARE * total_memory() / processes.neighbours)
        memory_bytes = processes.from_main(lambda: own)
    processes.wait()  # until nobody writes what this one looks for
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
            if not group:
                continue
            job = _Job(loaded, frames, OBJECTIVES[objective], seed, work, made_from, processes)
            run = _Pass(job, group, draws, batch_size)
            if any(processes.gather([run.is_mixed(save_every, progress)])):
                batch_size = 1  # for all layers that follow, too
                run = _Pass(job, group, draws, batch_size)
                run.sum_up(save_every, progress)
            run.finish()
    with processes.main_first():
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


@dataclass(frozen=True)
class _Job:
    """What all passes share."""

    loaded: LoadedPolicy
    frames: Frames
    objective: Callable[[LoadedPolicy, Batch, int, int], Tensor]
    seed: int
    work: WorkFolder
    made_from: Mapping[str, str]
    processes: Processes

    @cached_property
    def is_large(self) -> bool:
        return sum(p.numel() for p in self.loaded.policy.parameters()) >= LARGE_POLICY


class _Pass:
    """One run over the frames for some tensors, each with the kinds of statistics it lacks."""

    def __init__(self, job: _Job, wanted: Group, draws: int, batch_size: int) -> None:
        self.job, self.work, self.made_from = job, job.work, job.made_from
        self.accumulators = {
            tensor: [kind(tensor.name, *tensor.shape) for kind in kinds]
            for tensor, kinds in wanted.items()
        }
        every = (each for found in self.accumulators.values() for each in found)
        self.draws = draws if any(each.needs_draws for each in every) else 1
        self.batch_size = 1 if job.is_large else batch_size
        groups = job.frames.groups(self.batch_size)
        if len(groups) < job.processes.count:
            raise CalibrationError(
                f"{len(groups)} batches of frames are too few for {job.processes.count} "
                "processes: take more frames or fewer processes"
            )
        self.groups = job.processes.span(groups)
        self.samples = self.draws * sum(map(len, self.groups))

    def is_mixed(self, save_every: int, progress: Progress | None) -> bool:
        """Sums up; returns whether that failed since layers mix the frames of a batch."""
        try:
            self.sum_up(save_every, progress)
        except MixedFramesError:
            return True
        return False

    def sum_up(self, save_every: int, progress: Progress | None) -> None:
        """Runs over the frames of this process, from where an earlier run was stopped."""
        job, seen = self.job, 0
        done = saved = self._resume()
        saved_at = time.monotonic()
        still = frozen(job.loaded.policy) if self._guided(0) else nullcontext()
        packed = save_in_bfloat16(job.loaded.policy) if job.is_large else nullcontext()
        products = bfloat16_products() if job.is_large else nullcontext()
        device = placed(job.loaded, find_device(job.loaded))
        with still, products, device, bar(progress, "statistics", self.samples, done) as advance:
            for draw in range(self.draws):
                hooks = self._hooks(draw)
                for positions in self.groups:
                    count = len(positions)
                    seen += count
                    if seen <= done:
                        continue
                    batch = job.frames.batch([job.frames[p] for p in positions])
                    with (
                        hooks.watch(count),
                        job.loaded.computing(),
                        packed,
                        torch.set_grad_enabled(self._guided(draw)),
                    ):
                        values = job.objective(job.loaded, batch, job.seed, draw)
                        if self._guided(draw):
                            if job.is_large:  # between what autograd has saved
                                return_freed_memory()
                            values.sum().backward()
                    if job.is_large:
                        return_freed_memory()
                    advance(count)
                    is_due = time.monotonic() - saved_at >= SAVE_SECONDS
                    if (is_due or seen - saved >= save_every) and seen < self.samples:
                        self._save(seen)
                        saved, saved_at = seen, time.monotonic()

    def finish(self) -> None:
        """Adds up what all processes found, and writes an artefact for each tensor and kind."""
        processes = self.job.processes
        if processes.count > 1:
            if not processes.is_main:
                self._save(self.samples)
            processes.wait()
        if processes.is_main:
            self._merge()
            frames = len(self.job.frames)
            for tensor, found in self.accumulators.items():
                for each in found:
                    result = each.result(self.draws * frames if each.needs_draws else frames)
                    self.work.save(each.name, tensor.name, self.made_from, (result, {}))
        processes.wait()
        self.work.discard(PARTIAL_STAGE, self._own_item)

    def _merge(self) -> None:
        """Adds what the other processes found."""
        for rank in range(1, self.job.processes.count):
            stored = self.work.load(PARTIAL_STAGE, self._item_of(rank), self.made_from)
            if stored is None:
                raise CalibrationError(
                    f"{self.work.folder} lacks what process {rank} found: all processes need one "
                    "work folder"
                )
            for each, arrays in self._by_accumulator(stored.arrays):
                each.merge(arrays)

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
        layers = make_layers(self.job.loaded.policy, by_path)
        return LayerHooks(layers, in_bfloat16=self.job.is_large)

    def _item_of(self, rank: int) -> str:
        """Returns what the saved state of a process is called."""
        first, count = next(iter(self.accumulators)).name, self.job.processes.count
        return first if count == 1 else f"{first}.{rank}of{count}"

    @property
    def _own_item(self) -> str:
        return self._item_of(self.job.processes.rank)

    def _info(self) -> dict[str, Any]:
        """What a saved state has to be of."""
        names = [f"{t.name} {e.name}" for t, found in self.accumulators.items() for e in found]
        return {"names": names, "batch_size": self.batch_size}

    def _resume(self) -> int:
        """Takes over a saved state; returns how many samples are in it."""
        stored = self.work.load(PARTIAL_STAGE, self._own_item, self.made_from)
        if stored is None or stored.info != {**self._info(), "samples": stored.info["samples"]}:
            return 0
        for each, arrays in self._by_accumulator(stored.arrays):
            each.restore(arrays)
        return int(stored.info["samples"])

    def _by_accumulator(self, arrays: Arrays) -> Iterator[tuple[Accumulator, Arrays]]:
        """Yields each accumulator with its part of a saved state."""
        for tensor, found in self.accumulators.items():
            for each in found:
                prefix = f"{tensor.name} {each.name} "
                own = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
                yield each, own

    def _save(self, samples: int) -> None:
        arrays = {
            f"{tensor.name} {each.name} {key}": array
            for tensor, found in self.accumulators.items()
            for each in found
            for key, array in each.state().items()
        }
        info = {**self._info(), "samples": samples}
        self.work.save(PARTIAL_STAGE, self._own_item, self.made_from, (arrays, info))
