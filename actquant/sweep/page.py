"""The page of a sweep: what to choose, and where each recipe loses. One HTML file with figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from actquant.common.files import write_text
from actquant.format.tensor_types import get_format

if TYPE_CHECKING:
    from actquant.compression.report import CompressionReport
    from actquant.sweep.sweep import SweepReport, SweepRow

MEASURING = "actquant"
"""The recipe whose score of a tensor is what it does to the actions."""
TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Sweep of {{ report.checkpoint }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
.note { color: #555 } svg { max-width: 100%; height: auto }
td.bad { background: #fbe3e3 } td.good { background: #e4f4e4 }
</style>
<h1>Sweep of {{ report.checkpoint }}</h1>
<p class="note">{{ report.date }}{% if report.machine %}, {{ report.machine }}{% endif %}; dataset
{{ report.dataset }}{% if report.env %}; {{ report.env }}, starts {{ report.starts }}{% endif %}.
Action error: root mean square distance to the f32 policy's chunks on held-out frames, in standard
deviations of each action, ± one standard error. Success with 95 % intervals (Wilson). p: McNemar's
exact test on the same starts, against f16 and against the best other recipe of the same budget.</p>
<h2>Size against success and error</h2>{{ front }}
<table><tr><th>file<th>MB<th>whole-file bpw<th>action error<th>n<th>success<th>95 %<th>against f16
<th>against the best other</tr>
{% for row in rows %}<tr><td>{{ row.name }}{% if row.refused %}<td colspan="8"
style="text-align:left">{{ row.refused }}{% else %}<td>{{ row.size }}<td>{{ row.bpw }}
<td>{{ row.error }}<td>{{ row.error_n }}<td>{{ row.success }}<td>{{ row.interval }}
<td class="{{ row.reference_class }}">{{ row.reference }}
<td class="{{ row.other_class }}">{{ row.other }}{% endif %}</tr>
{% endfor %}</table>
{% if tasks %}<h2>Where each file loses</h2>
<table><tr><th>file{% for task in tasks %}<th>{{ task }}{% endfor %}</tr>
{% for row in by_task %}<tr><td>{{ row.name }}{% for cell in row.cells %}
<td class="{{ cell.style }}">{{ cell.text }}{% endfor %}</tr>
{% endfor %}</table>{% endif %}
{% if layers %}<h2>Bits of each layer against its measured sensitivity</h2>
<p class="note">Sensitivity: the mean squared action error, predicted to first order, if the layer's
tensors had their coarsest type.</p>{{ layers }}{% endif %}
</html>
"""


