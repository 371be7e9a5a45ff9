"""Commands on policies and their files: compress, cache, sweep, inspect, verify, bench."""

from pathlib import Path
from typing import Annotated

import typer

from actquant.cli import tables
from actquant.cli.command_line import asked
from actquant.cli.options import (
    EFFORT,
    PLACES,
    Cache,
    Device,
    Force,
    HeldOut,
    Json,
    Model,
    Rename,
    Seed,
    Starts,
    Threads,
    TuneMinutes,
    TuneSteps,
    key_values,
    model_path,
    numbers,
    positive,
    renames,
    whole_numbers,
)
from actquant.cli.output import app, progress_bars, show, told_plainly
from actquant.common.errors import UsageError
from actquant.common.outputs import check_folder
from actquant.common.paths import require_folder
from actquant.compression.request import (
    DEFAULT_BPW,
    Goal,
    check_places,
    check_request,
    parse_size,
)
from actquant.evaluation.starts import parse_starts
from actquant.recipes import DEFAULT_RECIPE, RECIPES, find_recipe
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.settings import TuningSettings

BUDGET, UNSAID = "Budget: one of", "What the checkpoint does not say"
"""Groups of options in --help; EFFORT and PLACES are shared."""

RECIPE_HELP = "; ".join(
    f"{recipe.name}: {recipe.summary}" + (" (needs a dataset)" if recipe.needs_dataset else "")
    for recipe in RECIPES.values()
)


@app.command()
def compress(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint folder, or organisation/name\\[@revision] on the Hugging Face hub."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The GGUF to write.")],
    dataset: Annotated[
        Path | None,
        typer.Option(help="LeRobotDataset folder with the target robot's episodes."),
    ] = None,
    bpw: Annotated[
        float | None,
        typer.Option(
            help="Bits per weight of the whole file. Default 3 where no budget is given.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    target_size: Annotated[
        str,
        typer.Option(
            help="Size of the file at most, e.g. 900MB or 1.5GiB.", rich_help_panel=BUDGET
        ),
    ] = "",
    max_action_error: Annotated[
        float | None,
        typer.Option(
            help="The smallest file whose actions are this close to PyTorch's, in standard "
            "deviations of the actions.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(help=RECIPE_HELP),
    ] = DEFAULT_RECIPE,
    verify: Annotated[
        str | None,
        typer.Option(
            help="Compare with PyTorch on so many inputs: none, quick (2), full (16); by default "
            "full with a dataset, quick without."
        ),
    ] = None,
    control_rate_hz: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            help="Without a dataset, where the checkpoint does not say.",
            rich_help_panel=UNSAID,
        ),
    ] = None,
    state_names: Annotated[
        str,
        typer.Option(
            help="Without a dataset: names of the state, with commas.", rich_help_panel=UNSAID
        ),
    ] = "",
    action_names: Annotated[
        str,
        typer.Option(
            help="Without a dataset: names of the action, with commas.", rich_help_panel=UNSAID
        ),
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE for what a policy family leaves open; may be repeated.",
            rich_help_panel=UNSAID,
        ),
    ] = None,
    rename: Rename = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for resumable work; default an entry of the cache.", rich_help_panel=PLACES
        ),
    ] = None,
    cache: Cache = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames of the dataset that statistics are collected from.",
            rich_help_panel=EFFORT,
        ),
    ] = CompressionSettings.n_frames,
    draws: Annotated[
        int, typer.Option(min=1, help="Draws of noise for each of them.", rich_help_panel=EFFORT)
    ] = CompressionSettings.draws,
    held_out: HeldOut = CompressionSettings.n_held_out,
    tune_minutes: TuneMinutes = TuningSettings.minutes,
    tune_steps: TuneSteps = TuningSettings.steps,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compress a checkpoint into one GGUF."""
    with told_plainly(as_json):
        with asked():  # before PyTorch is imported
            named = renames(rename or [])
            goal = Goal(bpw, parse_size(target_size), max_action_error)
            if not goal and find_recipe(recipe).needs_budget:
                goal = Goal(DEFAULT_BPW)
            options = key_values("--option", option or [])
            check_request(recipe, dataset, goal, verify)
            check_places(checkpoint, dataset, out, work, cache, force=force)
        from actquant.compression.pipeline import compress as run

        with progress_bars() as progress:
            report = run(
                checkpoint,
                out,
                recipe=recipe,
                dataset=dataset,
                bpw=goal.bpw,
                target_size_bytes=goal.size_bytes,
                max_action_error=goal.action_error,
                verify=verify,
                work=work,
                cache=cache,
                seed=seed,
                settings=CompressionSettings(
                    n_frames=frames,
                    n_held_out=held_out,
                    draws=draws,
                    tuning=TuningSettings(tune_steps, tune_minutes),
                ),
                renames=named,
                progress=progress,
                force=force,
                control_rate_hz=control_rate_hz,
                state_names=state_names.split(",") if state_names else None,
                action_names=action_names.split(",") if action_names else None,
                options=options,
            )
        show(report, as_json, *tables.compression(report))


@app.command(name="cache")
def cache_(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all entries.")] = False,
    remove: Annotated[str, typer.Option(help="Delete the entry with this key.")] = "",
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Show what earlier compressions left for later ones of the same policy; delete it."""
    with told_plainly(as_json, after_a_stop=""):
        from actquant.compression.cache import cache_folder, clear_cache, read_cache

        folder = cache_folder(cache)
        with asked():
            if clear and remove:
                raise UsageError("give --clear for all entries, or --remove for one")
            check_folder(folder, [])
        report = clear_cache(folder, remove or None) if clear or remove else read_cache(folder)
        show(report, as_json, *tables.cache(report))


