"""Episodes per minute and core: `actquant eval` beside stock `lerobot-eval`, in turns, in one run.

    python benchmarks/eval_speed.py --starts 0:20 --rounds 3 --json speed.json

Both play the same policy (a checkpoint in PyTorch, and its f16 file, made here if none is given)
from the same starts in the UR3e's simulator, as commands of their own that may use the same
`--cores`. `lerobot-eval` films the first ten episodes of each task and offers no other way, so it
is run a second time with that taken out. A rate counts the episodes after each task's first, in the
time beyond what a run of each task's first alone takes: programs start, load and compile in that.
Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actquant.common.files import write_text
from actquant.evaluation.result import EvaluationResult
from actquant.evaluation.starts import parse_starts

ROOT = Path(__file__).parents[1]
WITHOUT_FILMS = """
import lerobot.scripts.lerobot_eval as stock
run = stock.eval_policy_all
stock.eval_policy_all = lambda **given: run(**{**given, "max_episodes_rendered": 0})
stock.main()
"""
SHORTEST_S = 2.0
"""Programs start in times that differ by tenths of a second."""
OURS, STOCK, UNFILMED = "actquant eval", "lerobot-eval", "lerobot-eval without films"


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = arguments.model or _f16_file(arguments.checkpoint, place / "f16.gguf")
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.contenders}
        for _ in range(arguments.rounds):
            for name, runs in measured.items():
                first = _run(name, arguments, model, 1, place)
                whole = _run(name, arguments, model, arguments.count, place)
                runs.append(
                    {"first": first, "whole": whole, "rate": _rate(first, whole, arguments)}
                )
    rates = {n: statistics.median(run["rate"] for run in runs) for n, runs in measured.items()}
    told = {"cores": arguments.cores, "tasks": arguments.tasks, "starts": arguments.starts}
    ratios = {n: rates[OURS] / rate for n, rate in rates.items() if OURS in rates and n != OURS}
    report = {**told, "episodes_per_minute_and_core": rates, "ratios": ratios, "runs": measured}
    if arguments.json:
        write_text(arguments.json, json.dumps(report, indent=1))
    _print(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reference = ROOT / "exports" / "reference" / "checkpoint"
    parser.add_argument("--checkpoint", type=Path, default=reference)
    parser.add_argument("--model", type=Path, help="its f16 file; made here by default")
    parser.add_argument("--tasks", default="pick_cube,place_tray,stack", help="with commas")
    parser.add_argument("--starts", default="0:20", help="FIRST:END")
    parser.add_argument("--cores", type=int, default=1, help="that each may use")
    parser.add_argument("--batch", type=int, default=0, help="lerobot-eval's; 0: its own choice")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join((OURS, STOCK, UNFILMED)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.checkpoint = arguments.checkpoint.resolve()
    arguments.model = arguments.model and arguments.model.resolve()
    starts = parse_starts(arguments.starts)
    if starts != list(range(starts[0], starts[0] + len(starts))) or len(starts) < 2:
        parser.error(f"--starts {arguments.starts}: lerobot-eval takes two or more that follow")
    arguments.contenders = arguments.contenders.split(",")
    if unknown := set(arguments.contenders) - {OURS, STOCK, UNFILMED}:
        parser.error(f"--contenders: no {', '.join(unknown)}")
    usable = sorted(os.sched_getaffinity(0))
    if not 1 <= arguments.cores <= len(usable):
        parser.error(f"--cores {arguments.cores}: there are {len(usable)}")
    arguments.affinity = usable[-arguments.cores :]
    arguments.first, arguments.count = starts[0], len(starts)
    return arguments


def _f16_file(checkpoint: Path, out: Path) -> Path:
    words = ["compress", checkpoint, "--recipe", "f16", "--control-rate-hz", 10, "--out", out]
    subprocess.run([sys.executable, "-m", "actquant.cli", *map(str, words)], check=True)
    return out


def _run(
    name: str, arguments: argparse.Namespace, model: Path, count: int, place: Path
) -> dict[str, Any]:
    """Plays `count` starts of each task; returns the seconds it took and the successes."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        out = Path(folder) / "out"
        begin = time.monotonic()
        done = subprocess.run(
            list(map(str, _command(name, arguments, model, count, out))),
            preexec_fn=lambda: os.sched_setaffinity(0, arguments.affinity),
            env={"MUJOCO_GL": "egl", **os.environ, "OMP_NUM_THREADS": str(arguments.cores)},
            cwd=ROOT if name == OURS else arguments.checkpoint,  # where its tokenizer is found
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        took = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"{name} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
        return {
            "seconds": took,
            "episodes": count * _tasks(arguments),
            "successes": _won(name, out),
        }


def _command(
    name: str, arguments: argparse.Namespace, model: Path, count: int, out: Path
) -> list[object]:
    if name == OURS:
        starts = f"{arguments.first}:{arguments.first + count}"
        words = ["eval", model, "--env", "ur3e", "--tasks", arguments.tasks, "--starts", starts]
        return [
            sys.executable,
            "-m",
            "actquant.cli",
            *words,
            "--jobs",
            arguments.cores,
            "--out",
            out,
        ]
    stock = ["-m", "lerobot.scripts.lerobot_eval"] if name == STOCK else ["-c", WITHOUT_FILMS]
    return [
        *(sys.executable, *stock),
        f"--policy.path={arguments.checkpoint}",
        *("--policy.device=cpu", "--env.type=ur3e", f"--env.task={arguments.tasks}"),
        *(f"--eval.n_episodes={count}", f"--eval.batch_size={arguments.batch}"),
        *(f"--seed={arguments.first}", f"--output_dir={out}"),
    ]


def _won(name: str, out: Path) -> int:
    if name == OURS:
        return EvaluationResult.load(out).overall.successes
    overall = json.loads((out / "eval_info.json").read_text())["overall"]
    return round(overall["pc_success"] / 100 * overall["n_episodes"])


def _tasks(arguments: argparse.Namespace) -> int:
    return len(arguments.tasks.split(","))


def _rate(first: dict[str, Any], whole: dict[str, Any], arguments: argparse.Namespace) -> float:
    """Returns episodes per minute and core. Raises SystemExit where what was timed is too short for
    one."""
    seconds = whole["seconds"] - first["seconds"]
    if seconds < SHORTEST_S:
        raise SystemExit(
            f"--starts {arguments.starts}: all but each task's first episode took {seconds:.1f} s, "
            f"less than {SHORTEST_S:g}: take more starts"
        )
    return 60 * (whole["episodes"] - first["episodes"]) / seconds / arguments.cores


def _print(report: dict[str, Any]) -> None:
    title = f"{report['tasks']}, starts {report['starts']}, {report['cores']} core(s)"
    table = Table(title=title)
    for column in ("command", "episodes / min / core", "ours is faster by", "successes", "seconds"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, rate in report["episodes_per_minute_and_core"].items():
        whole = [run["whole"] for run in report["runs"][name]]
        ratio = report["ratios"].get(name)
        table.add_row(
            name,
            f"{rate:.1f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{whole[0]['successes']}/{whole[0]['episodes']}",
            f"{statistics.median(run['seconds'] for run in whole):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
