"""The policies that a server has open, each with a queue of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actquant_runtime import ModelFileError, Runtime

from actquant.common.errors import ActquantError
from actquant.serve.metrics import Metrics
from actquant.serve.session import Names

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class BusyModelError(ActquantError):
    """Too many requests wait for a policy, or one waited too long."""


@dataclass(frozen=True)
class Loaded:
    """A file that was opened and has passed its self-test."""

    runtime: Runtime
    about: Mapping[str, Any]
    names: Names
    identity: tuple[int, int, int]


def identity_of(path: Path) -> tuple[int, int, int]:
    """Returns what tells one file of a name from the next: inode, size, time of modification."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def load(path: Path, threads: int, device: str, renamed: Mapping[str, str]) -> Loaded:
    """Opens a file and runs its self-test.

    Raises actquant_runtime.ModelFileError if it is damaged or answers otherwise than where it was
    made.
    """
    try:
        identity = identity_of(path)
    except OSError as error:
        raise ModelFileError(f"cannot open the model file '{path}': {error.strerror}") from error
    runtime = Runtime(path, threads, device)
    about = runtime.describe()
    if about["golden"]:
        found = runtime.self_test()
        if not found["passed"]:
            raise ModelFileError(
                f"'{path}' fails its self-test: {found['worst']:.2g} from what it answered where "
                f"it was made, {found['limit']:g} is allowed"
            )
    return Loaded(runtime, about, Names(about, renamed), identity)


class ServedModel:
    """A policy under a name: requests wait in line, and a new file of the same name takes over.

    queue: requests that may wait or run at a time; deadline_s: how long one may wait.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        metrics: Metrics,
        *,
        threads: int,
        device: str,
        queue: int,
        deadline_s: float,
        renamed: Mapping[str, str],
    ) -> None:
        self.name, self.path = name, path
        self.metrics = metrics
        self.is_broken = False
        self._threads, self._device, self._renamed = threads, device, renamed
        self._queue, self._deadline_s = queue, deadline_s
        self._waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"actquant-{name}")
        self.loaded = load(path, threads, device, renamed)
        self._refused: tuple[int, int, int] | None = None

    async def run(self, compute: Callable[[Loaded], Result]) -> Result:
        """Runs `compute` when it is its turn. Raises BusyModelError, or what `compute` raises."""
        if self._waiting >= self._queue:
            raise BusyModelError(f"{self._queue} requests wait for {self.name} already; try later")
        deadline = time.monotonic() + self._deadline_s

        def in_turn() -> Result:
            if time.monotonic() > deadline:
                raise BusyModelError(
                    f"the request waited longer than {self._deadline_s:g} s for {self.name}"
                )
            return compute(self.loaded)

        self._waiting += 1
        self.metrics.waiting.labels(self.name).set(self._waiting)
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._worker, in_turn)
        except ModelFileError:
            self.is_broken = True
            raise
        finally:
            self._waiting -= 1
            self.metrics.waiting.labels(self.name).set(self._waiting)
        self.is_broken = False
        return result

    async def look_for_another_file(self) -> None:
        """Takes over a file that was renamed to this one's path, if it has the same interface.

        The old one goes on meanwhile, and for good where the new one cannot take its place.
        """
        try:
            found = identity_of(self.path)
        except OSError:
            return  # for a moment, or for good: what is open stays
        if found in (self.loaded.identity, self._refused):
            return
        try:
            other = await asyncio.to_thread(
                load, self.path, self._threads, self._device, self._renamed
            )
            self._check_interface(other)
        except Exception as error:  # whatever is wrong with it, the old one goes on
            self._refused = found
            self.metrics.reloads.labels(self.name, "refused").inc()
            log.warning("%s: the new file is not taken: %s", self.name, error)
            return
        self.loaded, self.is_broken = other, False
        self.metrics.reloads.labels(self.name, "taken").inc()
        log.info("%s: a new file was taken", self.name)

    def _check_interface(self, other: Loaded) -> None:
        old, new = self.loaded.about, other.about
        differ = [
            key
            for key in ("cameras", "optional_cameras", "observation_steps")
            if old[key] != new[key]
        ]
        differ += [key for key in ("state", "action") if old[key]["names"] != new[key]["names"]]
        if old["action"]["chunk_length"] != new["action"]["chunk_length"]:
            differ.append("chunk_length")
        if differ:
            raise ActquantError(f"it differs in {', '.join(differ)}")

    def close(self) -> None:
        """Ends the worker when it has done what it does."""
        self._worker.shutdown(wait=True, cancel_futures=True)