@app.command()
def sweep(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    dataset: Annotated[Path, typer.Option(help="LeRobotDataset folder with its episodes.")],
    out: Annotated[Path, typer.Option(help="Folder for files, results and the page.")] = Path(
        "sweep-out"
    ),
    bpw: Annotated[str, typer.Option(help="Whole-file bits per weight, with commas.")] = "2.5,3",
    recipes: Annotated[
        str, typer.Option(help="Recipes, with commas; f16 is always there.")
    ] = "actquant,paper,imatrix,awq,gptq,rtn",
    seeds: Annotated[str, typer.Option(help="Seeds of calibration, with commas.")] = "0",
    env: Annotated[
        str, typer.Option(help="Environment family for closed loops; none without.")
    ] = "",
    starts: Starts = "0:50",
    held_out: HeldOut = 256,
    tune_minutes: TuneMinutes = TuningSettings.minutes,
    tune_steps: TuneSteps = TuningSettings.steps,
    rename: Rename = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compress a checkpoint by several recipes to several sizes, run all files, compare them in
    pairs, and write a page to decide from."""
    with told_plainly(as_json):
        with asked():  # before PyTorch is imported
            from actquant.sweep.request import SweepRequest

            request = SweepRequest(
                checkpoint=checkpoint,
                dataset=dataset,
                out=out,
                recipes=recipes.split(","),
                bpws=numbers("--bpw", bpw),
                seeds=whole_numbers("--seeds", seeds),
                env=env or None,
                starts=starts,
                renames=renames(rename or []),
            )
            request.check(force=force)
        from actquant.sweep.sweep import Sweep

        settings = CompressionSettings(
            n_held_out=held_out, tuning=TuningSettings(tune_steps, tune_minutes)
        )
        found = Sweep(**vars(request), settings=settings, force=force)
        with progress_bars() as progress:
            report = found.run(progress)
        show(report, as_json, *tables.sweep(report))


@app.command()
def inspect(model: Model, as_json: Json = False) -> None:
    """Show what a GGUF holds: policy, bits, tensors, stages, normalisation, provenance."""
    with told_plainly(as_json):
        with asked():
            path = model_path(model)
        from actquant.evaluation.inspection import inspect_model

        report = inspect_model(path)
        show(report, as_json, *tables.inspection(report))


@app.command()
def verify(
    model: Model,
    against: Annotated[
        Path | None,
        typer.Option(help="The checkpoint it was made from: also measure the distance to it."),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Run the golden self-test of a GGUF on this machine; exit 1 if it fails."""
    with told_plainly(as_json):
        with asked():
            if against is not None:
                require_folder(against, "a checkpoint folder")
            path = model_path(model)
        from actquant.fidelity.self_test import verify as run

        report = run(path, against, device)
        show(report, as_json, *tables.verification(report))
        if not report.passed:
            raise typer.Exit(1)


@app.command()
def bench(
    model: Model,
    n: Annotated[int, typer.Option(min=1, max=10**9, help="Inferences.")] = 100,
    threads: Threads = 0,
    device: Device = "cpu",
    operators: Annotated[
        bool, typer.Option("--operators", help="Show where the time goes, operator by operator.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a GGUF's latency and peak memory in a process of its own."""
    with told_plainly(as_json):
        with asked():
            path = model_path(model)
            if operators and device != "cpu":
                raise UsageError("--operators is measured on the cpu alone; leave out --device")
        from actquant.evaluation.bench import BenchReport, measure, profile

        measured = measure(path, n=n, threads=threads, device=device)
        costs = profile(path, threads=threads) if operators else None
        report = BenchReport(**measured.model_dump(), profile=costs)
        show(report, as_json, *tables.measurement(report))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine has and lacks, with the remedy.

    Exit code 1 if something is missing that every command needs; what only some need is a warning.
    """
    with told_plainly(as_json, after_a_stop=""):
        from actquant.cli.doctor import diagnose

        report = diagnose()
        show(report, as_json, *tables.doctor(report))
        if not report.healthy:
            raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-out"),
    bpw: Annotated[
        float, typer.Option(callback=positive, help="Whole-file bits per weight.")
    ] = 2.5,
    starts: Starts = "0:50",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compress the embedded reference policy by our recipe and two others, and run all of them in
    simulation."""
    with told_plainly(as_json):
        with asked():  # before PyTorch is imported
            from actquant.cli.demo_request import check_demo

            parse_starts(starts)
            check_demo(out, bpw, force=force)
        from actquant.cli.demo import run

        with progress_bars() as progress:
            report = run(out, bpw=bpw, starts=starts, progress=progress, force=force)
        show(report, as_json, *tables.demo(report))
