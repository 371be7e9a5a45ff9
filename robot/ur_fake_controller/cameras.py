"""The scene's cameras on port 5555, in LeRobot's ZMQ protocol.

Pictures are drawn in a process of their own, so that the servo never waits for one. Each message
is JSON: {"timestamps": {camera: s since the epoch}, "images": {camera: base64 of a JPEG}}.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import signal
import time
from ctypes import c_double
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .server import ControllerSettings

PORT = 5555
NAMES = ("scene", "wrist")
_QUALITY = 90
_HEADER = 4  # doubles before the configuration: sequence number, time, frozen, closing
_SEQUENCE, _TIME, _FROZEN, _CLOSING = range(_HEADER)


class CameraProcess:
    """The drawing process, and the memory through which it sees the scene."""

    def __init__(self, model: str, settings: ControllerSettings, size: int):
        context = multiprocessing.get_context("spawn")
        self._shared = context.RawArray(c_double, _HEADER + size)
        self._values = np.frombuffer(self._shared, np.float64)
        self._process = context.Process(
            target=_publish,
            args=(
                self._shared,
                model,
                settings.host,
                settings.camera_rate_hz,
                settings.image_size,
                os.getpid(),
            ),
            daemon=True,
        )
        self._process.start()

    def show(self, configuration: NDArray[np.float64]) -> None:
        """Makes the scene's positions the ones to be drawn."""
        values = self._values
        values[_SEQUENCE] += 1  # odd: being written
        values[_TIME] = time.time()
        values[_HEADER:] = configuration
        values[_SEQUENCE] += 1

    def freeze(self, frozen: bool) -> None:
        """Stops publishing pictures, or goes on."""
        self._values[_FROZEN] = frozen

    def close(self) -> None:
        self._values[_CLOSING] = 1
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()


def _read(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Returns a time and configuration that belong together."""
    while True:
        before = values[_SEQUENCE]
        copy = values.copy()
        if before % 2 == 0 and values[_SEQUENCE] == before:
            return float(copy[_TIME]), copy[_HEADER:]
        time.sleep(0.0002)


def _publish(shared, model: str, host: str, rate_hz: float, image_size: int, parent: int) -> None:
    """Draws and publishes until the controller ends. Runs in its own process."""
    import zmq

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's, which closes this

    values = np.frombuffer(shared, np.float64)
    draw = _Painter(model, image_size)
    context = zmq.Context()
    # XPUB tells of subscribers: without any, nothing is drawn.
    publisher = context.socket(zmq.XPUB)
    publisher.setsockopt(zmq.SNDHWM, 2)
    publisher.setsockopt(zmq.LINGER, 0)
    publisher.bind(f"tcp://{host}:{PORT}")
    subscribers, due = 0, time.monotonic()
    while not values[_CLOSING] and os.getppid() == parent:
        while publisher.poll(max(0, round(1e3 * (due - time.monotonic())))):
            subscribers += 1 if publisher.recv()[:1] == b"\x01" else -1
        due = max(due + 1.0 / rate_hz, time.monotonic())
        if subscribers > 0 and not values[_FROZEN] and values[_SEQUENCE]:
            taken, configuration = _read(values)
            images = draw(configuration)
            message = {"timestamps": dict.fromkeys(images, taken), "images": images}
            publisher.send_string(json.dumps(message))
    publisher.close()
    context.term()


class _Painter:
    """Draws the scene's cameras at a configuration, as base64 JPEGs."""

    def __init__(self, model: str, image_size: int):
        import mujoco
        from lerobot_env_ur3e.simulator import Simulator
        from lerobot_robot_ur.models import MODELS

        from .chain import fit

        self._mujoco, self._size = mujoco, image_size
        self._simulator = Simulator()
        fit(self._simulator.model, MODELS[model])
        self._data = mujoco.MjData(self._simulator.model)

    def __call__(self, configuration: NDArray[np.float64]) -> dict[str, str]:
        model, data = self._simulator.model, self._data
        data.qpos[:] = configuration
        self._mujoco.mj_kinematics(model, data)
        self._mujoco.mj_comPos(model, data)
        self._mujoco.mj_camlight(model, data)
        return {name: _jpeg(self._simulator.image(data, name, self._size)) for name in NAMES}


def _jpeg(image: NDArray[np.uint8]) -> str:
    """Returns the base64 of a JPEG of an RGB image [height, width, 3].

    LeRobot's image server hands RGB to an encoder that expects BGR, and its client decodes in the
    same way: in its protocol a JPEG has red and blue exchanged.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(
        buffer, "JPEG", quality=_QUALITY, subsampling=0
    )
    return base64.b64encode(buffer.getvalue()).decode()
