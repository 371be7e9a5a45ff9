"""Where a controller answers otherwise than `ur_fake_controller`: one line for each hazard.

`ursim_check.py HOST --model ur3e --out found.json`: HOST is URSim's address, a real arm's that
stands free in every direction (it turns its base by 0.3 rad), or a fake controller's. Each check
says what the driver relies on; `differs` is what to look at before the driver is trusted with that
controller. Of these the fake is the least sure: when the watchdog stops the arm and along what
curve, how long servoStop takes, what local mode in motion does, and what pause and resume do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.dashboard import Dashboard
from lerobot_robot_ur.errors import ConnectionFailed, RobotError
from lerobot_robot_ur.limits import limits_for
from lerobot_robot_ur.shared import Phase
from rtde_io import RTDEIOInterface
from rtde_receive import RTDEReceiveInterface
from sway import Sway

STILL_RAD_S, FAST_RAD_S, PATIENCE_S = 0.01, 0.2, 10.0


class Bench:
    """A controller, one arm on it and a look at it from outside."""

    def __init__(self, host: str, model: str, max_state_age_s: float):
        self.host = host
        limits = dataclasses.replace(
            limits_for(model), max_state_age_s=max_state_age_s, table_height_m=-3.0,
            box_low_m=(-3.0, -3.0, -3.0), box_high_m=(3.0, 3.0, 3.0),
        )  # fmt: skip
        bare = {"gripper": "none", "tcp": (0.0,) * 6, "payload_kg": 0.0}
        self.config = ArmConfig(host, model=model, limits=limits, **bare)
        self.receive = RTDEReceiveInterface(host)

    def speed(self) -> float:
        return float(np.abs(self.receive.getActualQd()).max())

    def wait(self, condition: Callable[[], bool]) -> float:
        """Returns after how long (s) a condition came true; infinity where it did not."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > PATIENCE_S:
                return float("inf")
            time.sleep(0.002)
        return time.monotonic() - began

    def fresh(self) -> Arm:
        arm = Arm(self.config)
        arm.recover("ursim_check")
        return arm

    def in_motion(self, check: Callable[[Arm, Sway], tuple[str, bool]]) -> tuple[str, bool]:
        arm = self.fresh()
        sway = Sway(arm)
        try:
            self.wait(lambda: self.speed() > FAST_RAD_S)
            return check(arm, sway)
        finally:
            sway.end()
            arm.disconnect()


def move(bench: Bench) -> tuple[str, bool]:
    arm = bench.fresh()
    try:
        goal = arm.commanded() + [0.1, 0, 0, 0, 0, 0]
        arm.move_to(goal)
        off = float(np.abs(np.array(bench.receive.getActualQ()) - goal).max())
        arm.move_to(goal - [0.1, 0, 0, 0, 0, 0])
        return f"{off:.4f} rad off, {arm.jitter().rate_hz:.0f} Hz", off < 5e-3
    finally:
        arm.disconnect()


def release(bench: Bench) -> tuple[str, bool]:
    """How long servoStop takes: the watchdog is held off for 2 s."""
    arm = bench.fresh()
    longest, begin = 0.0, None
    try:
        start = arm.commanded()
        arm.move_through([start + [0.02, 0, 0, 0, 0, 0]], [arm.clock() + 0.5])
        arm.hold()
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            now, is_releasing = time.monotonic(), arm._read().phase == Phase.RELEASING
            begin = (begin or now) if is_releasing else None
            longest = max(longest, now - begin) if begin else longest
            time.sleep(0.001)
        return f"{1e3 * longest:.0f} ms", arm.stopped is None and longest < 1.0
    finally:
        arm.disconnect()


