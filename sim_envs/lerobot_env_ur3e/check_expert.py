"""Measure the scripted expert.

    python -m lerobot_env_ur3e.check_expert --tasks all --starts 0:200 [--jobs 2] [--json]

Without noise it must solve nearly every start; with `--noise` (execution noise added to the
motion) and `--scramble` (random actions before it takes over) it shows how well the expert
recovers, which is what labelling a learned policy's mistakes needs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from .env import UR3eEnv
from .tasks import TASK_NAMES


@dataclass(frozen=True)
class Disturbance:
    """How the expert's execution is disturbed."""

    noise: float = 0.0  # standard deviation added to the six motion components
    scramble: int = 0  # control steps of random actions at the beginning


@dataclass
class Report:
    """The expert's success on one task."""

    task: str
    starts: int
    successes: int
    mean_steps: float  # control steps of the successful episodes
    longest: int
    failures: list[int]  # start numbers
    seconds: float


def run_episode(env: UR3eEnv, start: int, disturbance: Disturbance) -> tuple[bool, int]:
    """Lets the expert play one start; returns whether it succeeded, and in how many steps."""
    env.reset(options={"start": start})
    rng = np.random.default_rng([start, 7])
    while True:
        if env.steps < disturbance.scramble:
            # Rather downwards, so that it knocks things about.
            action = rng.uniform(-1, 1, 7)
            action[2] -= 0.4
        else:
            action = env.expert_action().astype(float)
            action[:6] += disturbance.noise * rng.standard_normal(6)
        _, _, success, truncated, _ = env.step(action.astype(np.float32))
        if success or truncated:
            return success, env.steps


def check_task(task: str, starts: Iterable[int], disturbance: Disturbance) -> Report:
    """Returns the expert's success on some starts of one task."""
    begin = time.perf_counter()
    env = UR3eEnv(task, render_images=False)
    results = {k: run_episode(env, k, disturbance) for k in starts}
    lengths = [steps for success, steps in results.values() if success]
    return Report(
        task=task,
        starts=len(results),
        successes=len(lengths),
        mean_steps=float(np.mean(lengths)) if lengths else 0.0,
        longest=max(lengths, default=0),
        failures=[k for k, (success, _) in results.items() if not success],
        seconds=time.perf_counter() - begin,
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lerobot_env_ur3e.check_expert")
    parser.add_argument("--tasks", default="all", help=f"all, or some of: {', '.join(TASK_NAMES)}")
    parser.add_argument("--starts", default="0:200", help="first:end, end not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--noise", type=float, default=0.0, help="execution noise (std, of 1)")
    parser.add_argument("--scramble", type=int, default=0, help="random steps at the beginning")
    parser.add_argument("--minimum", type=float, default=0.99, help="success rate to exit 0")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    args = parser.parse_args(arguments)
    args.tasks = list(TASK_NAMES) if args.tasks == "all" else args.tasks.split(",")
    unknown = sorted(set(args.tasks) - set(TASK_NAMES))
    if unknown:
        parser.error(f"unknown tasks {unknown}; choose from {', '.join(TASK_NAMES)}")
    try:
        first, end = (int(x) for x in args.starts.split(":"))
    except ValueError:
        parser.error(f"--starts wants first:end, such as 0:200; got {args.starts!r}")
    args.starts = range(first, end)
    return args


def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    disturbance = Disturbance(args.noise, args.scramble)
    work = [(task, args.starts, disturbance) for task in args.tasks]
    if args.jobs > 1:
        with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
            reports = pool.starmap(check_task, work)
    else:
        reports = [check_task(*w) for w in work]
    if args.json:
        print(json.dumps([asdict(r) for r in reports], indent=1))
    else:
        for r in reports:
            print(
                f"{r.task:14s} {r.successes}/{r.starts} = {r.successes / r.starts:.3f}"
                f"  mean {r.mean_steps:.1f} steps, longest {r.longest}"
                f"  failures {r.failures[:20]}  ({r.seconds:.0f} s)"
            )
    return 0 if all(r.successes >= args.minimum * r.starts for r in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
