"""A policy file in closed loop through the wire, against the same starts in direct simulation.

`closed_loop.py MODEL --starts 0:17 --mode sync`: the deployment loop, the driver, ur-rtde, the fake
controller and its cameras, all in real time; success is what the controller's simulation says.
Episodes are as long as the task's limit, and end early with success, in both. The noise of chunk c
of a start is the same in both.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lerobot_env_ur3e import TASK_NAMES
from lerobot_env_ur3e.tasks import find_task
from lerobot_robot_ur.dashboard import bring_back
from rich.console import Console
from ur_fake_controller import FakeController

from actquant.cli.options import key_values
from actquant.common.files import write_text
from actquant.common.statistics import wilson95
from actquant.control.policy import open_policy
from actquant.deploy.latency import Percentiles
from actquant.deploy.operator import ConsoleOperator
from actquant.deploy.report import EpisodeReport
from actquant.deploy.session import Session
from actquant.deploy.settings import DeploySettings
from actquant.environments.base import open_suite
from actquant.evaluation.compare import paired_difference
from actquant.evaluation.rollout import run_episode
from actquant.evaluation.starts import parse_starts

HOST, PERIOD_S, SETTLE_S = "127.0.0.90", 0.1, 0.5
_PATIENCE = 4.0  # times what as many actions take without any wait
_PRIORITY = 20  # of the controller, where it is granted: a real one has its own computer


def main() -> None:
    arguments = _arguments()
    direct = direct_simulation(arguments)
    wire, reports = through_the_wire(arguments)
    result = summarise(arguments, direct, wire, reports)
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=1))
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--starts", default="0:17")
    parser.add_argument("--tasks", default="", help="with commas; default all")
    parser.add_argument("--mode", choices=("sync", "async", "rtc"), default="sync")
    parser.add_argument("--steps-per-chunk", type=int)
    parser.add_argument("--settle", type=float, default=1.0, help="as of `actquant deploy`")
    parser.add_argument("--speed", type=float, default=1.0, help="as of `actquant deploy`")
    parser.add_argument("--slider", type=float, default=1.0, help="the pendant's, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--arm", action="append", default=[], help="NAME=VALUE of ArmConfig")
    parser.add_argument("--limit", action="append", default=[], help="NAME=VALUE of Limits")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.tasks = arguments.tasks.split(",") if arguments.tasks else list(TASK_NAMES)
    arguments.pairs = [(t, s) for s in parse_starts(arguments.starts) for t in arguments.tasks]
    return arguments


def direct_simulation(arguments: argparse.Namespace) -> list[bool]:
    """Success of every (task, start) without wire, cameras' compression and real time."""
    suite, policy = open_suite("ur3e"), open_policy(arguments.model)
    successes = []
    for task, start in arguments.pairs:
        episode = run_episode(
            suite,
            policy,
            task,
            start,
            seed=arguments.seed,
            steps_per_chunk=arguments.steps_per_chunk,
        )
        successes.append(episode.success)
        print(f"direct {task} {start}: {episode.success}", file=sys.stderr, flush=True)
    return successes


def through_the_wire(arguments: argparse.Namespace) -> tuple[list[bool], list[EpisodeReport]]:
    """Success of every (task, start) as the controller's simulation has it, and the reports."""
    successes, reports = [], []
    with (
        tempfile.TemporaryDirectory() as log,
        FakeController(arguments.host, cameras=True, image_size=96, unlock_delay=0.1) as controller,
    ):
        _prefer(controller)
        controller.faults.set_slider(arguments.slider)
        with Session(_settings(arguments, Path(log)), _operator()) as session:
            for number, (task, start) in enumerate(arguments.pairs):
                success, report = _episode(session, controller, number, task, start, arguments.seed)
                successes.append(success)
                reports.append(report)
                print(
                    f"wire {task} {start}: {success}, {report.ending.kind} "
                    f"({report.ending.detail}), {report.actions} actions, {report.seconds:.1f} s, "
                    f"{report.late_ticks} late, refused {report.refusals} "
                    f"{controller.state()['stop_reason']}",
                    file=sys.stderr,
                    flush=True,
                )
                if session.stop.leave:
                    sys.exit(f"stopped by {session.stop.by}")
    return successes, reports


def _prefer(controller: FakeController) -> None:
    try:
        mask = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        pid = controller.request("process_id")
        os.sched_setscheduler(pid, mask, os.sched_param(_PRIORITY))
    except PermissionError:
        print("the controller runs without priority", file=sys.stderr)


