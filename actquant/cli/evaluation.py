"""Commands on closed loops: eval, compare, plan, report."""

from pathlib import Path
from typing import Annotated

import typer

from actquant.cli import tables
from actquant.cli.command_line import asked
from actquant.cli.options import (
    HUB_NAME,
    MOST_THREADS,
    Device,
    Force,
    Json,
    Rename,
    Seed,
    Starts,
    StepsPerChunk,
    environment_options,
    finite,
    model_path,
    positive,
    renames,
    whole_numbers,
)
from actquant.cli.output import app, progress_bars, show, told_plainly
from actquant.common.errors import UsageError
from actquant.common.outputs import EVALUATION, REPORT, check_folder, check_output
from actquant.common.paths import require_file
from actquant.environments.base import SUITES, open_suite, parse_perturb, require_suite
from actquant.evaluation.plan import POWER, SIGNIFICANCE
from actquant.evaluation.report import MOST_VIDEO_BYTES, MOST_VIDEOS
from actquant.evaluation.starts import parse_starts
from actquant.evaluation.timing import EXECUTION_HORIZON, parse_timing

ENVIRONMENTS = (
    f"One of {', '.join(SUITES)}, or a type of LeRobot's and its plugins' environments, e.g. pusht."
)
TIME = "Time that the policy takes"
"""Group of options of `eval --help`."""


