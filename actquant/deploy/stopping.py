"""The operator's ways to stop: a key, Ctrl-C, a signal. All of them end in a controlled stop."""

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

END_KEYS = {" ": False, "q": True}
"""Keys that end the episode, and whether the deployment ends with it."""


class StopRequest:
    """Whether somebody wants the motion to stop, and who. May be set from any thread or signal."""

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        """`on_request(by)` is called at once, by the first request, in the caller's thread."""
        self._event, self._on_request = threading.Event(), on_request
        self.by = ""
        self.leave = False
        self.signal_number = 0

    def request(self, by: str, leave: bool, signal_number: int = 0) -> None:
        """`leave`: end the deployment too, not only this episode."""
        self.leave |= leave
        self.signal_number = signal_number or self.signal_number
        if not self.by:
            self.by = by
            if self._on_request:
                self._on_request(by)
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def wait_until(self, deadline_s: float) -> bool:
        """Sleeps until `deadline_s` (time.monotonic) or until a stop is wanted: True then."""
        return self._event.wait(max(0.0, deadline_s - time.monotonic()))


@contextlib.contextmanager
def signals(stop: StopRequest) -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM ask for a stop instead of ending the process."""

    def handle(number: int, _: FrameType | None) -> None:
        stop.request(signal.Signals(number).name, leave=True, signal_number=number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def keys(stop: StopRequest, terminal: TextIO | None = None) -> Iterator[None]:
    """Inside the block a press of one of END_KEYS asks for a stop, if there is a terminal."""
    terminal = terminal or sys.stdin
    if terminal is None or not terminal.isatty():
        yield
        return
    descriptor = terminal.fileno()
    before = termios.tcgetattr(descriptor)
    wake, closing = os.pipe()
    thread = threading.Thread(target=_listen, args=(descriptor, wake, stop), name="keys")
    tty.setcbreak(descriptor)
    try:
        thread.start()
        yield
    finally:
        os.close(closing)  # ends the listener's wait
        thread.join()
        os.close(wake)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _listen(descriptor: int, wake: int, stop: StopRequest) -> None:
    while True:
        readable, _, _ = select.select([descriptor, wake], [], [])
        if wake in readable:
            return
        pressed = os.read(descriptor, 64).decode(errors="ignore")
        if not pressed:
            return
        for key in pressed:
            if key in END_KEYS:
                name = "space" if key == " " else key
                stop.request(f"the operator pressed {name}", leave=END_KEYS[key])
