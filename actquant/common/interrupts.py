"""Ctrl-C and SIGTERM as one exception that unwinds the stack."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_open: list[list[int]] = []
"""What each open block has received, the innermost last."""


@contextmanager
def unwinding() -> Iterator[list[int]]:
    """Raises KeyboardInterrupt for SIGINT and SIGTERM inside; yields the numbers received.

    What unwinds may arrive as another exception: native code that calls Python (safetensors, for
    one) turns whatever it meets there into an error of its own. Where it is swallowed, as in a weak
    reference's callback, the next `look_again` raises.
    """
    received: list[int] = []

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, unwind) for number in SIGNALS}
    _open.append(received)
    try:
        yield received
    finally:
        _open.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


def look_again() -> None:
    """Raises KeyboardInterrupt if a signal came in an open block of `unwinding`, to be called at
    every step of work: what its handler raised may have been swallowed on the way."""
    if any(_open):
        raise KeyboardInterrupt
