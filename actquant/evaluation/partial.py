"""Finished episodes of an evaluation that has not ended, one JSON line each."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actquant.common.errors import OutputError
from actquant.evaluation.rollout import Episode

SUFFIX = ".partial.jsonl"


class PartialResult:
    """What an evaluation has found so far, kept beside its result.

    episodes: by task and start; began: the date of the first run.
    """

    def __init__(self, path: Path | None, began: str) -> None:
        """Takes over what is at `path`; without one nothing is kept."""
        self.path, self.began = path, began
        self.episodes: dict[tuple[str, int], Episode] = {}
        if path is not None:
            self._take_over(path)

    def _take_over(self, path: Path) -> None:
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # a kill or a full disk cut the last line
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            try:
                record = json.loads(line)
                if "began" in record:
                    self.began = str(record["began"])
                    continue
                episode = Episode(**record)
                self.episodes[episode.task, episode.start] = episode
            except (ValueError, TypeError):
                continue
        if not whole:
            self._append({"began": self.began})

    def add(self, episode: Episode) -> None:
        """Keeps an episode. Raises OutputError if it cannot be written."""
        self._append(asdict(episode))
        self.episodes[episode.task, episode.start] = episode

    def _append(self, record: dict[str, Any]) -> None:
        if self.path is None:
            return
        line = json.dumps(record).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                written = file.write(line)
                if written < len(line):  # the disk is full: the next write would say so
                    file.write(line[written:])
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror}; the episodes in it are kept"
            ) from error

    def discard(self) -> None:
        """Deletes what was kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
