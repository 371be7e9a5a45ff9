"""The main job on the embedded reference policy: compress it, verify it, run it, compare."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from actquant.calibration.dataset import load_for_dataset
from actquant.cli.demo_request import (
    CHECKPOINT,
    DATASET,
    FILM_FILE,
    RECIPES,
    REPORT,
    check_demo,
    file_name,
)
from actquant.common.files import write_text
from actquant.common.locks import sole_user
from actquant.compression.pipeline import compress
from actquant.environments.base import open_suite
from actquant.evaluation.bench import measure
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.result import EvaluationResult
from actquant.evaluation.side_by_side import play, write_gif
from actquant.fidelity.self_test import verify
from actquant.policies import LoadedPolicy
from actquant.recipes import find_recipe
from actquant.recipes.settings import CompressionSettings


class DemoRow(BaseModel):
    model_config = ConfigDict(extra="forbid")

    recipe: str
    path: str
    file_bytes: int
    whole_file_bpw: float
    quantized_tensor_bpw: float
    held_out_action_error: float | None
    n: int
    successes: int
    success_rate: float
    wilson95: tuple[float, float]
    p50_ms: float
    p95_ms: float
    peak_rss_bytes: int


class DemoReport(BaseModel):
    model_config = ConfigDict(extra="forbid")

    policy: str
    bpw: float
    env: str
    starts: str
    n_tasks: int
    rows: list[DemoRow]
    gif: str
    gif_task: str
    gif_start: int


def run(
    out: Path,
    *,
    bpw: float,
    starts: str,
    progress: Progress,
    env: str = "ur3e",
    settings: CompressionSettings | None = None,
    force: bool = False,
) -> DemoReport:
    """Writes the models, their evaluations, `report.json` and a GIF into `out`.

    Work that is finished there is taken over, not done again. Raises what `check_demo` raises.
    """
    check_demo(out, bpw, force=force)
    with sole_user(out):
        return _run(out, bpw, starts, progress, env, settings, force)


def _run(
    out: Path,
    bpw: float,
    starts: str,
    progress: Progress,
    env: str,
    settings: CompressionSettings | None,
    force: bool,
) -> DemoReport:
    loaded = load_for_dataset(CHECKPOINT, DATASET, streamed=False)
    made = [
        _row(recipe, loaded, out, bpw, env, starts, progress, settings, force) for recipe in RECIPES
    ]
    rows = [row for row, _ in made]
    task, start = _film_start([result for _, result in made])
    gif = _side_by_side(rows, env, task, start, out / FILM_FILE)
    report = DemoReport(
        policy="reference policy",
        bpw=bpw,
        env=env,
        starts=starts,
        n_tasks=len(open_suite(env).tasks),
        rows=rows,
        gif=str(gif),
        gif_task=task,
        gif_start=start,
    )
    write_text(out / REPORT, report.model_dump_json(indent=1))
    return report


def _row(
    recipe: str,
    loaded: LoadedPolicy,
    out: Path,
    bpw: float,
    env: str,
    starts: str,
    progress: Progress,
    settings: CompressionSettings | None,
    force: bool,
) -> tuple[DemoRow, EvaluationResult]:
    budgeted, name = find_recipe(recipe).needs_budget, file_name(recipe, bpw)
    model = out / f"{name}.gguf"
    made = compress(
        loaded.folder,
        model,
        recipe=recipe,
        dataset=DATASET,
        bpw=bpw if budgeted else None,
        work=out / "work",
        settings=settings,
        loaded=loaded,
        progress=progress,
        force=force,
    )
    verify(model).raise_if_failed()
    bar = progress.add_task(f"{name} in {env}", total=None)
    result = evaluate(
        model,
        env=env,
        starts=starts,
        out=out / f"{name}.json",
        on_episode=lambda _, done, total: progress.update(bar, completed=done, total=total),
    )
    progress.remove_task(bar)
    speed = measure(model)
    row = DemoRow(
        recipe=name,
        path=str(model),
        file_bytes=model.stat().st_size,
        whole_file_bpw=made.whole_file_bpw,
        quantized_tensor_bpw=made.quantized_tensor_bpw,
        held_out_action_error=made.held_out_action_error,
        n=result.overall.n,
        successes=result.overall.successes,
        success_rate=result.overall.success_rate,
        wilson95=result.overall.wilson95,
        p50_ms=speed.p50_ms,
        p95_ms=speed.p95_ms,
        peak_rss_bytes=speed.peak_rss_bytes,
    )
    return row, result


def _film_start(results: Sequence[EvaluationResult]) -> tuple[str, int]:
    """Returns the first task and start that the first model solves and another does not; the very
    first where there is none."""
    first = results[0].episodes
    failed = {(e.task, e.start) for each in results for e in each.episodes if not e.success}
    solved = [(e.task, e.start) for e in first if e.success]
    told_apart = (episode for episode in solved if episode in failed)
    return next(told_apart, (first[0].task, first[0].start))


def _side_by_side(rows: list[DemoRow], env: str, task: str, start: int, path: Path) -> Path:
    """Writes the GIF of one start by every model."""
    suite = open_suite(env)
    rate_hz = suite.about.control_rate_hz
    assert rate_hz is not None, "the demo's environment says how much time a step takes"
    panels = [play(suite, Path(row.path), _caption(row), task, start) for row in rows]
    write_gif(path, panels, 1 / rate_hz)
    return path


def _caption(row: DemoRow) -> list[str]:
    return [
        row.recipe,
        f"{row.file_bytes / 1e6:.2f} MB, {row.whole_file_bpw:.2f} bpw",
        f"{row.successes} of {row.n} starts, {100 * row.success_rate:.1f} %",
    ]
