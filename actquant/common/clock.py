"""The date of what is written, how long the stages of a command take, and a bar for each."""

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import Progress

from actquant.common.errors import ActquantError
from actquant.common.progress import bar


def iso_date() -> str:
    """Returns the date and time for provenance: that of SOURCE_DATE_EPOCH (seconds) if it is set.

    Raises ActquantError if it is no number of seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = time.time() if given is None else int(given)
        return datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:
        raise ActquantError(f"SOURCE_DATE_EPOCH={given} is no number of seconds") from error


@dataclass
class Clock:
    """Times the stages and shows those that have no bar of their own."""

    progress: Progress | None
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str, *, shown: bool = True) -> Iterator[None]:
        begin = time.perf_counter()
        with bar(self.progress if shown else None, stage, None):
            yield
        spent = time.perf_counter() - begin + self.timings_s.get(stage, 0.0)
        self.timings_s[stage] = round(spent, 3)