def write_page(report: SweepReport, made: Mapping[str, CompressionReport], path: Path) -> None:
    """Writes the page; made: each file's own report, by its name."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    rows = [row for row in report.rows if not row.refused]
    tasks = list(dict.fromkeys(task for row in rows for task in row.success_by_task))
    html = environment.from_string(TEMPLATE).render(
        report=report,
        rows=[_shown(row) for row in report.rows],
        front=Markup(_front(rows)),  # noqa: S704  our own figure
        tasks=tasks,
        by_task=[_by_task(row, rows, tasks) for row in rows if row.n],
        layers=Markup(_layers(rows, made)),  # noqa: S704
    )
    write_text(path, html)


def _shown(row: SweepRow) -> dict[str, Any]:
    if row.refused:
        return {"name": row.name, "refused": row.refused}
    reference = row.against.get("f16")
    others = {name: found for name, found in row.against.items() if name != "f16"}
    best = min(others, key=lambda name: others[name].difference, default=None)
    other = None if best is None else others[best]
    return {
        "name": row.name,
        "refused": "",
        "size": f"{row.file_bytes / 1e6:.2f}",
        "bpw": f"{row.whole_file_bpw:.3f}",
        "error": (
            ""
            if row.action_error is None
            else f"{row.action_error:.4f} ± {row.action_error_standard_error:.4f}"
        ),
        "error_n": row.action_error_n or "",
        "success": f"{row.successes}/{row.n} {row.successes / row.n:.1%}" if row.n else "",
        "interval": "" if row.wilson95 is None else "{:.1%} to {:.1%}".format(*row.wilson95),
        "reference": _difference(reference),
        "reference_class": _style(reference),
        "other": "" if other is None else f"{_difference(other)} ({best})",
        "other_class": _style(other),
    }


def _difference(found: Any) -> str:
    if found is None:
        return ""
    return f"{100 * found.difference:+.1f} points, p {found.mcnemar_p:.2g}"


def _style(found: Any) -> str:
    if found is None or found.mcnemar_p >= 0.05:
        return ""
    return "good" if found.difference > 0 else "bad"


def _by_task(row: SweepRow, rows: Sequence[SweepRow], tasks: Sequence[str]) -> dict[str, Any]:
    reference = next((other for other in rows if other.name == "f16" and other.n), None)
    cells = []
    for task in tasks:
        won, n = row.success_by_task.get(task, (0, 0))
        best = reference.success_by_task.get(task, (0, 0))[0] if reference else won
        style = "bad" if n and won < best - 0.05 * n else ""
        cells.append({"text": f"{won}/{n}", "style": style})
    return {"name": row.name, "cells": cells}


def _figure(columns: int) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(5.5 * columns, 4.2), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _front(rows: Sequence[SweepRow]) -> str:
    """Success and action error against the size of the file, a line a recipe."""
    evaluated = any(row.n for row in rows)
    figure, axes = _figure(2 if evaluated else 1)
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = sorted((row for row in rows if row.recipe == recipe), key=lambda r: r.file_bytes)
        sizes = [row.file_bytes / 1e6 for row in own]
        errors = [row.action_error or 0 for row in own]
        spread = [row.action_error_standard_error or 0 for row in own]
        axes[-1].errorbar(sizes, errors, spread, marker="o", capsize=2, label=recipe)
        if evaluated:
            played = [row for row in own if row.n and row.wilson95]
            rates = [100 * row.successes / row.n for row in played]
            ends = [row.wilson95 or (0.0, 0.0) for row in played]
            below = [rate - 100 * low for rate, (low, _) in zip(rates, ends, strict=True)]
            above = [100 * high - rate for rate, (_, high) in zip(rates, ends, strict=True)]
            places = [row.file_bytes / 1e6 for row in played]
            axes[0].errorbar(places, rates, (below, above), marker="o", capsize=2, label=recipe)
    axes[-1].set(xlabel="file, MB", ylabel="action error", xscale="log", yscale="log")
    axes[-1].legend()
    if evaluated:
        axes[0].set(xlabel="file, MB", ylabel="success, %", xscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
    return _svg(figure)


def _layers(rows: Sequence[SweepRow], made: Mapping[str, CompressionReport]) -> str:
    """Bits of each layer against its sensitivity, for the files whose recipe measured it."""
    measured = [row for row in rows if row.recipe == MEASURING]
    if not measured:
        return ""
    figure, (axis,) = _figure(1)
    for row in measured:
        bits: dict[str, float] = {}
        weights: dict[str, int] = {}
        scores: dict[str, float] = {}
        for tensor in made[row.name].tensors:
            size = tensor.rows * tensor.columns
            key = tensor.layer
            bits[key] = bits.get(key, 0) + size * get_format(tensor.type).bits_per_weight
            weights[key] = weights.get(key, 0) + size
            scores[key] = scores.get(key, 0) + tensor.score
        layers = list(bits)
        axis.scatter(
            [scores[key] for key in layers],
            [bits[key] / weights[key] for key in layers],
            label=row.name,
            s=18,
        )
        if row is measured[-1]:
            for key in sorted(layers, key=lambda k: -scores[k])[:8]:
                axis.annotate(key, (scores[key], bits[key] / weights[key]), fontsize=7)
    axis.set(xlabel="sensitivity", ylabel="bits per weight", xscale="log")
    axis.grid(alpha=0.3)
    axis.legend()
    return _svg(figure)
