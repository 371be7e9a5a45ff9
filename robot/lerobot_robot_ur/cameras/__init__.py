"""Cameras of the driver's own, which need neither LeRobot nor PyTorch.

Each kind needs one package, imported when a camera of that kind is made.
"""

from __future__ import annotations

import importlib
from typing import cast

from ..errors import ConfigError
from .grabbing import FIRST_PICTURE_S, GrabbingCamera

__all__ = ["FIRST_PICTURE_S", "KINDS", "GrabbingCamera", "make_camera"]

KINDS = {"zmq": "ZMQCamera", "opencv": "OpenCVCamera", "realsense": "RealSenseCamera"}
"""Class of each kind of camera; it is in the module `<kind>_camera`."""


def make_camera(
    kind: str,
    address: str,
    *,
    width: int | None = None,
    height: int | None = None,
    fps: int | None = None,
    first_picture_s: float = FIRST_PICTURE_S,
) -> GrabbingCamera:
    """Makes a camera, not connected.

    Args:
        kind: one of `KINDS`.
        address: `HOST:PORT:CAMERA` for `zmq`; a device (`/dev/video0`, `0`), a video file or an
            URL for `opencv`; serial number or name for `realsense`.
        width, height: pixels; None for what the camera gives.
        fps: pictures in a second; None for the camera's own. A `zmq` camera's are its server's.
        first_picture_s: how long `connect` waits for a picture.

    Raises:
        ConfigError: an unknown kind, or an address or a value that cannot be.
        ImportError: the kind's package is not installed.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no camera '{kind}'; there are {', '.join(KINDS)}")
    module = importlib.import_module(f"{__name__}.{kind}_camera")
    make = getattr(module, KINDS[kind])
    camera = make(address, width=width, height=height, fps=fps, first_picture_s=first_picture_s)
    return cast(GrabbingCamera, camera)
