"""Statistics of every tensor, collected once and kept in the work folder.

An objective, the action loss or the executed actions, runs over the calibration frames with hooks
on the linear layers. Layers are taken in groups whose accumulators fit into a given memory, one
pass a group. Each tensor's statistics are an artefact of their own; a pass that was interrupted
goes on from the samples it has done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress

from actquant.calibration.accumulators import ACCUMULATORS, Accumulator, Arrays, MixedFramesError
from actquant.calibration.dataset import ACTION
from actquant.calibration.frames import Frames
from actquant.calibration.hooks import LayerHooks, frozen, make_layers
from actquant.calibration.losses import OBJECTIVES
from actquant.calibration.work_folder import Contents, WorkFolder
from actquant.common.errors import CalibrationError
from actquant.common.progress import bar
from actquant.policies.base import LoadedPolicy, MatrixKind, QuantizableTensor

PARTIAL_STAGE = "statistics-partial"
MEMORY_BYTES = 2 << 30
"""What the accumulators of one pass may take; one layer's may take more."""
Kinds = Sequence[type[Accumulator]]
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
    memory_bytes: int = MEMORY_BYTES,
    save_every: int = 64,
    progress: Progress | None = None,
) -> Statistics:
    """Collects statistics of all tensors; what the work folder has already is not done again.

    tensors: in forward order, of these kinds of matrices; draws: draws of noise and time per frame,
    for the kinds that need them (the others take the first); made_from: hashes of everything that
    the result depends on; save_every: samples after which the state of a pass is saved.

    Raises CalibrationError if a loss or a result is not finite, or a layer was never used.
    """
    names = dict.fromkeys(name for found in kinds.values() for name in found)
    held = {
        tensor: {name for name in kinds[tensor.kind] if work.holds(name, tensor.name, made_from)}
        for tensor in tensors
    }
    lacking = {name for t in tensors for name in kinds[t.kind] if name not in held[t]}
    kept = tuple(name for name in names if name not in lacking)
    for objective in OBJECTIVES:
        running = {
            tensor: [
                kind
                for name in kinds[tensor.kind]
                if (kind := ACCUMULATORS[name]).objective == objective
            ]
            for tensor in tensors
        }
        for group in _groups(running, len(frames), memory_bytes):
            wanted = {
                tensor: missing
                for tensor in group
                if (missing := [k for k in running[tensor] if k.name not in held[tensor]])
            }
            run = _Pass(loaded, frames, objective, wanted, work, made_from)
            try:
                run.collect(draws, seed, batch_size, save_every, progress)
            except MixedFramesError:
                batch_size = 1  # for all layers that follow, too
                run = _Pass(loaded, frames, objective, wanted, work, made_from)
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
    wanted: Mapping[QuantizableTensor, Kinds], frames: int, memory_bytes: int
) -> Iterator[list[QuantizableTensor]]:
    """Consecutive tensors whose accumulators fit into the memory together."""
    group: list[QuantizableTensor] = []
    taken = 0
    for tensor, kinds in wanted.items():
        size = sum(kind.state_bytes(*tensor.shape, frames) for kind in kinds)
        if group and taken + size > memory_bytes:
            yield group
            group, taken = [], 0
        group.append(tensor)
        taken += size
    if group:
        yield group


class _Pass:
    """One run over the frames for some tensors, each with the kinds of statistics it lacks."""

    def __init__(
        self,
        loaded: LoadedPolicy,
        frames: Frames,
        objective: str,
        wanted: Mapping[QuantizableTensor, Kinds],
        work: WorkFolder,
        made_from: Mapping[str, str],
    ) -> None:
        self.loaded, self.frames, self.work, self.made_from = loaded, frames, work, made_from
        self.objective = OBJECTIVES[objective]
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
        still = frozen(self.loaded.policy) if self._guided(0) else nullcontext()
        with still, bar(progress, "statistics", total, done) as advance:
            for draw in range(draws):
                hooks = self._hooks(draw)
                for batch in self.frames.batches(batch_size):
                    count = len(batch.frames)
                    seen += count
                    if seen <= done:
                        continue
                    with hooks.watch(count), torch.set_grad_enabled(self._guided(draw)):
                        values = self.objective(self.loaded, batch, seed, draw)
                        if self._guided(draw):
                            values.sum().backward()
                    advance(count)
                    if seen - saved >= save_every and seen < total:
                        self._save(seen)
                        saved = seen
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
        return LayerHooks(make_layers(self.loaded.policy, by_path))

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
