"""Tables for people, and how numbers stand in them."""

from rich.table import Table


def table(title: str, *columns: str) -> Table:
    """Columns whose heading starts with `>` are right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return made


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def interval(bounds: tuple[float, float]) -> str:
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"
