"""What the page of `actquant report` shows, and how."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actquant.common.clock import iso_date
from actquant.common.pages import render
from actquant.common.tables import NOT_COMPARABLE, marked
from actquant.environments.base import HIGHEST_LEVEL
from actquant.evaluation.compare import JudgedDifference
from actquant.evaluation.figures import (
    WIDTH,
    action_strips,
    colour_of,
    difference_figure,
    latency_figure,
    success_figure,
    timing_figure,
)
from actquant.evaluation.result import marks_of

if TYPE_CHECKING:
    from actquant.evaluation.report import Clip, Shown
    from actquant.evaluation.result import EvaluationResult, Rate

MOST_STARTS_LISTED = 30
TEMPLATE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Evaluation of {{ names }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style }}
.key { display: flex; flex-wrap: wrap; gap: .2em 1.2em; padding: 0; list-style: none }
.dot { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .4em }
.figures { display: flex; flex-wrap: wrap; gap: 1em 2em; align-items: flex-start }
.figures > div { flex: 0 1 {{ width }}; min-width: 0 }
.clips { display: grid; gap: 1em;
  grid-template-columns: repeat(auto-fill, minmax(min(19em, 100%), 1fr)) }
.clip { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  overflow: hidden; padding-bottom: .5em }
.clip video { display: block; width: 100%; background: #000 }
.clip figcaption { padding: .5em .8em 0; overflow-wrap: anywhere }
.clip svg { display: block; margin: .3em auto 0; width: 100% }
.tag { font-weight: 600 } pre { white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6em .8em }
.verdicts li { margin: .3em 0 } td.verdict { text-align: left } .faint { color: var(--faint) }
</style></head>
<body>
<h1>Evaluation of {{ names }}</h1>
<p class="note">{{ about }}. Page of {{ date }}.</p>
{% if marks %}<p class="tag">{{ marks }}</p>
{% endif %}
<ul class="key">
{% for each in key %}
<li class="anywhere"><span class="dot" style="background:{{ each.colour }}"></span>
{{- each.name }}</li>
{% endfor %}
</ul>
<h2>In short</h2>
<ul class="verdicts">
{% for line in verdicts %}<li>{{ line }}</li>
{% endfor %}
</ul>
<h2>Success by task</h2>
<div class="figures"><div>{{ success_figure }}</div>
{% if difference_figure %}<div>{{ difference_figure }}</div>{% endif %}
</div>
<p class="note">Bars: 95 % intervals, of success by Wilson{% if difference_figure %}, of paired
differences to {{ first }} by Newcombe{% endif %}.</p>
<div class="wide"><table>
<thead><tr><th>task</th>{% for each in key %}<th>{{ each.name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rates %}<tr><td>{{ row.name }}</td>
{% for cell in row.cells %}
<td>{{ cell.rate }}<br><span class="faint">{{ cell.interval }}</span></td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if perturbed %}
<h2>Success by perturbation and level</h2>
<div class="wide"><table>
<thead><tr><th>perturbed</th><th class="text">model</th>
{% for level in levels %}<th>level {{ level }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in perturbed %}<tr><td>{{ row.name }}</td><td class="text">{{ row.model }}</td>
{% for cell in row.cells %}
<td>{{ cell.rate }}<br><span class="faint">{{ cell.interval }}</span></td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="note">All tasks of each result that perturbs one thing, or nothing: level 0. Every start
is perturbed alike for all models.</p>
{% endif %}
{% if timing_figure %}
<h2>Success against latency</h2>
{{ timing_figure }}
<p class="note">Latency: what a chunk took in simulated time; where it was measured, the median.
Bars: 95 % intervals by Wilson.</p>
{% endif %}
{% for table in differences %}
<h2>{{ table.name }} against {{ first }}, start by start</h2>
{% if table.why %}<p>Not compared: {{ table.why }}.</p>{% else %}
<div class="wide"><table>
<thead><tr><th>task</th><th>pairs</th><th>both</th><th>only {{ table.name }}</th>
<th>only {{ first }}</th><th>neither</th><th>points (95 %)</th><th>p</th>
<th class="text">verdict</th><th>tells from</th><th>would tell</th></tr></thead>
<tbody>
{% for row in table.rows %}<tr>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}
<td class="verdict {{ row.style }}">{{ row.verdict }}</td><td>{{ row.tells_from }}</td>
<td>{{ row.needed }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% endfor %}
{% if difference_figure %}
<p class="note">Points: the result minus {{ first }}. p: McNemar's exact test. A difference counts
as shown where p &lt; 0.05, which with few pairs asks for more than an interval without 0; each row
is tested on its own. Tells from: the difference that so many pairs would show in four of five
comparisons, if the two differ on as many starts as here. Would tell: pairs that would show so a
difference as large as the one found.</p>
{% endif %}
<h2>Failures</h2>
{% if failures %}
<div class="wide"><table>
<thead><tr><th>task</th>{% for each in key %}<th class="text">{{ each.name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in failures %}<tr><td>{{ row.name }}</td>
{% for cell in row.cells %}<td class="text">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="note">Numbers of the starts that failed.</p>
{% else %}<p>None.</p>{% endif %}
{% for line in named %}<p>{{ line }}</p>
{% endfor %}
{% if clips %}
<p class="note">{{ shown_clips }} Under each film: the actions executed, each with its range, and
what each chunk took.</p>
<div class="clips">
{% for clip in clips %}
<figure class="clip">
<video controls muted loop playsinline preload="metadata" aria-label="{{ clip.label }}"
src="data:video/mp4;base64,{{ clip.data }}"></video>
<figcaption><span class="dot" style="background:{{ clip.colour }}"></span><span
class="tag">{{ clip.title }}</span>, {{ clip.name }}<br>
{% if clip.instruction %}“{{ clip.instruction }}”<br>{% endif %}
{{ clip.text }}</figcaption>
{{ clip.plot }}
</figure>
{% endfor %}
</div>
{% else %}<p class="note">{{ shown_clips }}</p>{% endif %}
{% if uncounted %}
<h2>Not counted</h2>
<p class="note">The simulator did not bring these episodes to their end; they say nothing of the
policy.</p>
<div class="wide"><table>
<thead><tr><th>result</th><th class="text">task</th><th>start</th><th>attempts</th>
<th class="text">error</th></tr></thead>
<tbody>
{% for row in uncounted %}<tr><td>{{ row.name }}</td><td class="text">{{ row.task }}</td>
<td>{{ row.start }}</td><td>{{ row.attempts }}</td><td class="text">{{ row.error }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if latencies %}
<h2>Latency</h2>
<p class="note">Observation in, chunk out, measured beside the simulation: good to compare files of
one run; <code>actquant bench</code> measures a file alone.</p>
{{ latency_figure }}
<div class="wide"><table>
<thead><tr><th>result</th><th>p50</th><th>p95</th><th>p99</th><th>most</th><th>chunks</th>
<th class="text">beside each other</th></tr></thead>
<tbody>
{% for row in latencies %}<tr>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}
<td class="text">{{ row.load }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<h2>What was run</h2>
<div class="wide"><table>
<thead><tr><th>result</th><th class="text">model</th><th class="text">recipe</th><th>size</th>
<th>whole-file bpw</th><th>action error</th><th class="text">SHA-256</th></tr></thead>
<tbody>
{% for row in models %}<tr><td>{{ row.name }}</td><td class="text">{{ row.model }}</td>
<td class="text">{{ row.recipe }}</td><td>{{ row.size }}</td><td>{{ row.bpw }}</td>
<td>{{ row.error }}</td><td class="text"><code>{{ row.sha }}</code></td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Action error: root mean square distance to the f32 policy's chunks on held-out
frames, in standard deviations of each action, ± one standard error, as the file says of itself.</p>
<h2>To repeat it</h2>
<div class="wide"><table>
<thead><tr><th>what</th>{% for each in key %}<th class="text">{{ each.name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in facts %}<tr><td>{{ row.name }}</td>
{% for cell in row.cells %}<td class="text">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% for each in commands %}<p>{{ each.name }}</p>
<pre>{{ each.command }}</pre>
{% endfor %}
</body></html>
"""


