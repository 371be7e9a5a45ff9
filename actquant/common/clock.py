"""How long the stages of a command take, and a bar for each of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import Progress

from actquant.common.progress import bar


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
