"""Training frames on disk: shards of plain .npy arrays, memory-mapped and drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actquant.common.files import atomic_folder

Array = NDArray[Any]


def write_shard(folder: Path, frames: list[dict[str, Array]]) -> None:
    """Writes frames as one shard, whole or not at all."""
    with atomic_folder(folder) as draft:
        for key in frames[0]:
            np.save(draft / f"{key}.npy", np.stack([f[key] for f in frames]))


def read_shard(folder: Path) -> dict[str, Array]:
    return {p.stem: np.load(p, mmap_mode="r") for p in sorted(folder.glob("*.npy"))}


class Source:
    """Shards whose frames are drawn by task."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.shards: list[dict[str, Array]] = []
        self.rows: list[list[Array]] = [[] for _ in range(tasks)]  # per task, [n, 2] shard and row
        self._joined: list[Array] | None = None

    def add(self, folder: Path) -> None:
        shard = read_shard(folder)
        for task in range(self.tasks):
            rows = np.flatnonzero(shard["task"] == task)
            self.rows[task].append(np.stack([np.full_like(rows, len(self.shards)), rows], 1))
        self.shards.append(shard)
        self._joined = None

    def by_task(self) -> list[Array]:
        if self._joined is None:
            empty = np.zeros((0, 2), np.int64)
            self._joined = [np.concatenate([empty, *rows]) for rows in self.rows]
        return self._joined

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.by_task())


class Mixture:
    """Batches of demonstrations and of the learner's labelled episodes, weighted by task."""

    def __init__(self, demonstrations: Source, rollouts: Source, share: float) -> None:
        self.demonstrations, self.rollouts = demonstrations, rollouts
        self.share = share  # largest part of a batch that comes from rollouts

    def draw(self, batch: int, weights: Array, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Returns a batch of frames; `weights` [tasks] sum to 1."""
        tasks = rng.choice(len(weights), batch, p=weights)
        picks = []
        for task in tasks:
            old, new = self.demonstrations.by_task()[task], self.rollouts.by_task()[task]
            part = min(self.share, 2 * len(new) / max(1, len(new) + len(old)))
            source, rows = (
                (self.rollouts, new)
                if rng.random() < part and len(new)
                else (self.demonstrations, old)
            )
            shard, row = rows[rng.integers(len(rows))]
            picks.append((source.shards[shard], int(row)))
        return {
            key: torch.from_numpy(np.stack([shard[key][row] for shard, row in picks]))
            for key in picks[0][0]
        }