def draw(shown: Sequence[Shown], clips: Sequence[Clip], recordings: int) -> str:
    """Returns the page; recordings: how many the results have, of which `clips` are shown."""
    tasks = list(dict.fromkeys(task for each in shown for task in each.result.tasks))
    compared = [each for each in shown if each.comparison is not None]
    results = [each.result for each in shown]
    return render(
        TEMPLATE,
        width=f"{WIDTH}in",
        names=", ".join(each.name for each in shown),
        first=shown[0].name,
        about=_about(results),
        marks=_marks(results),
        date=iso_date(),
        key=[{"name": each.name, "colour": colour_of(i)} for i, each in enumerate(shown)],
        verdicts=[_in_short(each, shown[0].name) for each in shown],
        success_figure=success_figure(results, tasks),
        difference_figure=difference_figure(shown, tasks) if compared else None,
        perturbed=_perturbed(shown),
        levels=range(HIGHEST_LEVEL + 1),
        timing_figure=timing_figure(shown),
        rates=_rows(shown, tasks, _rate),
        differences=[_difference_table(each) for each in shown[1:]],
        failures=_rows(shown, tasks, _failed_starts) if any(map(_failures, results)) else [],
        named=_named_failures(shown),
        clips=[_clip(i, clip, shown[clip.number].name) for i, clip in enumerate(clips)],
        shown_clips=_how_many(len(clips), recordings),
        uncounted=[
            {"name": each.name, **episode.model_dump()}
            for each in shown
            for episode in each.result.not_counted
        ],
        latencies=[_latency(each) for each in shown if each.result.latency_ms],
        latency_figure=latency_figure(results),
        models=[_model(each) for each in shown],
        facts=_facts(results),
        commands=[
            {"name": each.name, "command": shlex.join(each.result.provenance.command)}
            for each in shown
            if each.result.provenance.command
        ],
    )


