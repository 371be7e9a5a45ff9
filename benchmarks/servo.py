"""How regular the servo loop is, whether it grows, and how soon the arm stands still after a fault.

    python benchmarks/servo.py --minutes 30 --load --json

An `Arm` moves against a fake controller, in the commands' rhythm of a policy at 10 Hz. First it
moves for so many minutes, with `--load` beside a process for each processor that does nothing but
compute; then every fault is caused `--repeats` times while a joint moves at over 0.3 rad/s, and the
time is taken until the controller reports no joint faster than 0.01 rad/s.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.limits import limits_for
from sway import CYCLE_S, Sway
from ur_fake_controller import FakeController

FAST_RAD_S, STILL_RAD_S = 0.3, 0.01
STILL_FOR_S = 0.05
PATIENCE_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of continuous motion")
    parser.add_argument("--repeats", type=int, default=5, help="of each fault; 0: no faults")
    parser.add_argument("--load", action="store_true", help="compute on every processor meanwhile")
    parser.add_argument("--model", choices=("ur3e", "ur3"), default="ur3e")
    parser.add_argument("--host", default="127.0.0.57", help="loopback address of the controller")
    parser.add_argument("--max-state-age", type=float, default=0.5, metavar="S",
        help="raised over the default, since the controller here shares the machine")  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--command", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    limits = dataclasses.replace(limits_for(options.model), max_state_age_s=options.max_state_age)
    config = ArmConfig(options.host, model=options.model, gripper="none", limits=limits)
    if options.command:
        command(config)
        return
    with FakeController(options.host, model=options.model, unlock_delay=0.1) as fake:
        report: dict[str, Any] = {
            "model": options.model, "load": options.load, "processors": os.cpu_count(),
            "max_state_age_s": limits.max_state_age_s, "hold_after_s": limits.hold_after_s,
        }  # fmt: skip
        with load(options.load):
            report["steady"] = measure_steadiness(fake, config, 60.0 * options.minutes)
        report["standstill_ms"] = measure_faults(fake, config, options.repeats)
    print(json.dumps(report, indent=2) if options.json else table(report))


@contextlib.contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Starts a process for each processor that computes."""
    count = (os.cpu_count() or 1) if wanted else 0
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**6))"])
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def measure_steadiness(fake: FakeController, config: ArmConfig, seconds: float) -> dict[str, Any]:
    """Measures periods, memory and events of one uninterrupted motion."""
    fake.reset()
    with Arm(config) as arm:
        sway = Sway(arm)
        first = last = resident_kib(servo_of(arm))
        begin = time.monotonic()
        while time.monotonic() < begin + seconds and sway.error is None:
            time.sleep(0.2)
            last = resident_kib(servo_of(arm)) or last
            if time.monotonic() < begin + min(5.0, seconds / 2):
                first = last
        jitter = dataclasses.asdict(arm.jitter())
        sway.end()
        events = [dataclasses.asdict(event) for event in arm.events()]
    return {
        "seconds": seconds,
        "ended_early": None if sway.error is None else str(sway.error),
        **jitter,
        "rss_first_kib": first,
        "rss_last_kib": last,
        "holds": sum(event["kind"] == "hold" for event in events),
        "refusals": sum(event["kind"] == "refused" for event in events),
        "realtime": next(event["detail"] for event in events if event["kind"] == "realtime"),
        "controller_lateness": fake.state()["lateness"],
    }


