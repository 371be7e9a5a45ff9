"""The command that lets a policy act in a robot that runs ROS 2."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from actquant.cli.command_line import asked, errors
from actquant.cli.options import (
    MOTION,
    ExecutionHorizon,
    Json,
    Mode,
    StepsPerChunk,
    Threads,
    key_values,
    positive,
)
from actquant.cli.output import app, show, told_plainly
from actquant.common.tables import printable

if TYPE_CHECKING:
    from actquant.ros.driver import RosReport

TOPICS = "The robot's topics"
"""Groups of options in --help."""


@app.command()
def ros(
    model: Annotated[
        str, typer.Argument(help="A GGUF, one of the hub, or ws://HOST:PORT/NAME of a server.")
    ],
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TOPIC for each of the policy's cameras; a topic that ends in /compressed "
            "carries CompressedImage, any other Image.",
            rich_help_panel=TOPICS,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What the robot shall do, in the policy's words.")
    ] = None,
    task_topic: Annotated[
        str | None,
        typer.Option(
            help="Topic of std_msgs/String that says it; an empty one pauses.",
            rich_help_panel=TOPICS,
        ),
    ] = None,
    joint_states: Annotated[
        str, typer.Option(help="Topic of sensor_msgs/JointState.", rich_help_panel=TOPICS)
    ] = "/joint_states",
    joint: Annotated[
        list[str] | None,
        typer.Option(
            help="POLICY'S=JOINT where a joint has another name; POLICY'S=JOINT*FACTOR where the "
            "policy's number times FACTOR is in rad or m.",
            rich_help_panel=TOPICS,
        ),
    ] = None,
    trajectory: Annotated[
        list[str] | None,
        typer.Option(
            help="Topic of trajectory_msgs/JointTrajectory; TOPIC=JOINT,JOINT for some joints "
            "alone.  \\[default: /joint_trajectory_controller/joint_trajectory]",
            rich_help_panel=TOPICS,
        ),
    ] = None,
    status: Annotated[
        str,
        typer.Option(
            help="Topic of std_msgs/String that says what is done, or why nothing is.",
            rich_help_panel=TOPICS,
        ),
    ] = "/actquant/status",
    url: Annotated[
        str | None,
        typer.Option(
            help="ws://HOST:9090 of a rosbridge, in place of a node of this computer's ROS.",
            rich_help_panel=TOPICS,
        ),
    ] = None,
    node_name: Annotated[
        str, typer.Option(help="Name of the node.", rich_help_panel=TOPICS)
    ] = "actquant",
    mode: Mode = "sync",
    steps_per_chunk: StepsPerChunk = None,
    execution_horizon: ExecutionHorizon = 10,
    ahead: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Seconds that a trajectory leads on, at most: so long the robot moves on when "
            "nothing more comes.",
            rich_help_panel=MOTION,
        ),
    ] = 1.0,
    max_age: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Seconds that a picture or a joint's position may be old.",
            rich_help_panel=MOTION,
        ),
    ] = 0.5,
    max_jump: Annotated[
        list[str] | None,
        typer.Option(
            help="How far one action may lead a joint (rad or m), inf for any distance; "
            "JOINT=VALUE for one joint.  \\[default: 0.5]",
            rich_help_panel=MOTION,
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(callback=positive, help="End after so long.", rich_help_panel=MOTION),
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Fit pictures to the size of the training data.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Everything but trajectories.", rich_help_panel=MOTION)
    ] = False,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Let a policy act over ROS 2: topics in, trajectories out. See docs/ros.md first.

    Runs until Ctrl-C (exit code 130), SIGTERM (143) or --max-seconds (0).
    """
    with told_plainly(as_json, after_a_stop="Nothing was published."):
        from actquant.deploy.stopping import StopRequest, signals
        from actquant.ros.driver import Driver
        from actquant.ros.policies import open_policy
        from actquant.ros.settings import RosSettings

        def tell(text: str) -> None:
            errors.print(printable(text), markup=False, highlight=False, soft_wrap=True)

        largest, jumps = _jumps(max_jump or [])
        with asked():
            cameras = key_values("--camera", camera or [])
            settings = RosSettings(
                cameras={name: str(topic) for name, topic in cameras.items()},
                task=task,
                task_topic=task_topic,
                joint_states=joint_states,
                joints=joint or (),
                trajectories=trajectory or RosSettings.trajectories,
                status_topic=status,
                mode=mode,
                steps_per_chunk=steps_per_chunk,
                execution_horizon=execution_horizon,
                ahead_s=ahead,
                max_age_s=max_age,
                max_jump=largest,
                jumps=jumps,
                max_seconds=max_seconds,
                resize=resize,
                dry_run=dry_run,
            )
        policy = open_policy(model, threads)
        rate = policy.describe().control_rate_hz or 1.0
        if url is None:
            from actquant.ros.node import NodeLink

            link = NodeLink(node_name)
        else:
            from actquant.ros.rosbridge import RosbridgeLink

            link = RosbridgeLink(url, tell, throttle_ms=int(500 / rate))
        with asked():
            driver = Driver(policy, settings, link, tell)
        stop = StopRequest(driver.stop)
        with signals(stop):
            report = driver.run()
        show(report, as_json, _told(report))
        if stop.signal_number:
            raise typer.Exit(128 + stop.signal_number)


def _jumps(given: list[str]) -> tuple[float, dict[str, float]]:
    """Returns --max-jump for all joints, and by joint."""
    from actquant.ros.settings import RosSettings

    largest, jumps = RosSettings.max_jump, {}
    for text in given:
        name, equals, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number > 0 or (equals and not name):
            raise typer.BadParameter(f"--max-jump {text}: wanted VALUE or JOINT=VALUE above 0")
        if name:
            jumps[name] = number
        else:
            largest = number
    return largest, jumps


def _told(report: "RosReport") -> str:
    inference = ""
    if report.inference_ms is not None:
        inference = "; a chunk took {:.1f} ms (median), {:.1f} ms (p95)".format(
            *report.inference_ms
        )
    return (
        f"Ended after {report.seconds:.1f} s: {report.ending}\n"
        f"{report.trajectories} trajectories of {report.chunks} chunks{inference}; "
        f"{report.silent_ticks} ticks without an observation, {report.refused} refused, "
        f"{report.waits} waited for the policy, {report.late_ticks} missed"
    )
