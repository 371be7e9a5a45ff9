"""Pages of one HTML file: how they look, light and dark, and the figures in them.

A page loads nothing: styles, figures (SVG) and films stand in it.
"""

from __future__ import annotations

import io
import re
from typing import Any

from actquant.common.tables import printable

COLOURS = ("#2f7ec4", "#d9730d", "#2e9e6b", "#c2498f", "#8a6fd1", "#9a7b1c", "#7a7f87")
"""Of series, legible on white and on near-black."""
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #5c6167;
  --line: #d8dadd; --bad: #fbe3e3; --good: #e0f2e3; --card: #f5f6f7 }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e4e6e8; --faint: #9ca2a9;
  --line: #363a3f; --bad: #4d2426; --good: #1e4029; --card: #1f2226 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70em;
  padding: 1em 1em 4em; background: var(--paper); color: var(--ink) }
h1 { font-size: 1.5em; line-height: 1.25; overflow-wrap: anywhere }
h2 { font-size: 1.15em; margin: 2em 0 .4em }
.wide { overflow-x: auto; margin: .8em 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .3em .7em; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap }
th { font-weight: 600; vertical-align: bottom }
th, td.text { white-space: normal }
td:first-child, th:first-child, td.text, th.text { text-align: left }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper) }
.note { color: var(--faint); max-width: 50em } .anywhere { overflow-wrap: anywhere }
svg { max-width: 100%; height: auto } svg text { fill: currentColor }
td.bad { background: var(--bad) } td.good { background: var(--good) }
"""


def render(template: str, **values: Any) -> str:
    """Returns a page; every text is escaped, and shown without what no page may hold."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(template).render(style=_markup(STYLE), **values)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> Any:
    """Returns a figure and its axes [rows][columns]; sizes in inches."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def svg(figure: Any, name: str, label: str) -> Any:
    """Returns a figure as markup in the page's own text colour.

    name: letters that no other figure of the page has, so that what it refers to is its own; label:
    what it shows, for who cannot see it.
    """
    import matplotlib
    from markupsafe import escape

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return _markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # what we made ourselves: not escaped
