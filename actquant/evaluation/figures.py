"""The figures on the page of `actquant report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actquant.common.pages import COLOURS, new_figure, svg
from actquant.common.tables import printable
from actquant.evaluation.timing import MEASURED

if TYPE_CHECKING:
    from actquant.evaluation.report import Clip, Shown
    from actquant.evaluation.result import EvaluationResult

WIDTH = 4.4
"""Of a figure in inches: that of a phone."""
MARKERS = {"sync": "o", "async": "s", "rtc": "^"}
"""Of the points of each mode."""
MOST_STRIPS = 16
"""Actions that are plotted of an episode."""


def colour_of(number: int) -> str:
    """Returns the colour of a result, the same all over the page."""
    return COLOURS[number % len(COLOURS)]


def _plain_ticks(axis: Any, names: Sequence[str]) -> None:
    """Names the rows of a plot, the first on top; what looks like mathematics is none."""
    axis.set_yticks(range(len(names)), [printable(n) for n in names], parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _places(row: int, number: int, count: int) -> float:
    """Returns the height at which a result stands in a row."""
    return row + (number - (count - 1) / 2) * min(0.8 / count, 0.22)


def _height(rows: int, results: int) -> float:
    return 0.8 + rows * max(0.3, 0.17 * results)


def success_figure(results: Sequence[EvaluationResult], tasks: Sequence[str]) -> Any:
    """Draws the success of each result in each task, with intervals."""
    names = [*tasks, "all"] if len(tasks) > 1 else list(tasks)
    figure, ((axis,),) = new_figure(WIDTH, _height(len(names), len(results)))
    for number, result in enumerate(results):
        for row, name in enumerate(names):
            rate = result.tasks.get(name) if row < len(tasks) else result.overall
            if rate is not None:
                _whisker(axis, rate.success_rate, rate.wilson95, row, number, len(results))
    _plain_ticks(axis, names)
    axis.set(xlabel="success, %")
    axis.set_xlim(right=101)
    return svg(figure, "success", "success of each task with 95 % intervals")


def difference_figure(shown: Sequence[Shown], tasks: Sequence[str]) -> Any:
    """Draws the paired differences to the first result, with intervals."""
    names = [*tasks, "all"] if len(tasks) > 1 else list(tasks)
    figure, ((axis,),) = new_figure(WIDTH, _height(len(names), len(shown)))
    for number, each in enumerate(shown):
        if each.comparison is None:
            continue
        for row, name in enumerate(names):
            overall = each.comparison.overall
            pair = each.comparison.tasks.get(name) if row < len(tasks) else overall
            if pair is not None:
                _whisker(axis, pair.difference, pair.difference95, row, number, len(shown))
    axis.axvline(0, color="black", linewidth=0.8)
    _plain_ticks(axis, names)
    axis.set(xlabel="difference of success to the first result, points")
    return svg(figure, "difference", "paired differences to the first result with 95 % intervals")


def _whisker(
    axis: Any, value: float, bounds: tuple[float, float], row: int, number: int, count: int
) -> None:
    below, above = (max(0.0, 100 * abs(value - bound)) for bound in bounds)
    axis.errorbar(
        100 * value,
        _places(row, number, count),
        xerr=([below], [above]),
        fmt="o",
        markersize=4,
        color=colour_of(number),
    )


def _simulated_latency(result: EvaluationResult) -> float | None:
    """Returns what a chunk took in simulated time (ms), the median where it was measured; None
    where none was."""
    timing, measured = result.provenance.timing, result.latency_ms
    if timing is None:
        return 0.0
    if timing.latency != MEASURED:
        return float(timing.latency)
    return None if measured is None else measured.p50


def timing_figure(shown: Sequence[Shown]) -> Any:
    """Draws success against the latency in simulated time, a line for each mode of each model;
    empty unless some results differ in it."""
    lines: dict[tuple[str, str], list[tuple[float, Shown]]] = {}
    for each in shown:
        of, ms = each.result.provenance, _simulated_latency(each.result)
        if ms is not None:
            manner = "sync" if of.timing is None else of.timing.manner
            lines.setdefault((manner, of.same_but("timing")), []).append((ms, each))
    times = [ms for line in lines.values() for ms, _ in line]
    if len(set(times)) < 2:
        return ""
    several = len({each.result.provenance.model_sha256 for each in shown}) > 1
    figure, ((axis,),) = new_figure(WIDTH, 2.8)
    apart = 0.012 * (max(times) - min(times))  # so that equal points are all seen
    for number, ((manner, _), line) in enumerate(lines.items()):
        line.sort(key=lambda point: point[0])
        rates = [each.result.overall for _, each in line]
        of = line[0][1].result.provenance
        told = (manner, Path(of.model).name if several else "", of.perturbed)
        bars = [
            [100 * max(0.0, rate.success_rate - rate.wilson95[0]) for rate in rates],
            [100 * max(0.0, rate.wilson95[1] - rate.success_rate) for rate in rates],
        ]
        axis.errorbar(
            [ms + apart * (number - (len(lines) - 1) / 2) for ms, _ in line],
            [100 * rate.success_rate for rate in rates],
            yerr=bars,
            fmt=f"{MARKERS[manner.partition(',')[0]]}-",
            markersize=4,
            linewidth=1.4,
            capsize=2,
            color=colour_of(number),
            label=printable(", ".join(filter(None, told))),
        )
    axis.set(xlabel="latency of a chunk in simulated time, ms", ylabel="success, %")
    axis.set_ylim(top=103)
    axis.grid(alpha=0.3)
    for text in axis.legend(frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    return svg(figure, "timing", "success against latency with 95 % intervals")


def latency_figure(results: Sequence[EvaluationResult]) -> Any:
    """Draws how the latencies of chunks are spread; empty where none is known."""
    drawn = [
        (number, result.latency_ms.percentiles)
        for number, result in enumerate(results)
        if result.latency_ms is not None and result.latency_ms.percentiles
    ]
    if not drawn:
        return ""
    figure, ((axis,),) = new_figure(WIDTH, 2.6)
    for number, percentiles in drawn:
        shares = np.linspace(0, 100, len(percentiles))
        axis.plot(percentiles, shares, color=colour_of(number), linewidth=1.6)
    axis.set(xlabel="latency of a chunk, ms", ylabel="chunks within it, %", xscale="log")
    axis.xaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
    axis.xaxis.set_minor_formatter(lambda ms, _: f"{ms:g}" if f"{ms:.0e}"[0] in "25" else "")
    axis.grid(alpha=0.3, which="both")
    return svg(figure, "latency", "distribution of latencies")


def action_strips(clip: Clip, name: str) -> Any:
    """Draws the actions executed, one below the other, and each chunk's latency."""
    about, colour = clip.about, colour_of(clip.number)
    period = 1 / about.control_rate_hz
    actions = np.array(about.actions, np.float64).reshape(len(about.actions), -1)
    names = [printable(name) for name in about.action_names[: actions.shape[1]][:MOST_STRIPS]]
    rows = len(names) + 1
    figure, axes = new_figure(3.4, 0.45 + 0.27 * rows, rows=rows, sharex=True)
    figure.get_layout_engine().set(h_pad=0.01, hspace=0)
    for (axis,), column, label in zip(axes, actions.T, names, strict=False):
        times = np.arange(len(column) + 1) * period
        axis.stairs(column, times, color=colour, baseline=None, linewidth=1)
        _strip(axis, label, f"{column.min():.2g} … {column.max():.2g}".replace("-", "−"))
    (axis,) = axes[-1]
    every = np.arange(len(about.latencies_ms)) * about.steps_per_chunk
    asked = period * np.array(every if about.asked is None else about.asked)
    axis.bar(
        *(asked, about.latencies_ms, about.steps_per_chunk * period * 0.8),
        align="edge",
        color=colour,
    )
    most = max(about.latencies_ms, default=0.0)
    axis.set_ylim(bottom=0)
    _strip(axis, "latency", f"to {most:.0f} ms")
    axis.tick_params(bottom=True, labelbottom=True, labelsize=8)
    axis.set_xlabel("s", fontsize=8)
    return svg(figure, name, "actions and latencies of the episode")


def _strip(axis: Any, label: str, spread: str) -> None:
    axis.set_yticks([])
    axis.tick_params(bottom=False)
    axis.margins(x=0, y=0.12)
    for spine in axis.spines.values():
        spine.set_visible(False)
    text = {"transform": axis.transAxes, "va": "center", "fontsize": 8, "parse_math": False}
    axis.text(-0.02, 0.5, label, ha="right", **text)
    axis.text(1.02, 0.5, spread, ha="left", **text)