def resident_kib(pid: int) -> int:
    """Returns resident memory of a process (KiB); 0 where it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def measure_faults(fake: FakeController, config: ArmConfig, repeats: int) -> dict[str, Any]:
    """Times (ms) from each fault to standstill, and what the arm said of it."""
    faults: dict[str, Callable[[Arm, Sway], object]] = {
        "protective stop": lambda arm, sway: fake.faults.protective_stop(),
        "emergency stop": lambda arm, sway: fake.faults.emergency_stop(),
        "safeguard stop": lambda arm, sway: fake.faults.safeguard_stop(),
        "frozen output": lambda arm, sway: fake.faults.freeze_output(),
        "dropped connection": lambda arm, sway: fake.faults.drop_rtde(),
        "servo process killed": lambda arm, sway: os.kill(servo_of(arm), signal.SIGKILL),
        "servo process hangs": lambda arm, sway: os.kill(servo_of(arm), signal.SIGSTOP),
        "late policy": lambda arm, sway: sway.end(),
        "stop by a key": lambda arm, sway: arm.stop("key"),
    }
    results = {name: [one_fault(fake, config, cause) for _ in range(repeats)]
               for name, cause in faults.items()}  # fmt: skip
    results["parent killed"] = [killed_parent(fake) for _ in range(repeats)]
    return {
        name: {
            "median": float(np.median([ms for ms, _ in runs])),
            "max": max(ms for ms, _ in runs),
            "told": sorted({told for _, told in runs}),
        }
        for name, runs in results.items()
        if runs
    }


def servo_of(arm: Arm) -> int:
    assert arm.servo_pid is not None
    return arm.servo_pid


def one_fault(
    fake: FakeController, config: ArmConfig, cause: Callable[[Arm, Sway], object]
) -> tuple[float, str]:
    fake.faults.clear()
    fake.reset()
    arm = Arm(config)
    arm.recover("benchmark")
    sway = Sway(arm)
    try:
        wait_until_fast(fake, sway)
        began = time.monotonic()
        cause(arm, sway)
        taken = time_to_standstill(fake, began)
        with contextlib.suppress(ProcessLookupError):  # where it has ended
            os.kill(servo_of(arm), signal.SIGCONT)
        wait_for(lambda: arm.stopped is not None, "a word of the stop")
        return taken, "" if arm.stopped is None else arm.stopped.kind
    finally:
        sway.end()
        arm.disconnect()


def killed_parent(fake: FakeController) -> tuple[float, str]:
    fake.reset()
    arguments = [sys.executable, *sys.argv, "--command"]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        wait_until_fast(fake)
        began = time.monotonic()
        parent.kill()
        taken = time_to_standstill(fake, began)
        wait_for(lambda: fake.state()["clients"]["rtde"] == 0, "the end of the servo process")
        return taken, fake.state()["program"].lower()
    finally:
        parent.kill()
        parent.communicate()


def command(config: ArmConfig) -> None:
    """Moves the arm, as the parent that is killed."""
    arm = Arm(config)
    arm.recover("benchmark")
    sway = Sway(arm)
    print("moving", flush=True)
    while sway.error is None:
        time.sleep(0.1)


def speed(fake: FakeController) -> float:
    return float(np.abs(fake.state()["speeds"]).max())


def wait_until_fast(fake: FakeController, sway: Sway | None = None) -> None:
    """Raises the error that has ended the motion, where there is one."""

    def is_fast() -> bool:
        if sway is not None and sway.error is not None:
            raise sway.error
        return speed(fake) > FAST_RAD_S

    time.sleep(CYCLE_S / 2)  # the first turn begins at rest
    wait_for(is_fast, "motion")


def time_to_standstill(fake: FakeController, began: float) -> float:
    """Returns the ms from `began` (time.monotonic) to the first of 50 ms without motion."""
    still_since = None
    while time.monotonic() < began + PATIENCE_S:
        moving, now = speed(fake) >= STILL_RAD_S, time.monotonic()
        if moving:
            still_since = None
        elif still_since is None:
            still_since = now
        elif now - still_since > STILL_FOR_S:
            return 1e3 * (still_since - began)
        time.sleep(0.001)
    raise TimeoutError(f"the arm still moved after {PATIENCE_S} s")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {PATIENCE_S} s")
        time.sleep(0.002)


def table(report: dict[str, Any]) -> str:
    steady = report["steady"]
    lines = [
        f"{report['model']}, {steady['seconds']:.0f} s of motion"
        f"{' under load' if report['load'] else ''}; {steady['realtime']}",
        f"rate {steady['rate_hz']:.1f} Hz, {steady['cycles']} cycles, {steady['late']} late by "
        "over half a period",
        f"period p50 {steady['p50_ms']:.2f}, p99 {steady['p99_ms']:.2f}, "
        f"p99.9 {steady['p999_ms']:.2f}, max {steady['max_ms']:.2f} ms",
        f"resident memory {steady['rss_first_kib']} KiB after 5 s, {steady['rss_last_kib']} KiB at "
        "the end",
        f"{steady['holds']} holds, {steady['refusals']} refusals, ended early: "
        f"{steady['ended_early']}",
        "",
        "fault                    median ms   max ms   told",
    ]
    lines += [
        f"{name:22} {value['median']:11.0f} {value['max']:8.0f}   {', '.join(value['told'])}"
        for name, value in report["standstill_ms"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
