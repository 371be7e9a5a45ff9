"""The person beside the robot: is shown things, and asked."""

import sys
from typing import Any, Protocol

from rich.console import Console

from actquant.common.tables import plain, printable


class Operator(Protocol):
    """Attributes: `is_present`: whether anybody can answer."""

    is_present: bool

    def tell(self, *what: Any) -> None:
        """Shows texts as they are, tables and the like as rich does."""
        ...

    def ask(self, question: str) -> str:
        """Returns the answer, stripped; empty where nobody is present."""
        ...


class ConsoleOperator:
    """At the terminal that the command was started in."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.is_present = sys.stdin.isatty()

    def tell(self, *what: Any) -> None:
        shown = (plain(part) if isinstance(part, str) else part for part in what)
        self._console.print(*shown, sep="\n", highlight=False)

    def ask(self, question: str) -> str:
        if not self.is_present:
            return ""
        try:
            return self._console.input(f"{printable(question)} ", markup=False).strip()
        except EOFError:  # whoever it was has gone
            self.is_present = False
            return ""
