"""Commands on arms: deploy a policy, run the fake controller."""

from pathlib import Path
from typing import Annotated

import typer
from actquant_runtime.hub import find_model

from actquant.cli.command_line import asked, errors
from actquant.cli.options import (
    LARGEST_SEED,
    MOTION,
    Device,
    ExecutionHorizon,
    Json,
    Mode,
    Model,
    StepsPerChunk,
    Threads,
    finite,
    key_values,
    positive,
)
from actquant.cli.output import app, console, show, told_plainly
from actquant.common.paths import require_folder
from actquant.evaluation.starts import LAST_START

ROBOT = "The robot, its cameras and its task"
PERMISSION, KEPT = "What it may do", "What is kept"
"""Groups of options of `deploy --help`."""


@app.command(name="robot-sim")
def robot_sim(
    host: Annotated[str, typer.Option(help="Loopback address whose ports it takes.")] = "127.0.0.2",
    model: Annotated[
        str, typer.Option(help="ur3e, ur5e, ur10e, ur16e, ur20, ur30, ur3, ur5, ur10.")
    ] = "ur3e",
    task: Annotated[str, typer.Option(help="Task of the simulator, e.g. stack.")] = "pick_cube",
    start: Annotated[
        int, typer.Option(min=0, max=LAST_START, help="Number of the task's start.")
    ] = 0,
    cameras: Annotated[bool, typer.Option(help="Publish pictures on port 5555.")] = True,
    image_size: Annotated[
        int, typer.Option(min=16, max=2048, help="Height and width of the pictures.")
    ] = 96,
) -> None:
    """Run a fake UR controller with a simulated arm behind it, until Ctrl-C."""
    with told_plainly(as_json=False, after_a_stop=""):
        from actquant.deploy.robot_sim import SimSettings, run

        run(SimSettings(host, model, task, start, cameras, image_size))


@app.command()
def deploy(
    model: Model,
    ip: Annotated[
        str, typer.Option(help="Address of the robot's controller.", rich_help_panel=ROBOT)
    ],
    task: Annotated[
        str,
        typer.Option(help="What the robot shall do, in the policy's words.", rich_help_panel=ROBOT),
    ],
    robot: Annotated[
        str,
        typer.Option(
            help="ur3e, ur5e, ur10e, ur16e, ur20, ur30, ur3, ur5, ur10.", rich_help_panel=ROBOT
        ),
    ] = "ur3e",
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=KIND:WHERE, for each of the policy's cameras: zmq:HOST:PORT:CAMERA, "
            "opencv:/dev/video0?width=640&height=480&fps=30, realsense:SERIAL; with "
            "?first_picture_s=30, seconds that it may take to begin.",
            rich_help_panel=ROBOT,
        ),
    ] = None,
    mode: Mode = "sync",
    steps_per_chunk: StepsPerChunk = None,
    execution_horizon: ExecutionHorizon = 10,
    speed: Annotated[
        float,
        typer.Option(
            callback=positive,
            max=1,
            help="Fraction of full speed, above 0 up to 1.",
            rich_help_panel=MOTION,
        ),
    ] = 0.25,
    episodes: Annotated[
        int, typer.Option(min=1, help="Episodes, one after another.", rich_help_panel=MOTION)
    ] = 1,
    max_seconds: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Length of an episode, as it would be at full speed.",
            rich_help_panel=MOTION,
        ),
    ] = 60.0,
    max_refusals: Annotated[
        int,
        typer.Option(
            min=1, help="Actions refused in a row that end an episode.", rich_help_panel=MOTION
        ),
    ] = 10,
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            callback=finite,
            help="Seconds that sync waits at most, before it looks, for the arm; 0: none.",
            rich_help_panel=MOTION,
        ),
    ] = 1.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Everything but motion.", rich_help_panel=PERMISSION)
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before moving.", rich_help_panel=PERMISSION)
    ] = False,
    activate_gripper: Annotated[
        bool,
        typer.Option(
            "--activate-gripper",
            help="The gripper may open and close to become active.",
            rich_help_panel=PERMISSION,
        ),
    ] = False,
    allow_unusual_state: Annotated[
        bool,
        typer.Option(
            "--allow-unusual-state",
            help="Go on though the state is far from the training data.",
            rich_help_panel=PERMISSION,
        ),
    ] = False,
    resize: Annotated[
        bool,
        typer.Option(
            "--resize",
            help="Shrink pictures to the size of the training data.",
            rich_help_panel=ROBOT,
        ),
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(help="LeRobotDataset folder to make or to append to.", rich_help_panel=KEPT),
    ] = None,
    rerun: Annotated[
        Path | None, typer.Option(help="Write a rerun recording, FILE.rrd.", rich_help_panel=KEPT)
    ] = None,
    log: Annotated[
        Path, typer.Option(help="Folder of event logs and reports.", rich_help_panel=KEPT)
    ] = Path("deploy-log"),
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE in place of a default limit, e.g. tool_speed_m_s=0.25.",
            rich_help_panel=ROBOT,
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE of the arm's set-up, e.g. payload_kg=1.2, gripper=rg2.",
            rich_help_panel=ROBOT,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the policy's noise.")
    ] = None,
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Let a policy drive an arm: check, ask, run, record. See docs/deploy.md first.

    Exit codes: 0 done, 1 an error before motion, 2 a wrong command line, 3 not allowed, 4 too many
    refusals, 5 the robot stopped or failed, 6 the recording failed, 7 the policy failed, 130
    Ctrl-C, 143 terminated.
    """
    with told_plainly(as_json, after_a_stop=f"What was logged is in {log}."):
        from actquant.deploy import tables
        from actquant.deploy.settings import DeploySettings

        with asked():
            settings = DeploySettings(
                model=Path(find_model(model)),
                robot=robot,
                ip=ip,
                task=task,
                cameras=camera or [],
                mode=mode,
                steps_per_chunk=steps_per_chunk,
                execution_horizon=execution_horizon,
                speed=speed,
                episodes=episodes,
                max_seconds=max_seconds,
                max_refusals=max_refusals,
                settle_s=settle,
                dry_run=dry_run,
                yes=yes,
                activate_gripper=activate_gripper,
                allow_unusual_state=allow_unusual_state,
                resize=resize,
                record=record,
                rerun=rerun,
                log=log,
                seed=seed,
                threads=threads,
                device=device,
                limits=key_values("--limit", limit or []),
                arm=key_values("--arm", arm or []),
            )
        from actquant.deploy.operator import ConsoleOperator
        from actquant.deploy.session import deploy as run

        report = run(settings, ConsoleOperator(errors if as_json else console))
        show(report, as_json, *tables.deployment(report))
        raise typer.Exit(report.exit_code)


@app.command()
def salvage(
    dataset: Annotated[Path, typer.Argument(help="The folder that was given to --record.")],
) -> None:
    """Make episodes of what a crashed `deploy --record` left; the next deploy does it too."""
    with told_plainly(as_json=False):
        with asked():
            journals = dataset.with_name(f"{dataset.name}.journal") if dataset.name else dataset
            if not journals.exists():
                require_folder(dataset, "the folder that was given to --record")
        from actquant.deploy.operator import ConsoleOperator
        from actquant.deploy.recording import Recorder
        from actquant.deploy.session import salvage as run

        with Recorder(dataset) as recorder:
            if not run(recorder, ConsoleOperator(console)):
                console.print("There was nothing to salvage.")
