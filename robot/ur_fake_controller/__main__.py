"""`python -m ur_fake_controller`: run a fake controller in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from lerobot_env_ur3e.tasks import TASK_NAMES
from lerobot_robot_ur.models import MODELS

from .loopback import loopback
from .server import ControllerServer, ControllerSettings

_NICENESS = -10


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--model", choices=tuple(MODELS), default="ur3e")
    parser.add_argument(
        "--host", type=loopback, default="127.0.0.1", help="address whose ports it takes"
    )
    parser.add_argument("--task", choices=TASK_NAMES, default="pick_cube")
    parser.add_argument("--start", type=int, default=0, help="number of the task's start")
    parser.add_argument(
        "--unlock-delay", type=float, default=5.0, metavar="S",
        help="seconds after a protective stop before it can be unlocked",
    )  # fmt: skip
    parser.add_argument("--cameras", action="store_true", help="publish pictures, on port 5555")
    parser.add_argument("--camera-rate", type=float, default=30.0, metavar="HZ")
    parser.add_argument("--image-size", type=int, default=256, metavar="PIXELS")
    parser.add_argument("--lifeline", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _prefer_this_process()
    controller = ControllerServer(
        ControllerSettings(
            model=options.model,
            host=options.host,
            task=options.task,
            start=options.start,
            unlock_delay=options.unlock_delay,
            cameras=options.cameras,
            camera_rate_hz=options.camera_rate,
            image_size=options.image_size,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: controller.quit())
    logging.info("%s on %s: %s", controller.model.name, options.host, controller.state()["task"])
    controller.run(sys.stdin.fileno() if options.lifeline else None)


def _prefer_this_process() -> None:
    """Asks for priority: a controller keeps its time whatever else a machine does."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
        # Linux shares its time between sessions first; with one of its own, this one's counts.
        if os.getsid(0) == os.getpid() and (group := Path("/proc/self/autogroup")).exists():
            group.write_text(str(_NICENESS))
    except OSError as error:
        logging.info("no priority over other processes: %s", error.strerror)


if __name__ == "__main__":
    main()
