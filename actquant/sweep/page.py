"""The page of a sweep: what to choose, and where each recipe loses. One HTML file with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actquant.common.files import write_text
from actquant.common.pages import new_figure, render, svg
from actquant.common.tables import marked
from actquant.format.tensor_types import get_format

if TYPE_CHECKING:
    from actquant.compression.report import CompressionReport
    from actquant.sweep.sweep import SweepReport, SweepRow

MEASURING = "actquant"
"""The recipe whose score of a tensor is what it does to the actions."""
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sweep of {{ report.checkpoint }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style }}</style></head><body>
<h1>Sweep of {{ report.checkpoint }}</h1>
<p class="note">{{ report.date }}{% if report.machine %}, {{ report.machine }}{% endif %}; dataset
{{ report.dataset }}{% if report.env %}; {{ env }}, starts {{ report.starts }}{% endif %}.
Action error: root mean square distance to the f32 policy's chunks on held-out frames, in standard
deviations of each action, ± one standard error. Success with 95 % intervals (Wilson). p: McNemar's
exact test on the same starts, against f16 and against the best other recipe of the same budget.</p>
<h2>Size against success and error</h2>{{ front }}
<div class="wide"><table><tr><th>file<th>MB<th>whole-file bpw<th>action error<th>n<th>{{ success }}
<th>95 %<th>against f16<th>against the best other</tr>
{% for row in rows %}<tr><td>{{ row.name }}{% if row.refused %}<td colspan="8"
class="text">{{ row.refused }}{% else %}<td>{{ row.size }}<td>{{ row.bpw }}
<td>{{ row.error }}<td>{{ row.error_n }}<td>{{ row.success }}<td>{{ row.interval }}
<td class="{{ row.reference_class }}">{{ row.reference }}
<td class="{{ row.other_class }}">{{ row.other }}{% endif %}</tr>
{% endfor %}</table></div>
{% if tasks %}<h2>Where each file loses: {{ success }}</h2>
<div class="wide"><table><tr><th>file{% for task in tasks %}<th>{{ task }}{% endfor %}</tr>
{% for row in by_task %}<tr><td>{{ row.name }}{% for cell in row.cells %}
<td class="{{ cell.style }}">{{ cell.text }}{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% if layers %}<h2>Bits of each layer against its measured sensitivity</h2>
<p class="note">Sensitivity: the mean squared action error, predicted to first order, if the layer's
tensors had their coarsest type.</p>{{ layers }}{% endif %}
</body></html>
"""


def write_page(report: SweepReport, made: Mapping[str, CompressionReport], path: Path) -> None:
    """Writes the page; made: each file's own report, by its name."""
    rows = [row for row in report.rows if not row.refused]
    tasks = list(dict.fromkeys(task for row in rows for task in row.success_by_task))
    html = render(
        TEMPLATE,
        report=report,
        env=marked(report.env or "", report.marks),
        success=marked("success", report.marks),
        rows=[_shown(row) for row in report.rows],
        front=_front(rows),
        tasks=tasks,
        by_task=[_by_task(row, rows, tasks) for row in rows if row.n],
        layers=_layers(rows, made),
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


def _front(rows: Sequence[SweepRow]) -> Any:
    """Success and action error against the size of the file, a line a recipe."""
    evaluated = any(row.n for row in rows)
    columns = 2 if evaluated else 1
    figure, (axes,) = new_figure(5.5 * columns, 4.2, columns=columns)
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
    axes[-1].legend(frameon=False)
    if evaluated:
        axes[0].set(xlabel="file, MB", ylabel="success, %", xscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
    return svg(figure, "front", "success and action error of each file against its size")


def _layers(rows: Sequence[SweepRow], made: Mapping[str, CompressionReport]) -> Any:
    """Bits of each layer against its sensitivity, for the files whose recipe measured it."""
    measured = [row for row in rows if row.recipe == MEASURING]
    if not measured:
        return ""
    figure, ((axis,),) = new_figure(5.5, 4.2)
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
    axis.legend(frameon=False)
    return svg(figure, "layers", "bits of each layer against its measured sensitivity")