@app.command(name="eval")
def eval_(
    model: Annotated[str, typer.Argument(help=f"A GGUF, a checkpoint folder, or {HUB_NAME}.")],
    out: Annotated[Path, typer.Option(help="Where the JSON result goes.")],
    env: Annotated[str, typer.Option(help=ENVIRONMENTS)] = "ur3e",
    env_option: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE of LeRobot's environment, as its --env.KEY=VALUE. May be repeated."
        ),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated task names; default all.")] = "",
    starts: Starts = "0:50",
    seed: Seed = 0,
    steps_per_chunk: StepsPerChunk = None,
    perturb: Annotated[
        str,
        typer.Option(
            help="What is otherwise than in training, KIND=LEVEL with commas, levels 0 to 3: of "
            "ur3e camera, light, texture, image_noise, state_noise, distractors, instruction."
        ),
    ] = "",
    latency: Annotated[
        str | None,
        typer.Option(
            help="Simulated time that a chunk takes: ms, or 'measured' for what it takes this "
            "machine; by default none, the simulation waits.",
            rich_help_panel=TIME,
        ),
    ] = None,
    latency_jitter: Annotated[
        float | None,
        typer.Option(help="Up to so many ms more or less, by chance.", rich_help_panel=TIME),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="Meanwhile the robot holds (sync), or the old chunk goes on (async), or so with "
            "real-time chunking (rtc), as in `deploy`.",
            rich_help_panel=TIME,
        ),
    ] = "sync",
    execution_horizon: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="rtc: actions of the old chunk, at most, that guide the new one; default "
            f"{EXECUTION_HORIZON}.",
            rich_help_panel=TIME,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=0, max=MOST_THREADS, help="Processes; 0: as cores and memory allow."),
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run episodes on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT; at most --jobs "
            "at once.",
        ),
    ] = None,
    grey_camera: Annotated[
        str | None,
        typer.Option(help="Ablation: grey out this camera, e.g. observation.images.wrist."),
    ] = None,
    rename: Rename = None,
    wrong_instruction: Annotated[
        bool,
        typer.Option(
            "--wrong-instruction", "--wrong-colour", help="Ablation: ask for something else."
        ),
    ] = False,
    videos: Annotated[
        Path | None,
        typer.Option(help="Folder for films of failures, at most 100 kB each, for `report`."),
    ] = None,
    all_videos: Annotated[
        bool, typer.Option("--all-videos", help="Film successes too, with --videos.")
    ] = False,
    comparable: Annotated[
        bool,
        typer.Option(
            "--comparable",
            help="Refuse what published numbers were not found with: of LIBERO, other than all "
            "tasks and --starts 0:50, or stand-in visuals.",
        ),
    ] = False,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a model in closed loop from numbered starts.

    An episode whose simulator fails is tried three times, then named and not counted.
    """
    with told_plainly(as_json):
        with asked():
            named = renames(rename or [])
            options = environment_options(env_option or [])
            parse_starts(starts)
            levels = parse_perturb(perturb)
            timing = parse_timing(latency, latency_jitter, mode, execution_horizon)
            path = model_path(model, folder=True)
            if ray is not None:
                from actquant.evaluation.cluster import check_request

                check_request(ray, path, timing)
            check_output(out, EVALUATION, [path], force=force)
            if videos is not None:
                check_folder(videos, [path])
            elif all_videos:
                raise UsageError("--all-videos needs --videos FOLDER")
            require_suite(env)
            if levels or options:
                open_suite(env, levels, options).close()
        from actquant.evaluation.evaluate import evaluate
        from actquant.evaluation.rollout import Ablation

        with progress_bars() as progress:
            bar = progress.add_task(f"{path.name} in {env}", total=None)
            result = evaluate(
                path,
                env=env,
                tasks=[name for name in tasks.split(",") if name],
                starts=starts,
                out=out,
                seed=seed,
                steps_per_chunk=steps_per_chunk,
                ablation=Ablation(grey_camera, wrong_instruction),
                renames=named,
                timing=timing,
                perturb=levels,
                env_options=options,
                jobs=jobs,
                ray=ray,
                videos=videos,
                all_videos=all_videos,
                comparable=comparable,
                device=device,
                force=force,
                on_episode=lambda _, done, total: progress.update(bar, completed=done, total=total),
            )
        show(result, as_json, *tables.evaluation(result))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Result of `actquant eval`.")],
    b: Annotated[Path, typer.Argument(help="Another, on the same starts.")],
    as_json: Json = False,
) -> None:
    """Compare two evaluations start by start (McNemar)."""
    with told_plainly(as_json):
        with asked():
            for path in (a, b):
                require_file(path, "a result of `actquant eval`")
        from actquant.evaluation.compare import compare as run

        comparison = run(a, b)
        show(comparison, as_json, *tables.comparison(comparison))


@app.command()
def plan(
    detect: Annotated[
        float, typer.Option(callback=positive, help="The difference to show, in points.")
    ],
    success: Annotated[
        float, typer.Option(min=0, max=100, help="Success of the better model, in %.")
    ] = 90.0,
    power: Annotated[
        float, typer.Option(callback=positive, help="The chance to show a difference there is.")
    ] = POWER,
    discordance: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="Of 100 starts, those on which one of the two alone succeeds (`compare` counts "
            "them); by default as if the two had nothing in common.",
        ),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(callback=finite, help="100 minus the discordance, if that is known instead."),
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="Leave out evaluations from different starts.")
    ] = False,
    have: Annotated[
        str, typer.Option(help="Episodes at hand, with commas: what they can show.")
    ] = "100,300,600,1200",
    significance: Annotated[
        float, typer.Option(callback=positive, help="p below which a difference is shown.")
    ] = SIGNIFICANCE,
    as_json: Json = False,
) -> None:
    """Say how many episodes show a difference of success, and what some number can show."""
    with told_plainly(as_json, after_a_stop=""), asked():
        from actquant.evaluation.plan import plan as run

        if discordance is not None and agreement is not None:
            raise UsageError("give --discordance or --agreement, not both")
        if agreement is not None:
            discordance = 100 - agreement
        report = run(
            detect / 100,
            success=success / 100,
            power=power,
            significance=significance,
            discordance=None if discordance is None else discordance / 100,
            at_hand=[n for n in whole_numbers("--have", have) if n] if have else [],
            paired_alone=paired,
        )
        show(report, as_json, *tables.plan(report))


@app.command()
def report(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results of `actquant eval`; the others are compared with the first."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    most_videos: Annotated[
        int, typer.Option(min=0, max=1000, help="Films on the page, failures first.")
    ] = MOST_VIDEOS,
    most_video_mb: Annotated[
        float, typer.Option(min=0, callback=finite, help="Size of all films together, in MB.")
    ] = MOST_VIDEO_BYTES / 1e6,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a page of one or several evaluations: one HTML file that loads nothing."""
    with told_plainly(as_json, after_a_stop=""):
        with asked():
            for path in results:
                require_file(path, "a result of `actquant eval`")
            check_output(out, REPORT, results, force=force)
        from actquant.evaluation.report import write_report

        summary = write_report(
            results,
            out,
            most_videos=most_videos,
            most_video_bytes=int(most_video_mb * 1e6),
        )
        show(summary, as_json, *tables.report(summary))
