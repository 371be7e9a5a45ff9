"""The processes that `accelerate launch` (or torchrun) started for one command, on one machine or
several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

LONGEST_WAIT = timedelta(days=2)
"""One process alone proves, tunes and writes while the others wait."""


def launched() -> bool:
    """Returns whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Returns whether this process is the one that shows progress and results."""
    return not launched() or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `count`; `neighbours` of them are on this machine. Every
    method is called by all of them, in the same order."""

    rank: int = 0
    count: int = 1
    neighbours: int = 1
    state: Any = None
    """Accelerate's."""

    @classmethod
    def join(cls) -> Processes:
        """Joins the others where there are some. Raises what accelerate raises where they cannot
        reach each other."""
        if not launched():
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return cls(state.process_index, state.num_processes, neighbours, state)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share[T](self, items: Sequence[T]) -> Sequence[T]:
        """Returns this process's part, every count-th of the items."""
        return items[self.rank :: self.count]

    def span[T](self, items: Sequence[T]) -> Sequence[T]:
        """Returns this process's part, one piece: those of all processes, in the order of their
        ranks, are the items in their order."""
        begin, end = (len(items) * rank // self.count for rank in (self.rank, self.rank + 1))
        return items[begin:end]

    def wait(self) -> None:
        """Waits until all are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def main_first(self) -> AbstractContextManager[Any]:
        """Returns a block that the main process runs before the others."""
        return nullcontext() if self.state is None else self.state.main_process_first()

    def from_main[T](self, make: Callable[[], T]) -> T:
        """Returns to all what the main process makes."""
        if self.state is None:
            return make()
        from accelerate.utils import broadcast_object_list

        found: list[Any] = [make() if self.is_main else None]
        return broadcast_object_list(found)[0]

    def gather[T](self, items: list[T]) -> list[T]:
        """Returns to all the items of all, in the order of the ranks."""
        if self.state is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def add_gradients(self, parameters: Sequence[Any]) -> None:
        """Gives each parameter of a module the sum of its gradients in all processes."""
        if self.state is None:
            return
        import torch

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)


ALONE = Processes()
