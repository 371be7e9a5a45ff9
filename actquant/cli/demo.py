"""The main job on the embedded reference policy: compress it, verify it, run it, compare."""

from pathlib import Path

import numpy as np
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
from actquant.common.files import atomic_path, write_text
from actquant.common.locks import sole_user
from actquant.common.outputs import FILM_COMMENT
from actquant.compression.pipeline import compress
from actquant.control.policy import open_policy
from actquant.environments.base import open_suite
from actquant.evaluation.bench import measure
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.rollout import run_episode
from actquant.fidelity.self_test import verify
from actquant.policies import LoadedPolicy
from actquant.recipes import find_recipe
from actquant.recipes.settings import CompressionSettings

GIF_TASK, GIF_START = "stack", 0


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
    rows = [
        _row(recipe, loaded, out, bpw, env, starts, progress, settings, force) for recipe in RECIPES
    ]
    gif = _side_by_side(rows, env, out / FILM_FILE)
    report = DemoReport(
        policy="reference policy",
        bpw=bpw,
        env=env,
        starts=starts,
        n_tasks=len(open_suite(env).tasks),
        rows=rows,
        gif=str(gif),
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
) -> DemoRow:
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
    return DemoRow(
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


def _side_by_side(rows: list[DemoRow], env: str, path: Path) -> Path:
    """One start by every model, beside each other, at 10 frames a second."""
    import imageio.v3 as imageio

    suite = open_suite(env)
    films: list[list[np.ndarray]] = []
    for row in rows:
        film: list[np.ndarray] = []
        run_episode(
            suite,
            open_policy(Path(row.path)),
            GIF_TASK,
            GIF_START,
            on_step=lambda environment, film=film: film.append(environment.render()),
        )
        films.append(film)
    length = max(map(len, films))
    frames = [
        np.concatenate([film[min(i, len(film) - 1)] for film in films], axis=1)
        for i in range(length)
    ]
    with atomic_path(path) as temporary:
        imageio.imwrite(
            temporary,
            np.stack(frames),
            extension=".gif",
            duration=100,
            loop=0,
            comment=FILM_COMMENT,
        )
    return path