def _marks(results: Sequence[EvaluationResult]) -> str:
    marks = marks_of(results)
    return f"{', '.join(marks).capitalize()}: {NOT_COMPARABLE}." if marks else ""


def _about(results: Sequence[EvaluationResult]) -> str:
    worlds = dict.fromkeys(
        f"{r.provenance.place}, {len(r.tasks)} {_of('task', len(r.tasks))}, starts "
        f"{r.provenance.starts}, seed {r.provenance.seed}"
        for r in results
    )
    return "; ".join(worlds)


def _of(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _interval(bounds: tuple[float, float], unit: str = "%") -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} {unit}".replace("-", "−").strip()


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def _in_short(each: Shown, first: str) -> str:
    of = each.result.overall
    told = (
        f"{each.name}: {of.successes} of {of.n} succeed, {_percent(of.success_rate)} "
        f"({_interval(of.wilson95)})."
    )
    if each.not_paired:
        return f"{told} Not compared with {first}."
    if each.comparison is None:
        return told
    pair = each.comparison.overall
    found = f"{_points(pair.difference)} points ({_interval(pair.difference95, '')})"
    if pair.verdict != "cannot tell":
        word = "Better" if pair.difference > 0 else "Worse"
        return f"{told} {word} than {first}: {found}, p {pair.mcnemar_p:.2g}."
    return f"{told} Whether it differs from {first} cannot be told: {found}; {_would_tell(pair)}."


def _would_tell(pair: JudgedDifference) -> str:
    """Says what so many pairs would show, and how many would show what was found."""
    told = f"{pair.n} {_of('pair', pair.n)} tell"
    if pair.tells_from is None:
        told = f"{told} no difference at all"
    else:
        told = f"{told} from {100 * pair.tells_from:.1f} points on"
    if pair.pairs_needed is not None:
        told += f", and about {pair.pairs_needed:,} would tell a difference as large as this"
    return told


