"""Tables for people, and how texts and numbers stand in them."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

NOT_COMPARABLE = "no number here may be set beside a published one"
"""What the marks of a result come to."""
_SPELLED = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


def printable(text: str) -> str:
    """Returns a text with what a terminal would obey, or cannot show, spelled out."""
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return shown.translate(_SPELLED)


def plain(text: str, style: str = "") -> Text:
    """Returns a text that is shown as it is: what looks like markup is none."""
    return Text(printable(text), style)


class PlainTable(Table):
    """A table whose cells are shown as they are; give a `Text` for one in colour."""

    def add_row(
        self, *cells: RenderableType | None, style: str = "", end_section: bool = False
    ) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        shown = (plain(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*shown, style=style, end_section=end_section)


def table(title: str, *columns: str) -> PlainTable:
    """Columns whose heading starts with `>` are right-aligned."""
    made = PlainTable(title=plain(title), title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return made


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def interval(bounds: tuple[float, float]) -> str:
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


def marked(env: str, marks: Sequence[str]) -> str:
    """Returns an environment's name with the marks of what was found in it."""
    return f"{env} ({', '.join(marks)})" if marks else env
