"""Waiting for what a busy machine does late."""

import time
from collections.abc import Callable

from lerobot_robot_ur import dashboard

PATIENCE = 30.0  # s


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in {PATIENCE} s it did not come to: {what}"
        time.sleep(0.01)


def bring_back(host: str) -> None:
    """Ends whatever program there is, and makes the robot ready to move."""
    dashboard.stop_program(host)
    dashboard.bring_back(host)


def wait_for_pictures(host: str) -> None:
    """LeRobot's ZMQ camera gives up after a second, which is when pictures may begin to come."""
    from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig

    camera = ZMQCamera(ZMQCameraConfig(server_address=host, timeout_ms=round(1e3 * PATIENCE)))
    camera.connect(warmup=False)
    camera.disconnect()
