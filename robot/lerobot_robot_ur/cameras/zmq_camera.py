"""Pictures over ZeroMQ, in the protocol of LeRobot's image server and ZMQCamera.

A message is JSON: {"timestamps": {camera: s since the epoch}, "images": {camera: base64 of JPEG}}.
It need not have every camera. Whatever else comes is left out and told of.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import zmq
from PIL import Image

from ..errors import ConfigError
from .grabbing import Grab, GrabbingCamera, Picture

MAX_MESSAGE_BYTES = 16 * 2**20  # ZeroMQ drops the connection to who sends more
_MAX_PIXELS = 16 * 2**20
_QUEUE = 4  # messages that wait; the newest with this camera's picture is taken
_POLL_MS = 100
_TOLD, _TOLD_LENGTH = 8, 40  # names of a stranger's that an error tells, and their length


class ZMQCamera(GrabbingCamera):
    """One camera of a server's. ZeroMQ connects again by itself.

    `address` is HOST:PORT:CAMERA; `fps` is the server's affair.
    """

    def __init__(self, address: str, *, fps: int | None = None, **settings: Any):
        """Raises ConfigError for an address of another form."""
        host, port, camera = (address.split(":", 2) + ["", ""])[:3]
        if not (host and camera and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(f"camera '{address}' of kind zmq is not HOST:PORT:CAMERA")
        super().__init__(f"zmq camera '{camera}' of {host}:{port}", **settings)
        self._server, self._camera = f"tcp://{host}:{port}", camera

    @contextmanager
    def _opened(self) -> Iterator[Grab]:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, _QUEUE)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            try:
                socket.connect(self._server)
            except zmq.ZMQError as error:
                raise ConfigError(f"{self._server} is no address: {error}") from error
            yield partial(self._grab, socket)

    def _grab(self, socket: zmq.Socket[bytes]) -> tuple[Picture, float] | None:
        if not socket.poll(_POLL_MS):
            return None
        came = time.monotonic()
        for message in reversed(_waiting(socket)):
            try:
                return _decode(self._image_in(message)), came
            except Exception as error:  # whatever JSON, base64 and Pillow make of others' bytes
                self._problem = f"{error}"
        return None

    def _image_in(self, message: bytes) -> str:
        """Returns this camera's base64 in a message. Raises ValueError for what is none."""
        try:
            content = json.loads(message)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{len(message)} bytes came that are no JSON") from error
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, dict):
            raise ValueError("a message came that has no 'images'")
        if self._camera not in images:
            names = [repr(name)[:_TOLD_LENGTH] for name in list(images)[:_TOLD]]
            raise ValueError(f"it sends no '{self._camera}' but {', '.join(names) or 'nothing'}")
        image = images[self._camera]
        if not isinstance(image, str):
            raise ValueError(f"its '{self._camera}' is a {type(image).__name__}, not base64")
        return image


def _waiting(socket: zmq.Socket[bytes]) -> list[bytes]:
    """Returns the messages that wait, oldest first, at most `_QUEUE`; parts count as messages."""
    messages: list[bytes] = []
    while len(messages) < _QUEUE and socket.poll(0):
        messages.append(socket.recv(zmq.NOBLOCK))
    return messages


def _decode(text: str) -> Picture:
    """Returns the picture uint8 [H, W, 3] in RGB.

    Red and blue are exchanged in the JPEGs of this protocol: LeRobot's server gives RGB to an
    encoder that expects BGR, and its client decodes in the same way.
    """
    data = base64.b64decode(text)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"a picture of {image.width} x {image.height} is too large")
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except OSError as error:
        raise ValueError(f"{len(data)} bytes came that are no whole JPEG") from error
