"""Commands in processes that can be killed at any moment, and what must then be true.

Processes are forked from one that has imported everything and computed nothing, so that a run costs
its work and not its imports.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from actquant.common.files import TEMPORARY

PRELOADED = [
    "actquant.cli",
    "actquant.sweep.sweep",
    "actquant.sweep.page",
    "actquant.evaluation.evaluate",
    "lerobot.policies.smolvla.modeling_smolvla",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def _run(
    words: list[str], environment: dict[str, str], log: str, sampled_weights: int, script: str
) -> None:
    os.setsid()
    os.environ.update(environment)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    if script:
        sys.argv = [script, *words]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
        return
    from actquant.cli import app
    from actquant.recipes import actquant

    if sampled_weights:
        actquant.SAMPLED_WEIGHTS = sampled_weights
    app(words)


@dataclass(frozen=True)
class Command:
    """A command line that may be started again and again.

    environment: of its process; log: what it says; sampled_weights: see the recipe `actquant`, 0
    for its own; script: what runs in the place of `actquant`.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    sampled_weights: int = 0
    script: Path | None = None

    def start(self) -> BaseProcess:
        """Starts a process of its own session."""
        script = "" if self.script is None else str(self.script)
        environment = dict(self.environment)
        arguments = (list(self.words), environment, str(self.log), self.sampled_weights, script)
        process = _context.Process(target=_run, args=arguments)
        process.start()
        return process

    def finish(self) -> float:
        """Runs it to its end and returns the seconds it took; raises AssertionError if it fails."""
        begin = time.monotonic()
        process = self.start()
        process.join()
        assert process.exitcode == 0, f"exit code {process.exitcode}: {self.log.read_text()}"
        return time.monotonic() - begin

    def kill_when(self, is_time: Callable[[], bool]) -> bool:
        """Kills it (SIGKILL) when it is time; returns False if it came to its end before."""
        process = self.start()
        while process.is_alive() and not is_time():
            time.sleep(0.002)
        running = process.is_alive()
        process.kill()
        process.join()
        assert running or process.exitcode == 0, self.log.read_text()
        return running


def after(seconds: float) -> Callable[[], bool]:
    """Returns what says whether that many seconds have passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Returns what a command that has ended must not leave: temporary files, locks, partial
    results."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if TEMPORARY.fullmatch(path.name)
        or path.name.endswith((".lock", ".partial.jsonl"))
        or path.name.startswith(("began-", "f32-"))
    ]
