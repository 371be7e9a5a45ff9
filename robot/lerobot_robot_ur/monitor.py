"""What an arm's servo process reports: a thread that keeps it alive and notices its end."""

from __future__ import annotations

import collections
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .channel import ChannelClosed
from .dashboard import stop_program
from .errors import Stopped
from .messages import REFUSED, Report, StopReport
from .servo_process import ServoProcess
from .stops import StopKind

_BEAT_S = 0.05
_REMEMBERED_EVENTS = 10_000
_JOIN_S = 10.0


@dataclass(frozen=True)
class Event:
    """Something that happened, at `time_s` (time.monotonic).

    `kind` is a StopKind, or: connected, realtime, refused, hold, gripper, dashboard,
    recovered, disconnected.
    """

    time_s: float
    kind: str
    detail: str


class EventQueue:
    """What has happened and nobody has asked for yet; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: collections.deque[Event] = collections.deque(maxlen=_REMEMBERED_EVENTS)

    def note(self, kind: str, detail: str, time_s: float | None = None) -> None:
        """Adds an event, by default of now."""
        event = Event(time.monotonic() if time_s is None else time_s, kind, detail)
        with self._lock:
            self._events.append(event)

    def take(self) -> list[Event]:
        """Returns what has happened since the last call."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events


class Monitor:
    """Watches the servo process of one arm, and the next one after a recovery.

    Args:
        ip: the controller's address.
        events: where reports go.
        on_stop: called with the stop in the monitor's thread when the arm has stopped.

    Attributes:
        stopped: why the arm does not move until it is recovered; None where it may.
        last_refusal: of the last command in motion; empty where there was none.
        refused_in_motion: how many commands the servo process has refused in motion so far.
    """

    def __init__(self, ip: str, events: EventQueue, on_stop: Callable[[Stopped], None]):
        self.stopped: Stopped | None = None
        self.last_refusal = ""
        self.refused_in_motion = 0
        self._ip, self._events, self._on_stop = ip, events, on_stop
        self._is_leaving = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, process: ServoProcess) -> None:
        """Watches a process that has just started."""
        self.stopped = None
        self._is_leaving.clear()
        self._thread = threading.Thread(target=self._watch, args=(process,), daemon=True)
        self._thread.start()

    def expect_the_end(self) -> None:
        """Takes the end of the process for wanted from now on."""
        self._is_leaving.set()

    def join(self) -> None:
        """Waits until the thread has seen the process end."""
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _watch(self, process: ServoProcess) -> None:
        """Beats the heart, takes reports, notices the end of the servo process at once."""
        poll = select.poll()
        poll.register(process.channel.fileno(), select.POLLIN)
        while True:
            process.shared.beat()
            if not poll.poll(1000 * _BEAT_S):
                continue
            try:
                for report in process.channel.receive():
                    self._take(report)
            except ChannelClosed:
                break
        if not self._is_leaving.is_set():
            self._notice_the_end(process)

    def _notice_the_end(self, process: ServoProcess) -> None:
        """Takes note that the servo process has ended by itself."""
        known = self.stopped
        if known is None:
            detail = process.last_words()
            self._take(StopReport(time.monotonic(), StopKind.LINK_LOST, detail))
        # The watchdog stops the arm. But ur-rtde may have connected anew before the process ended,
        # and then a program runs that nothing watches.
        # So may one that a closed safeguard has paused. Stale state is the watchdog's alone.
        is_unsure = known is None or known.kind != StopKind.STALE
        if is_unsure and not stop_program(self._ip):
            self._events.note("dashboard", "it did not confirm that the program is ended")

    def _take(self, report: Report) -> None:
        if isinstance(report, StopReport):
            if self._is_leaving.is_set() and report.kind == StopKind.REQUESTED:
                return
            self.stopped = Stopped(report.kind, report.detail)
            self._on_stop(self.stopped)
        elif report.kind == REFUSED:
            self.last_refusal = report.detail
            self.refused_in_motion += 1
        self._events.note(report.kind, report.detail, report.time_s)