def _settings(arguments: argparse.Namespace, log: Path) -> DeploySettings:
    return DeploySettings(
        model=arguments.model,
        robot="ur3e",
        ip=arguments.host,
        task="set for each episode",
        cameras=[f"{name}=zmq:{arguments.host}:5555:{name}" for name in ("scene", "wrist")],
        mode=arguments.mode,
        steps_per_chunk=arguments.steps_per_chunk,
        yes=True,
        settle_s=arguments.settle,
        speed=arguments.speed,
        log=log,
        limits=key_values("--limit", arguments.limit),
        arm=key_values("--arm", arguments.arm),
    )


def _operator() -> ConsoleOperator:
    return ConsoleOperator(Console(stderr=True))


def _episode(
    session: Session, controller: FakeController, number: int, task: str, start: int, seed: int
) -> tuple[bool, EpisodeReport]:
    port = session.robot.port
    if port.stopped is not None:
        port.recover("benchmark")
    # The servo streams its last target: it has to end before the arm is put elsewhere.
    port.disconnect()
    if controller.state()["safety_mode"] != "NORMAL":
        bring_back(controller.host)
    controller.reset(task, start)
    port.connect()
    session.robot.task = controller.state()["instruction"]
    time.sleep(SETTLE_S)
    limit = find_task(task).limit
    noise = session.policy.seeded_noise(seed, task, start)
    report = session.run_episode(
        number,
        noise=noise,
        is_done=lambda: controller.state()["was_successful"],
        max_actions=limit,
        max_seconds=_PATIENCE * limit * PERIOD_S,
    )
    # Asked at the limit; what the arm does afterwards, while it comes to rest, does not count.
    return report.ending.kind == "done", report


def summarise(
    arguments: argparse.Namespace,
    direct: list[bool],
    wire: list[bool],
    reports: list[EpisodeReport],
) -> dict[str, Any]:
    """Rates with Wilson intervals, the paired difference (wire − direct), latencies over all."""
    n = len(wire)
    pair = paired_difference(wire, direct)
    return {
        "mode": arguments.mode,
        "starts": arguments.starts,
        "speed": arguments.speed,
        "slider": arguments.slider,
        "n": n,
        "wire": {"successes": sum(wire), "wilson95": wilson95(sum(wire), n)},
        "direct": {"successes": sum(direct), "wilson95": wilson95(sum(direct), n)},
        "paired": pair.model_dump(),
        "tasks": {
            task: {
                "wire": sum(
                    w for w, (t, _) in zip(wire, arguments.pairs, strict=True) if t == task
                ),
                "direct": sum(
                    d for d, (t, _) in zip(direct, arguments.pairs, strict=True) if t == task
                ),
                "n": sum(t == task for t, _ in arguments.pairs),
            }
            for task in arguments.tasks
        },
        "mean_actions": sum(r.actions for r in reports) / n,
        "late_ticks": sum(r.late_ticks for r in reports),
        "ticks": sum(r.ticks for r in reports),
        "refusals": sum(sum(r.refusals.values()) for r in reports),
        "latency_ms_of_episode_medians": _medians(reports),
        "episodes": [
            {"task": t, "start": s, "wire": w, "direct": d, "ending": r.ending.kind}
            for (t, s), w, d, r in zip(arguments.pairs, wire, direct, reports, strict=True)
        ],
    }


def _medians(reports: list[EpisodeReport]) -> dict[str, dict[str, float]]:
    names = {name for report in reports for name in report.latency_ms}
    found = {}
    for name in sorted(names):
        values = [r.latency_ms[name].p50 / 1e3 for r in reports if name in r.latency_ms]
        percentiles = Percentiles.of(values)
        assert percentiles is not None
        found[name] = percentiles.model_dump()
    return found


def _print(result: dict[str, Any]) -> None:
    for side in ("wire", "direct"):
        low, high = result[side]["wilson95"]
        print(f"{side}: {result[side]['successes']}/{result['n']} [{low:.3f}, {high:.3f}]")
    print(f"McNemar p {result['paired']['mcnemar_p']:.3g}, {result['paired']}")
    for name, values in result["latency_ms_of_episode_medians"].items():
        print(f"{name}: median of medians {values['p50']:.1f} ms")


if __name__ == "__main__":
    main()