def slider(bench: Bench) -> tuple[str, bool]:
    """Which variable carries the slider, and that the arm does not lunge when it is put back."""
    io = RTDEIOInterface(bench.host)

    def check(arm: Arm, sway: Sway) -> tuple[str, bool]:
        io.setSpeedSlider(0.3)
        time.sleep(1.0)
        scaling = bench.receive.getSpeedScaling(), bench.receive.getTargetSpeedFraction()
        slow = max(bench.speed() for _ in range(2000) if not time.sleep(0.001))
        io.setSpeedSlider(1.0)
        fast = max(bench.speed() for _ in range(3000) if not time.sleep(0.001))
        told = f"speed_scaling {scaling[0]:.2f}, target_speed_fraction {scaling[1]:.2f}"
        text = f"{told}; {slow:.2f} rad/s, afterwards {fast:.2f}; stopped {arm.stopped}"
        good = abs(scaling[0] * scaling[1] - 0.3) < 0.05 and slow < 0.2 and fast < 0.5
        return text, good and arm.stopped is None

    try:
        return bench.in_motion(check)
    finally:
        io.setSpeedSlider(1.0)
        io.disconnect()


def watchdog(bench: Bench) -> tuple[str, bool]:
    """From a hanging servo process to standstill: 0.1 s, then the controller's own curve."""

    def check(arm: Arm, sway: Sway) -> tuple[str, bool]:
        assert arm.servo_pid is not None
        os.kill(arm.servo_pid, signal.SIGSTOP)
        taken = bench.wait(lambda: bench.speed() < STILL_RAD_S)
        os.kill(arm.servo_pid, signal.SIGCONT)
        bench.wait(lambda: arm.stopped is not None)
        return f"{1e3 * taken:.0f} ms to standstill, then {arm.stopped}", taken < 0.5

    return bench.in_motion(check)


def pause(bench: Bench) -> tuple[str, bool]:
    """Somebody pauses and resumes at the pendant: the arm must not go on by itself."""

    def check(arm: Arm, sway: Sway) -> tuple[str, bool]:
        with Dashboard(bench.host) as dashboard:
            dashboard.ask("pause")
            bench.wait(lambda: arm.stopped is not None)
            bench.wait(lambda: bench.speed() < STILL_RAD_S)
            answer = dashboard.ask("play")
        moves = bench.wait(lambda: bench.speed() > 5 * STILL_RAD_S) < 2.0
        return f"{arm.stopped}; play: {answer!r}; moves on: {moves}", not moves

    return bench.in_motion(check)


def second(bench: Bench) -> tuple[str, bool]:
    def check(arm: Arm, sway: Sway) -> tuple[str, bool]:
        try:
            Arm(bench.config).connect()
        except ConnectionFailed as refused:
            return str(refused), arm.stopped is None and sway.error is None
        return "it took over", False

    return bench.in_motion(check)


def by_hand(what: str) -> Callable[[Bench], tuple[str, bool]]:
    """A check that needs somebody at the pendant, in motion."""

    def run(bench: Bench) -> tuple[str, bool]:
        def check(arm: Arm, sway: Sway) -> tuple[str, bool]:
            input(f"Now, at the pendant: {what}. Then Enter: ")
            rest = bench.wait(lambda: bench.speed() < STILL_RAD_S)
            return f"{arm.stopped}, at rest after {rest:.2f} s", arm.stopped is not None

        return bench.in_motion(check)

    return run


CHECKS: dict[str, Callable[[Bench], tuple[str, bool]]] = {
    "a first motion": move,
    "time of servoStop": release,
    "speed slider": slider,
    "watchdog": watchdog,
    "pause and resume": pause,
    "a second driver": second,
}
BY_HAND = {
    "local mode in motion": by_hand("switch from Remote to Local"),
    "emergency stop": by_hand("press the emergency stop (afterwards release it and power on)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("--model", default="ur3e")
    parser.add_argument("--max-state-age", type=float, default=0.1, metavar="S")
    parser.add_argument("--by-hand", action="store_true", help="also what needs the pendant")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bench = Bench(options.host, options.model, options.max_state_age)
    found = []
    for name, check in (CHECKS | (BY_HAND if options.by_hand else {})).items():
        try:
            text, good = check(bench)
        except RobotError as error:
            text, good = f"{type(error).__name__}: {error}", False
        found.append({"check": name, "found": text, "as_the_fake": good})
        print(f"{'same   ' if good else 'differs'}  {name}: {text}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.flush()
    os._exit(0 if all(row["as_the_fake"] for row in found) else 1)  # ur-rtde's destructors wait


if __name__ == "__main__":
    main()