def _rows(shown: Sequence[Shown], tasks: Sequence[str], cell: Any) -> list[dict[str, Any]]:
    """One row a task, and one of all where there are several."""
    rows = [
        {
            "name": task,
            "cells": [cell(each.result, each.result.tasks.get(task), task) for each in shown],
        }
        for task in tasks
    ]
    if len(tasks) > 1:
        cells = [cell(each.result, each.result.overall, None) for each in shown]
        rows.append({"name": "all", "cells": cells})
    return rows


def _rate(_: object, rate: Rate | None, __: str | None) -> dict[str, str]:
    if rate is None:
        return {"rate": "–", "interval": ""}
    counts = f"{rate.successes}/{rate.n}, {_percent(rate.success_rate)}"
    return {"rate": counts, "interval": _interval(rate.wilson95)}


def _perturbed(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Success by perturbation and level, a row for each kind and model; empty unless results differ
    in the level of one kind alone."""
    rows: dict[tuple[str, str], dict[int, Rate]] = {}
    runs = [each.result.provenance.same_but("perturb") for each in shown]
    names: dict[str, str] = {}
    for run, each in zip(runs, shown, strict=True):
        of = each.result.provenance
        timing = [] if of.timing is None else [str(of.timing)]
        names[run] = marked(Path(of.model).name, timing)
        if len(of.perturb) == 1:
            ((kind, level),) = of.perturb.items()
            rows.setdefault((kind, run), {})[level] = each.result.overall
    for run, each in zip(runs, shown, strict=True):
        for (_, of_row), rates in rows.items():
            if not each.result.provenance.perturb and run == of_row:
                rates[0] = each.result.overall
    if not any(len(rates) > 1 for rates in rows.values()):
        return []
    return [
        {
            "name": kind,
            "model": names[run],
            "cells": [_rate(None, rates.get(level), None) for level in range(HIGHEST_LEVEL + 1)],
        }
        for (kind, run), rates in rows.items()
    ]


def _failures(result: EvaluationResult) -> int:
    return result.overall.n - result.overall.successes


def _failed_starts(result: EvaluationResult, rate: Rate | None, task: str | None) -> str:
    if rate is None:
        return ""
    if task is None:
        return f"{rate.n - rate.successes} failed"
    failed = [str(e.start) for e in result.episodes if e.task == task and not e.success] or ["–"]
    more = len(failed) - MOST_STARTS_LISTED
    return ", ".join(failed[:MOST_STARTS_LISTED]) + (f" and {more} more" if more > 0 else "")


def _named_failures(shown: Sequence[Shown]) -> list[str]:
    return [
        f"{each.name}, {episode.task}, start {episode.start}: {episode.failure}."
        for each in shown
        for episode in each.result.episodes
        if episode.failure
    ]


def _how_many(clips: int, recordings: int) -> str:
    if not recordings:
        return "No recordings: actquant eval --videos FOLDER keeps films of failures."
    if not clips:
        return f"None of {recordings} {_of('recording', recordings)} is there any more."
    return f"{clips} of {recordings} {_of('recording', recordings)}, failures first."


def _difference_table(each: Shown) -> dict[str, Any]:
    if each.comparison is None:
        return {"name": each.name, "why": each.not_paired, "rows": []}
    pairs = dict(each.comparison.tasks)
    if len(pairs) > 1:
        pairs["all"] = each.comparison.overall
    rows = []
    for task, pair in pairs.items():
        verdict, style = "cannot tell", ""
        if pair.verdict != "cannot tell":
            verdict, style = ("better", "good") if pair.difference > 0 else ("worse", "bad")
        counts = (pair.n, pair.both, pair.only_a, pair.only_b, pair.neither)
        cells = [
            *(task, *counts),
            f"{_points(pair.difference)} ({_interval(pair.difference95, '')})",
            f"{pair.mcnemar_p:.2g}",
        ]
        least, needed = pair.tells_from, pair.pairs_needed
        rows.append(
            {
                "cells": cells,
                "verdict": verdict,
                "style": style,
                "tells_from": "nothing" if least is None else f"{100 * least:.1f}",
                "needed": "" if needed is None else f"{needed:,}",
            }
        )
    return {"name": each.name, "why": "", "rows": rows}


def _latency(each: Shown) -> dict[str, Any]:
    latency, of = each.result.latency_ms, each.result.provenance
    assert latency is not None
    times = (latency.p50, latency.p95, latency.p99, latency.max)
    return {
        "cells": [each.name, *(f"{ms:.1f} ms" for ms in times), latency.n],
        "load": f"{of.jobs} {_of('job', of.jobs)} of {of.threads_per_job} "
        f"{_of('thread', of.threads_per_job)}; {of.machine}",
    }


def _model(each: Shown) -> dict[str, str]:
    of = each.result.provenance
    facts = of.model_facts
    return {
        "name": each.name,
        "model": of.model,
        "recipe": "" if facts is None else facts.recipe,
        "size": "" if facts is None else f"{facts.bytes / 1e6:.2f} MB",
        "bpw": (
            "" if facts is None or facts.whole_file_bpw is None else f"{facts.whole_file_bpw:.3f}"
        ),
        "error": each.action_error or "–",
        "sha": of.model_sha256[:16],
    }


def _facts(results: Sequence[EvaluationResult]) -> list[dict[str, Any]]:
    """What has to be the same, and versions; only what some result has noted."""
    all_facts = []
    for result in results:
        of, conventions = result.provenance, result.provenance.conventions
        facts = {
            "environment": of.place,
            "by the protocol of published numbers": "yes" if of.comparable else "",
            "starts": of.starts,
            "seed": str(of.seed),
            "actions executed of a chunk": str(of.steps_per_chunk),
            "perturbed": of.perturbed,
            "latency in simulated time": "" if of.timing is None else str(of.timing),
            "camera greyed out": of.grey_camera or "",
            "wrong instruction": "yes" if of.wrong_instruction else "",
            "renamed": ", ".join(f"{a} to {b or 'nothing'}" for a, b in of.renames.items()),
        }
        if conventions is not None:
            rate = conventions.control_rate_hz
            facts |= {
                "control rate": "" if rate is None else f"{rate:g} Hz",
                "chunk": f"{conventions.chunk_length} actions",
                "cameras": ", ".join(conventions.cameras),
                "actions": ", ".join(conventions.action_names),
                "noise from": conventions.noise,
                "scheduling": conventions.scheduling,
            }
        facts |= {f"environment's {name}": text for name, text in of.environment.items()}
        versions = dict(actquant=of.actquant_version) | of.versions
        facts |= {f"version of {name}": version for name, version in versions.items()}
        all_facts.append(facts | {"machine": of.machine, "date": of.date})
    names = dict.fromkeys(name for facts in all_facts for name in facts)
    rows = [{"name": n, "cells": [facts.get(n, "") for facts in all_facts]} for n in names]
    return [row for row in rows if any(row["cells"])]


def _clip(number: int, clip: Clip, name: str) -> dict[str, Any]:
    episode, about = clip.episode, clip.about
    seconds = len(about.actions) / about.control_rate_hz
    end = "success" if episode.success else "failure"
    told = f"{end} after {episode.steps} steps, {seconds:.1f} s"
    return {
        "title": f"{episode.task}, start {episode.start}",
        "name": name,
        "colour": colour_of(clip.number),
        "label": f"{name}, {episode.task}, start {episode.start}: {end}",
        "instruction": about.instruction,
        "text": f"{told}: {episode.failure}" if episode.failure else told,
        "data": base64.b64encode(clip.video).decode(),
        "plot": action_strips(clip, f"clip{number}"),
    }
