"""How long each part of the path from a camera's picture to the arm's motion takes."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import RobotError

MOVED_RAD = 5e-4
"""A joint that is this far from where it stood has moved; encoders and servo noise are below."""
AT_REST_RAD_S = 5e-3
_POLL_S = 0.002
_GIVE_UP_S = 1.0

Joints = NDArray[np.float64]
ReadState = Callable[[], tuple[float, Joints]]
"""The arm's newest state: when it was measured (time.monotonic), joints [6] rad."""


class Percentiles(BaseModel):
    """Of n durations, in ms."""

    model_config = ConfigDict(extra="forbid")

    n: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles | None":
        """Returns the percentiles of durations [n] (s); None of no durations."""
        if not len(seconds):
            return None
        values = 1e3 * np.asarray(seconds, np.float64)
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        return cls(n=len(values), p50=p50, p95=p95, p99=p99, max=values.max())


class Latencies:
    """Durations in seconds, gathered by the name of what took them."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        self._seconds.setdefault(name, []).append(seconds)

    def percentiles(self) -> dict[str, Percentiles]:
        pairs = ((name, Percentiles.of(values)) for name, values in self._seconds.items())
        return {name: value for name, value in pairs if value is not None}


def is_at_rest(speeds: Joints) -> bool:
    """Returns whether joints that move at `speeds` [6] (rad/s) are at rest."""
    return bool(np.abs(speeds).max() < AT_REST_RAD_S)


@dataclass(frozen=True)
class Motion:
    """A command that moved the arm from standstill (all time.monotonic)."""

    camera_time_s: float
    sent_s: float
    moved_s: float


@dataclass(frozen=True, eq=False)
class _Command:
    camera_time_s: float
    sent_s: float
    joints: Joints
    commanded: Joints


class MotionWatch:
    """Sees when the arm begins to move after a command, where it stood before.

    Only from standstill is there a first motion to see: a command to an arm that moves anyway
    changes its course, and is not measured.

    Attributes:
        motions: what was seen; complete after `close`.
    """

    def __init__(self, read_state: ReadState) -> None:
        self.motions: list[Motion] = []
        self._read = read_state
        self._watched: _Command | None = None
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="motion watch", daemon=True)
        self._thread.start()

    def sent(self, camera_time_s: float, sent_s: float, joints: Joints, commanded: Joints) -> None:
        """Takes note that a command was sent at `sent_s` to an arm at rest at `joints` [6] (rad),
        which was told before to be at `commanded` [6]. It takes the place of the one that was
        watched."""
        self._watched = _Command(camera_time_s, sent_s, joints, commanded)
        self._wake.set()

    def goes_on(self, commanded: Joints) -> None:
        """Takes note that another command is about to be sent, with the arm told to be at
        `commanded` [6] (rad).

        If the watched one has not led away from where the arm stood, motion would be the later's.
        """
        watched = self._watched
        if watched is not None and np.abs(commanded - watched.commanded).max() <= MOVED_RAD:
            self._watched = None

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            watched = self._watched
            if watched is not None and not self._closed:
                try:
                    self._follow(watched)
                except RobotError:
                    continue  # the state is lost: this motion was not seen, and the loop will tell

    def _follow(self, command: _Command) -> None:
        deadline = command.sent_s + _GIVE_UP_S
        while not self._closed and self._watched is command and time.monotonic() < deadline:
            measured_s, joints = self._read()
            moved = np.abs(joints - command.joints).max() > MOVED_RAD
            if measured_s >= command.sent_s and moved:
                if self._watched is command:
                    self.motions.append(Motion(command.camera_time_s, command.sent_s, measured_s))
                return
            time.sleep(_POLL_S)
