"""`actquant robot-sim`: the fake UR controller in the foreground, to try a deployment on."""

import errno
import logging
import shlex
import signal
from dataclasses import dataclass

from actquant.common.errors import DeployError, UsageError
from actquant.common.extras import explain_missing

CAMERAS = ("scene", "wrist")


@dataclass(frozen=True)
class SimSettings:
    """What `ur_fake_controller` is started with. `image_size` is in pixels."""

    host: str = "127.0.0.2"
    model: str = "ur3e"
    task: str = "pick_cube"
    start: int = 0
    cameras: bool = True
    image_size: int = 96

    def check(self) -> None:
        """Raises UsageError listing all that is wrong, DeployError for what is not installed."""
        try:
            from lerobot_env_ur3e.tasks import TASK_NAMES
            from lerobot_robot_ur.models import MODELS
            from ur_fake_controller.loopback import is_loopback
        except ImportError as error:
            raise DeployError(
                "the fake controller is not installed: "
                f"{explain_missing(error, 'ur_fake_controller')}"
            ) from error
        wrong = []
        if self.model not in MODELS:
            wrong.append(f"--model {self.model}; choose one of {', '.join(MODELS)}")
        if self.task not in TASK_NAMES:
            wrong.append(f"--task {self.task}; choose one of {', '.join(TASK_NAMES)}")
        if self.start < 0:
            wrong.append(f"--start {self.start}; starts count from 0")
        if not is_loopback(self.host):
            wrong.append(
                f"--host {self.host}; a loopback address, 127.x.y.z: the fake has no password"
            )
        if wrong:
            raise UsageError("; ".join(wrong))


def run(settings: SimSettings) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Raises UsageError if a setting is wrong, DeployError if the controller or its simulator is not
    installed, or a port is taken.
    """
    settings.check()
    from ur_fake_controller.server import ControllerServer, ControllerSettings

    try:
        controller = ControllerServer(
            ControllerSettings(
                model=settings.model,
                host=settings.host,
                task=settings.task,
                start=settings.start,
                cameras=settings.cameras,
                image_size=settings.image_size,
            )
        )
    except OSError as error:
        raise DeployError(_unavailable(settings.host, error)) from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: controller.quit())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    instruction = controller.state()["instruction"]
    print(introduction(settings, instruction), flush=True)
    controller.run()


def _unavailable(host: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"a port of the controller is taken on {host}; choose another --host, e.g. 127.0.0.3"
    return f"the controller's ports cannot be opened on {host}: {error}"


def introduction(settings: SimSettings, instruction: str) -> str:
    """Returns what to type to drive this controller."""
    words = ["actquant", "deploy", "MODEL.gguf", "--robot", settings.model, "--ip", settings.host]
    words += ["--task", instruction]
    if settings.cameras:
        for camera in CAMERAS:
            words += ["--camera", f"{camera}=zmq:{settings.host}:5555:{camera}"]
    return (
        f"{settings.model} on {settings.host}, start {settings.start} of {settings.task}; "
        f"Ctrl-C ends it. In another terminal:\n  {shlex.join(words)}"
    )
