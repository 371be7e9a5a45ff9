"""Ctrl-C and SIGTERM as one exception that unwinds the stack."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def unwinding() -> Iterator[list[int]]:
    """Raises KeyboardInterrupt for SIGINT and SIGTERM inside; yields the numbers received.

    What unwinds may arrive as another exception: native code that calls Python (safetensors, for
    one) turns whatever it meets there into an error of its own.
    """
    received: list[int] = []

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, unwind) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
