"""What a perturbed world, or a chunk that is late, costs several files: one table and one page.

    python benchmarks/conditions.py perturbations f16.gguf small.gguf --starts 0:50 --out FOLDER
    python benchmarks/conditions.py latency f16.gguf small.gguf --starts 0:50 --out FOLDER

Each file plays the same starts of the UR3e's six tasks with the same noise under each condition, as
`actquant eval` does: perturbations one at a time at the levels 1 to 3, beside the world of the
training; latencies of simulated time in each mode. FOLDER keeps a result for each file and
condition (one of the same file and starts is not run again), `table.json`, and `report.html` by
`actquant report`.
The others are compared with the file that is named first: McNemar's test on the same starts under
the same condition.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_env_ur3e.perturbations import KINDS
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from actquant.common.files import write_text
from actquant.control.policy import model_sha256
from actquant.environments.base import HIGHEST_LEVEL
from actquant.evaluation.compare import overall_difference
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.report import write_report
from actquant.evaluation.result import EvaluationResult
from actquant.evaluation.timing import Timing


@dataclass(frozen=True)
class Condition:
    """What is otherwise; name: of its result's file."""

    name: str
    settings: dict[str, Any]


def main() -> None:
    arguments = _arguments()
    conditions = list(_conditions(arguments))
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], Path] = {}
    with Progress() as progress:
        bar = progress.add_task("", total=len(conditions) * len(arguments.models))
        for condition in conditions:
            for model in arguments.models:
                out = arguments.out / f"{model.stem}-{condition.name}.json"
                progress.update(bar, description=out.stem)
                if not _is_kept(out, model, arguments.starts):
                    evaluate(model, env="ur3e", starts=arguments.starts, out=out,
                             jobs=arguments.jobs, **condition.settings)  # fmt: skip
                results[model.stem, condition.name] = out
                progress.advance(bar)
    rows = [_row(condition.name, arguments.models, results) for condition in conditions]
    write_text(arguments.out / "table.json", json.dumps(rows, indent=1) + "\n")
    _print(rows, arguments)
    write_report(list(results.values()), arguments.out / "report.html")


def _is_kept(out: Path, model: Path, starts: str) -> bool:
    """Returns whether a result is there, of this file and these starts."""
    if not out.exists():
        return False
    of = EvaluationResult.load(out).provenance
    return (of.model_sha256, of.starts) == (model_sha256(model), starts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("perturbations", "latency"))
    parser.add_argument("models", type=Path, nargs="+", metavar="FILE.gguf")
    parser.add_argument("--starts", default="0:50", help="FIRST:END of each task")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of perturbations, with commas")
    parser.add_argument("--latencies", default="0,100,200,300,400", help="in ms, with commas")
    parser.add_argument("--modes", default="sync,async,rtc", help="with commas")
    parser.add_argument("--execution-horizon", type=int, default=4, help="of rtc")
    parser.add_argument("--jobs", type=int, default=0)
    arguments = parser.parse_args()
    if len({model.stem for model in arguments.models}) < len(arguments.models):
        parser.error("two files have the same name")
    return arguments


def _conditions(arguments: argparse.Namespace) -> Iterator[Condition]:
    if arguments.what == "perturbations":
        yield Condition("plain", {})
        for kind in arguments.kinds.split(","):
            for level in range(1, HIGHEST_LEVEL + 1):
                yield Condition(f"{kind}-{level}", {"perturb": {kind: level}})
        return
    for mode in arguments.modes.split(","):
        horizon = arguments.execution_horizon if mode == "rtc" else None
        for latency in map(float, arguments.latencies.split(",")):
            timing = Timing(latency=latency, mode=mode, execution_horizon=horizon)
            manner = mode if horizon is None else f"{mode}{horizon}"
            yield Condition(f"{manner}-{latency:g}ms", {"timing": timing})


def _row(name: str, models: list[Path], results: dict[tuple[str, str], Path]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    first = results[models[0].stem, name]
    for model in models:
        path = results[model.stem, name]
        rate = EvaluationResult.load(path).overall
        cells[model.stem] = {"successes": rate.successes, "n": rate.n, "wilson95": rate.wilson95}
        if path != first:
            pair = overall_difference(path, first)
            cells[model.stem] |= {
                "difference": pair.difference,
                "difference95": pair.difference95,
                "mcnemar_p": pair.mcnemar_p,
            }
    return {"condition": name, "models": cells}


def _print(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    title = f"starts {arguments.starts} of six tasks; p: McNemar's test against the first file"
    table = Table(title=title)
    table.add_column("condition")
    for model in arguments.models:
        table.add_column(model.stem, justify="right")
    for row in rows:
        table.add_row(row["condition"], *map(_cell, row["models"].values()))
    Console().print(table)


def _cell(cell: dict[str, Any]) -> str:
    told = f"{cell['successes']}/{cell['n']} {cell['successes'] / cell['n']:.1%}"
    return told if "mcnemar_p" not in cell else f"{told} (p {cell['mcnemar_p']:.2g})"


if __name__ == "__main__":
    main()
