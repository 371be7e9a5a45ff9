"""An arm kept in motion, as by a policy at 10 Hz that is never late."""

import threading

import numpy as np
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.errors import RobotError

PERIOD_S, AHEAD = 0.1, 4  # of the commands, and waypoints in each
AMPLITUDE_RAD, CYCLE_S = 0.15, 2.5  # the base turns by twice the amplitude: at most 0.38 rad/s


class Sway:
    """Turns the arm's base to and fro in a thread, until `end` or until the arm stops.

    Attributes:
        error: what ended it, None where `end` did.
    """

    def __init__(self, arm: Arm):
        self._arm, self._start = arm, arm.state().commanded
        self._is_over = threading.Event()
        self.error: RobotError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        begin = self._arm.clock()
        while not self._is_over.is_set():
            first = np.floor((self._arm.clock() - begin) / PERIOD_S) + 1
            times = PERIOD_S * (first + np.arange(AHEAD))
            angles = AMPLITUDE_RAD * (1 - np.cos(2 * np.pi * times / CYCLE_S))
            way = self._start + angles[:, None] * [1, 0, 0, 0, 0, 0]
            try:
                self._arm.move_through(way, begin + times)
                while (left := begin + times[0] - self._arm.clock()) > 0:
                    if self._is_over.wait(left):
                        return
            except RobotError as error:
                self.error = error
                return

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()
