"""Curves of a training: appended to as CSV, drawn as PNG."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from simulation import TASK_NAMES

LOSSES = ("observations", "minutes", "rate", "flow", "places", "norm", "per_second")
SUCCESSES = ("observations", "minutes", "kind", *TASK_NAMES, "all")


def append(path: Path, columns: tuple[str, ...], row: dict[str, Any]) -> None:
    """Adds a row to a CSV file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)


def truncate(path: Path, observations: int) -> None:
    """Drops the rows after a point that training goes back to."""
    if not path.exists():
        return
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if int(row.split(",", 1)[0]) <= observations]
    path.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(run: Path, out: Path) -> None:
    """Losses and success over training observations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    losses = read(run / "losses.csv")
    seen = [int(r["observations"]) / 1000 for r in losses]
    for name, text in (("flow", "flow matching"), ("places", "positions (auxiliary)")):
        left.plot(seen, [float(r[name]) for r in losses], label=text)
    left.set(xlabel="thousand observations", ylabel="loss", yscale="log")
    left.legend()
    if (run / "successes.csv").exists():
        rows = [r for r in read(run / "successes.csv") if r["kind"] == "validation"]
        seen = [int(r["observations"]) / 1000 for r in rows]
        for name in (*TASK_NAMES, "all"):
            style = {"color": "black", "linewidth": 2.5} if name == "all" else {}
            right.plot(seen, [float(r[name] or "nan") for r in rows], label=name, **style)
        right.legend(fontsize=8)
    right.set(xlabel="thousand observations", ylabel="success on validation starts", ylim=(0, 1.02))
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the curves of a training run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(arguments.run, arguments.out)
