"""The event log: one JSON line for everything that happens in a deployment."""

import json
import threading
import time
from pathlib import Path
from typing import Any

from actquant.common.errors import RecordingError


class EventLog:
    """Appends lines `{"time_s", "monotonic_s", "kind", "detail", …}` to a file, from any thread.

    Lines reach the operating system at once. Once a write has failed nothing more is written:
    `failure` says why, and the episode ends by it (`check`).
    """

    def __init__(self, path: Path) -> None:
        """Raises RecordingError if the file cannot be made."""
        self.path, self.failure = Path(path), ""
        self._lock = threading.Lock()
        self._context: dict[str, Any] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise RecordingError(f"no event log can be written at {self.path}: {error}") from error

    def set_context(self, **context: Any) -> None:
        """Sets what every following event says too, e.g. the episode's number."""
        self._context = context

    def add(self, kind: str, detail: str = "", **more: Any) -> None:
        """Logs one event; never raises, so that it can be called on the way to a stop."""
        event = {
            "time_s": time.time(),
            "monotonic_s": time.monotonic(),
            **self._context,
            "kind": kind,
            "detail": detail,
            **more,
        }
        line = json.dumps(event, default=str).encode() + b"\n"
        with self._lock:
            if not self.failure:
                try:
                    written = self._file.write(line)
                    if written != len(line):
                        self.failure = f"{self.path} could not be written whole: the disk is full"
                except OSError as error:
                    self.failure = f"{self.path} cannot be written: {error}"

    def check(self) -> None:
        """Raises RecordingError if an event could not be written."""
        if self.failure:
            raise RecordingError(self.failure)

    def close(self) -> None:
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of an event log; a torn last one is left out."""
    events = []
    for line in Path(path).read_bytes().splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events
