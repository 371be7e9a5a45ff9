"""What the servo process and its parent tell each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REFUSED = "refused"  # kind of a report: the arm comes to rest instead


@dataclass(frozen=True)
class Move:
    """Go through `joints` [n, 6] (rad) at `times_s` [n] (of the arm's clock).

    Where `is_streamed`, another command is due when the first of them is.
    """

    sequence: int
    joints: Array
    times_s: Array
    is_streamed: bool


@dataclass(frozen=True)
class Hold:
    """Decelerate and stay."""

    sequence: int


@dataclass(frozen=True)
class Free:
    """Come to rest and let the arm be led by hand, or no longer."""

    sequence: int
    is_on: bool


@dataclass(frozen=True)
class Halt:
    """Controlled stop and end of the program; of the process too where `leave`."""

    reason: str
    leave: bool = False


@dataclass(frozen=True)
class Ready:
    """The servo process is connected; `notes` say what it was granted by the system."""

    notes: list[str]


@dataclass(frozen=True)
class Failed:
    """The servo process could not connect."""

    reason: str


@dataclass(frozen=True)
class Report:
    """Something that happened in the servo process, at `time_s` (time.monotonic)."""

    time_s: float
    kind: str
    detail: str


@dataclass(frozen=True)
class StopReport(Report):
    """The arm stopped; `kind` is a StopKind."""
