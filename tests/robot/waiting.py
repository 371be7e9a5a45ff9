"""Waiting for what a busy machine does late."""

import time
from collections.abc import Callable

PATIENCE = 30.0  # s


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in {PATIENCE} s it did not come to: {what}"
        time.sleep(0.01)
