"""Grippers, each with a thread of its own, so that nothing waits for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import ConfigError, RobotError, StaleState

RATE_HZ = 30.0
_RECONNECT_S = 1.0
_SAME_M = 5e-4  # targets closer than this to the last one are not sent again
_START_TIMEOUT_S = 25.0  # activation closes and opens the fingers once
_LATEST_S = 1.0  # after which an opening that was due and could not be sent is not sent any more
#: Largest opening (m) of each kind.
STROKES_M = {"robotiq_2f85": 0.085, "rg2": 0.110, "rg6": 0.160, "2fg7": 0.070}
KINDS = ("none", *STROKES_M)


class GripperError(RobotError):
    """A gripper does not answer, refuses, or reports a fault."""


@dataclass(frozen=True)
class GripperReading:
    """What a gripper says of itself: opening (m), whether it moves, whether it holds something."""

    opening_m: float
    is_moving: bool
    is_holding: bool


class Gripper(Protocol):
    """A gripper spoken to directly; every method can take some 10 ms and raises GripperError.

    Attributes:
        stroke_m: the largest opening.
    """

    stroke_m: float

    def connect(self) -> None: ...

    def activate(self) -> None:
        """Makes it ready to move, where it is not; the fingers may move."""
        ...

    def move(self, opening_m: float) -> bool:
        """Returns whether the target was taken; False where it has to be offered again later."""
        ...

    def stop(self) -> bool:
        """Stops the fingers where they are; False where it cannot. `move` moves them again."""
        ...

    def read(self) -> GripperReading: ...

    def close(self) -> None: ...


def make_gripper(kind: str, host: str) -> Gripper | None:
    """Returns the gripper of a kind in KINDS at an address; None for "none"."""
    from .onrobot import OnRobotGripper
    from .robotiq import RobotiqGripper

    if kind == "none":
        return None
    if kind == "robotiq_2f85":
        return RobotiqGripper(host)
    if kind in KINDS:
        return OnRobotGripper(host, kind)
    raise ConfigError(f"no gripper {kind!r}; there are {', '.join(KINDS)}")


class GripperThread:
    """Carries out a schedule of openings and keeps the newest reading.

    Args:
        gripper: is connected to by `start`, and used by the thread alone from then on.
        on_event: called with kind and detail when the gripper fails or answers again.
        max_age_s: of a reading that `reading` still gives.
        clock: of the schedule; what is due waits where it raises StaleState.
    """

    def __init__(
        self, gripper: Gripper, on_event: Callable[[str, str], None], max_age_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._gripper, self._on_event, self._max_age = gripper, on_event, max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._schedule: list[tuple[float, float]] = []  # when, opening
        self._target: float | None = None
        self._sent: float | None = None
        self._reading: GripperReading | None = None
        self._read_at = 0.0
        self._failure: str | None = None
        self._has_to_stop = False
        self._ended = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gripper", daemon=True)

    @property
    def stroke_m(self) -> float:
        return self._gripper.stroke_m

    def start(self) -> None:
        """Connects and activates.

        Raises:
            GripperError: it cannot be reached, or does not become active.
        """
        self._thread.start()
        answered = self._started.wait(_START_TIMEOUT_S)
        if self._failure is not None or not answered:
            self.stop()
            raise GripperError(self._failure or "the gripper did not become ready in time")

    def stop(self) -> None:
        """Ends the thread; the fingers go on to their last target."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def schedule(self, openings_m: Sequence[float], times_s: Sequence[float]) -> None:
        """Takes over openings [n] (m) at times [n] (of `clock`), in place of earlier ones."""
        with self._lock:
            self._schedule = sorted(zip(map(float, times_s), map(float, openings_m), strict=True))

    def hold(self) -> None:
        """Forgets what is scheduled or could not be sent yet; the fingers go on to the target they
        have."""
        with self._lock:
            self._schedule, self._target = [], None

    def stop_fingers(self) -> None:
        """Forgets what is scheduled and stops the fingers where they are, if the gripper can."""
        self.hold()
        with self._lock:
            self._has_to_stop = True

    def reading(self) -> GripperReading:
        """Returns the newest reading.

        Raises:
            StaleState: it is older than `max_age_s`; the message says why.
        """
        with self._lock:
            reading, age, failure = self._reading, time.monotonic() - self._read_at, self._failure
        if reading is None or age > self._max_age:
            raise StaleState(f"the gripper has not answered for {age:.1f} s: {failure or 'busy'}")
        return reading

    def _run(self) -> None:
        try:
            self._gripper.connect()
            self._gripper.activate()
            self._cycle()
        except GripperError as error:
            self._failure = str(error)
            self._started.set()
            self._gripper.close()
            return
        self._started.set()
        while not self._ended.wait(1.0 / RATE_HZ):
            try:
                if self._failure is not None:
                    self._gripper.connect()
                self._cycle()
                self._note(None)
            except GripperError as error:
                self._note(str(error))
                self._gripper.close()
                self._ended.wait(_RECONNECT_S)
        self._gripper.close()

    def _cycle(self) -> None:
        """Reads, which fails where the gripper is not ready; then sends what is due."""
        reading = self._gripper.read()
        now = time.monotonic()
        with self._lock:
            self._reading, self._read_at = reading, now
            self._take_due()
            target, has_to_stop, self._has_to_stop = self._target, self._has_to_stop, False
        if has_to_stop:
            self._sent = None
            if not self._gripper.stop() and reading.is_moving:
                self._on_event("gripper", "it cannot be stopped: its fingers go on to their target")
        is_new = target is not None and (self._sent is None or abs(target - self._sent) > _SAME_M)
        if is_new and target is not None and self._gripper.move(target):
            self._sent = target

    def _take_due(self) -> None:
        if not self._schedule:
            return
        try:
            now = self._clock()
        except StaleState:
            return
        while self._schedule and self._schedule[0][0] <= now:
            due, opening = self._schedule.pop(0)
            self._target = opening if now - due < _LATEST_S else None

    def _note(self, failure: str | None) -> None:
        if (failure is None) != (self._failure is None):
            self._on_event("gripper", failure or "the gripper answers again")
        if failure is not None:
            self.hold()  # fingers that move as soon as it answers again would surprise
            self._sent = None  # what it remembers of its target is not known
        self._failure = failure
