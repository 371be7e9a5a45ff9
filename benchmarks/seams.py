"""What a policy's inference delay costs: success and smoothness of three ways to chain chunks.

    python benchmarks/seams.py [--model FILE.gguf] [--tasks pick_cube …] [--starts 0:10]
        [--modes sync async rtc] [--delays 0 1 2 3 4] [--steps-per-chunk 4] [--max-guidance 10]
        [--execution-horizon 10] [--json FILE]

The reference policy drives the simulated UR3e at 10 Hz. In simulated time, inference takes a whole
number of control steps, 0 to 4 (0 to 400 ms): a chunk begun at step t is there at step t + delay,
whatever this machine takes. Every cell has the same numbered starts and the same noise.

- sync: the arm holds while the policy thinks.
- async: it goes on with the old chunk, then the new one takes over, less the actions executed.
- rtc: the same, and the new chunk is guided to begin as the old one goes on.

The chunk has 8 actions, of which the file has 4 executed. So a chunk begins when 4 of the one
before are left, which is as many as the longest delay consumes, and the guidance reaches as far as
what is left: an execution horizon of 4 (the default of 10 is cut to it).

A step is at a seam if its action is of another chunk than the one before, or if the arm begins or
ends to hold; the arm's first motion is none. Jump: how much the commanded motion (translation and
rotation, in [-1, 1] of the action) changes from step to step. Jerk: the third difference of the
commanded joint positions by the control period, of all joints together; it is at a seam if one of
the two changes of speed that it is made of is. Both are of what the policy commands, before a servo
smooths it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from actquant_runtime import PreviousChunk, Runtime
from rich.console import Console
from rich.table import Table

from actquant.common.files import write_text
from actquant.common.statistics import wilson95
from actquant.control.chunk_scheduler import MODES, ChunkScheduler
from actquant.control.noise import chunk_noise
from actquant.control.simulated_time import SteppedInference
from actquant.environments.base import Suite, open_suite
from actquant.environments.ur3e import as_policy_observation
from actquant.evaluation.starts import parse_starts

ROOT = Path(__file__).parent.parent
PERIOD_S = 0.1
MOTION = 6
"""Components of an action that move the tool; the last one is the gripper."""
HOLDING = -1
"""Stands for the chunk where there is none."""


@dataclass(frozen=True)
class Course:
    """What was commanded in one episode, from its first motion on."""

    actions: np.ndarray
    """[T, 7]"""
    joints: np.ndarray
    """[T + 1, 6], rad: commanded at the start and after every step."""
    chunks: np.ndarray
    """[T]: whose action it was, or HOLDING."""
    steps: int
    """Of the whole episode."""
    success: bool

    @property
    def seams(self) -> np.ndarray:
        """[T - 1] bool: whether step k + 1 is at a seam."""
        return self.chunks[1:] != self.chunks[:-1]

    @property
    def jumps(self) -> np.ndarray:
        """[T - 1]: from step k to k + 1."""
        return np.linalg.norm(np.diff(self.actions[:, :MOTION], axis=0), axis=1)

    @property
    def jerks(self) -> np.ndarray:
        """[T - 2], rad/s³: from the acceleration at step k + 1 to that at k + 2."""
        return np.linalg.norm(np.diff(self.joints, n=3, axis=0), axis=1) / PERIOD_S**3

    @property
    def jerk_seams(self) -> np.ndarray:
        """[T - 2] bool."""
        return self.seams[1:] | self.seams[:-1]


class Drive:
    """One episode in the simulator, and what is commanded in it."""

    def __init__(self, env: Any, start: int) -> None:
        self._env = env
        self._observation, _ = env.reset(options={"start": start})
        self._gripper = np.array([-1.0], np.float32)  # open
        self._actions: list[np.ndarray] = []
        self._joints = [env.snapshot().command.joints]
        self._chunks: list[int] = []
        self.steps = 0
        self.done = self._success = False

    @property
    def observation(self) -> dict[str, Any]:
        return as_policy_observation(self._observation, self._env.instruction)

    def step(self, action: np.ndarray, chunk: int) -> None:
        """Executes an action [7] of a chunk; does nothing after the end of the episode."""
        if self.done:
            return
        action = np.clip(action, -1, 1)
        self._observation, _, terminated, truncated, info = self._env.step(action)
        self.steps += 1
        self._gripper = action[MOTION:]
        self._actions.append(action)
        self._joints.append(self._env.snapshot().command.joints)
        self._chunks.append(chunk)
        self.done, self._success = terminated or truncated, bool(info["is_success"])

    def hold(self) -> None:
        self.step(np.concatenate([np.zeros(MOTION, np.float32), self._gripper]), HOLDING)

    @property
    def course(self) -> Course:
        chunks = np.array(self._chunks)
        first = int(np.argmax(chunks != HOLDING))
        actions, joints = np.stack(self._actions), np.stack(self._joints)
        return Course(actions[first:], joints[first:], chunks[first:], self.steps, self._success)


Act = Callable[[Any, PreviousChunk | None, int], np.ndarray]
"""(observation, left over, number of the chunk in its episode) -> actions [H, 7]."""


def run_episode(
    env: Any, act: Act, start: int, *, mode: str, delay: int, **settings: Any
) -> Course:
    """Runs an episode where a chunk takes `delay` control steps; `settings`: of ChunkScheduler."""
    numbers = itertools.count()
    executor = SteppedInference(lambda: delay, mode=mode)
    scheduler = ChunkScheduler(
        lambda observation, previous: act(observation, previous, next(numbers)),
        mode=mode,
        executor=executor,
        **settings,
    )
    drive = Drive(env, start)
    while not drive.done:
        tick = scheduler.tick(drive.observation)
        if tick is None:
            drive.hold()
        else:
            for _ in range(executor.take_pause()):
                drive.hold()
            drive.step(tick.action, tick.chunk)
        executor.advance()
    return drive.course


@dataclass(frozen=True)
class Smoothness:
    """Of the steps of one kind, over all episodes of a cell."""

    steps: int
    jump_rms: float | None
    jerk_rms: float | None
    """rad/s³"""
    jerk_p99: float | None

    @classmethod
    def of(cls, courses: Sequence[Course], at_seams: bool) -> Smoothness:
        jumps = np.concatenate([c.jumps[c.seams == at_seams] for c in courses])
        jerks = np.concatenate([c.jerks[c.jerk_seams == at_seams] for c in courses])
        return cls(
            steps=len(jumps),
            jump_rms=_rms(jumps),
            jerk_rms=_rms(jerks),
            jerk_p99=float(np.percentile(jerks, 99)) if len(jerks) else None,
        )


def _rms(values: np.ndarray) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


@dataclass(frozen=True)
class Cell:
    mode: str
    delay: int
    """In control steps."""
    n: int
    successes: int
    wilson95: tuple[float, float]
    mean_steps_of_successes: float | None
    seams: Smoothness
    inside: Smoothness
    episodes: list[tuple[str, int, bool, int]]
    """(task, start, success, steps)"""


def measure(
    runtime: Runtime,
    suite: Suite,
    tasks: Sequence[str],
    starts: Sequence[int],
    *,
    mode: str,
    delay: int,
    seed: int = 0,
    **settings: Any,
) -> Cell:
    """Runs every task from every start; `settings` are of the ChunkScheduler."""
    courses, episodes = [], []
    for task in tasks:
        for start in starts:

            def act(
                observation: Any,
                previous: PreviousChunk | None,
                chunk: int,
                task: str = task,
                start: int = start,
            ) -> np.ndarray:
                noise = chunk_noise(runtime.noise_shape, seed, task, start, chunk)
                return runtime.act(observation, noise, previous=previous)

            env = suite.environment(task).env
            course = run_episode(env, act, start, mode=mode, delay=delay, **settings)
            courses.append(course)
            episodes.append((task, start, course.success, course.steps))
    lengths = [steps for _, _, success, steps in episodes if success]
    return Cell(
        mode=mode,
        delay=delay,
        n=len(episodes),
        successes=len(lengths),
        wilson95=wilson95(len(lengths), len(episodes)),
        mean_steps_of_successes=float(np.mean(lengths)) if lengths else None,
        seams=Smoothness.of(courses, at_seams=True),
        inside=Smoothness.of(courses, at_seams=False),
        episodes=episodes,
    )


HEADINGS = (
    "mode", "delay\nms", "success", "95 %", "steps", "seams", "jump\nat seams", "jump\ninside",
    "jerk rms\nat seams", "jerk rms\ninside", "jerk p99\nat seams", "jerk p99\ninside",
)  # fmt: skip


def row(cell: Cell) -> list[str]:
    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    low, high = cell.wilson95
    return [
        cell.mode,
        f"{1e3 * cell.delay * PERIOD_S:.0f}",
        f"{cell.successes}/{cell.n}",
        f"{100 * low:.0f}–{100 * high:.0f}",
        number(cell.mean_steps_of_successes, 0),
        str(cell.seams.steps),
        *(number(part.jump_rms, 2) for part in (cell.seams, cell.inside)),
        *(number(part.jerk_rms, 0) for part in (cell.seams, cell.inside)),
        *(number(part.jerk_p99, 0) for part in (cell.seams, cell.inside)),
    ]


def reference_model(folder: Path) -> Path:
    """Builds the embedded policy with weights of 16 bits."""
    from actquant.compression.pipeline import compress

    path = folder / "reference-f16.gguf"
    compress(ROOT / "exports" / "reference" / "checkpoint", path, recipe="f16", control_rate_hz=10)
    return path


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .gguf; else the reference policy in f16")
    parser.add_argument("--tasks", nargs="+", help="all by default")
    parser.add_argument("--starts", default="0:10")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--delays", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps-per-chunk", type=int, help="the file's by default")
    parser.add_argument("--max-guidance", type=float, default=10.0)
    parser.add_argument("--execution-horizon", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write everything measured")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    suite = open_suite("ur3e")
    cells, table = [], Table(*HEADINGS)
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or reference_model(Path(scratch))
        runtime = Runtime(model, options.threads)
        settings = {
            "steps_per_chunk": options.steps_per_chunk
            or runtime.describe()["action"]["steps_per_chunk"],
            "max_guidance": options.max_guidance,
            "execution_horizon": options.execution_horizon,
            "supports_guidance": runtime.describe()["supports_guidance"],
        }
        for delay in options.delays:
            for mode in options.modes:
                cell = measure(
                    runtime,
                    suite,
                    options.tasks or suite.tasks,
                    parse_starts(options.starts),
                    mode=mode,
                    delay=delay,
                    **settings,
                )
                cells.append(cell)
                table.add_row(*row(cell))
                print("  ".join(row(cell)), file=sys.stderr, flush=True)
    Console(width=130).print(table)
    if options.json:
        content = {
            "model": str(options.model or "exports/reference/checkpoint, recipe f16"),
            "starts": options.starts,
            **settings,
            "period_s": PERIOD_S,
            "cells": [asdict(cell) for cell in cells],
        }
        write_text(options.json, json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
