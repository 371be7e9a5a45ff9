"""Commands on arms: deploy a policy, run the fake controller."""

from typing import Annotated

import typer

from actquant.cli.output import app, told_plainly


@app.command(name="robot-sim")
def robot_sim(
    host: Annotated[str, typer.Option(help="Loopback address whose ports it takes.")] = "127.0.0.2",
    model: Annotated[str, typer.Option(help="ur3e or ur3.")] = "ur3e",
    task: Annotated[str, typer.Option(help="Task of the simulator, e.g. stack.")] = "pick_cube",
    start: Annotated[int, typer.Option(help="Number of the task's start.")] = 0,
    cameras: Annotated[bool, typer.Option(help="Publish pictures on port 5555.")] = True,
    image_size: Annotated[int, typer.Option(help="Height and width of the pictures.")] = 96,
) -> None:
    """Run a fake UR controller with a simulated arm behind it, until Ctrl-C."""
    with told_plainly(as_json=False):
        from actquant.deploy.robot_sim import SimSettings, run

        run(SimSettings(host, model, task, start, cameras, image_size))
