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

from actquant.common.interrupts import SIGNALS, unwinding

END_KEYS = {" ": False, "q": True}
"""Keys that end the episode, and whether the deployment ends with it."""


class StopRequest:
    """Whether somebody wants the motion to stop, and who.

    May be set from any thread, but from no signal handler: that can interrupt who holds a lock.
    """

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        """`on_request(by)` is called at once, in the caller's thread, by the first request and by
        the first that ends the deployment too."""
        self._event, self._lock, self._on_request = threading.Event(), threading.Lock(), on_request
        self.by = ""
        self.leave = False
        self.signal_number = 0

    def request(self, by: str, leave: bool, signal_number: int = 0) -> None:
        """Asks for a stop; with `leave` of the deployment too, not only of this episode."""
        with self._lock:
            is_news = not self.by or (leave and not self.leave)
            self.by = self.by or by
            self.leave |= leave
            self.signal_number = signal_number or self.signal_number
        self._event.set()
        if is_news and self._on_request:
            self._on_request(by)

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def wait_until(self, deadline_s: float) -> bool:
        """Sleeps until `deadline_s` (time.monotonic) or until a stop is wanted: True then."""
        return self._event.wait(max(0.0, deadline_s - time.monotonic()))


@contextlib.contextmanager
def signals(stop: StopRequest) -> Iterator[None]:
    """Lets SIGINT and SIGTERM ask for a stop inside the block instead of ending the process.

    A thread of its own does: a handler would run in the main thread, only after a native call such
    as an inference has returned, and perhaps while that thread holds a lock that the stop needs.
    """
    with contextlib.ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        thread = threading.Thread(target=_read_signals, args=(reader, stop), name="signals")
        thread.start()
        stack.callback(thread.join)
        stack.callback(os.close, writer)  # the thread ends when it has read what was written
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for number in SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, _left_to_the_thread))
        yield


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Does nothing: only signals that have a handler are written to the pipe."""


def _read_signals(reader: int, stop: StopRequest) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number in SIGNALS:
                stop.request(signal.Signals(number).name, leave=True, signal_number=number)


@contextlib.contextmanager
def interruptible(stop: StopRequest) -> Iterator[None]:
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt inside the block, of which `stop` then knows:
    for questions, while nothing moves."""
    received: list[int] = []
    try:
        with unwinding() as received:
            yield
    finally:
        if received:
            name = signal.Signals(received[0]).name
            stop.request(name, leave=True, signal_number=received[0])


@contextlib.contextmanager
def keys(stop: StopRequest, terminal: TextIO | None = None) -> Iterator[None]:
    """Lets a press of one of END_KEYS ask for a stop inside the block, if there is a terminal.

    So does one that was pressed just before and that nobody has read.
    """
    terminal = terminal or sys.stdin
    if terminal is None or not terminal.isatty():
        yield
        return
    descriptor = terminal.fileno()
    before = termios.tcgetattr(descriptor)
    wake, closing = os.pipe()
    thread = threading.Thread(target=_listen, args=(descriptor, wake, stop), name="keys")
    tty.setcbreak(descriptor, termios.TCSANOW)
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
        if descriptor in readable:
            pressed = os.read(descriptor, 64).decode(errors="ignore")
            for key in pressed:
                if key in END_KEYS:
                    name = "space" if key == " " else key
                    stop.request(f"the operator pressed {name}", leave=END_KEYS[key])
            if not pressed:
                return
        elif wake in readable:
            return
