"""The colour pictures of Intel's RealSense cameras.

Tried with librealsense and a recording, never with a camera.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyrealsense2 as rs  # pyright: ignore[reportMissingImports]

from ..errors import ConfigError
from .grabbing import Grab, GrabbingCamera, Lost, Picture

_WARM_UP_S = 1.0
_POLL_MS = 200


class RealSenseCamera(GrabbingCamera):
    """A RealSense camera, by serial number or by a name that only one has."""

    def __init__(self, address: str, *, fps: int | None = None, **settings: Any):
        """Raises ConfigError for an fps that is not above 0."""
        super().__init__(f"realsense camera {address}", warm_up_s=_WARM_UP_S, **settings)
        if fps is not None and fps <= 0:
            raise ConfigError(f"{self}: fps is {fps}; it is above 0")
        self._address, self._fps = address, fps

    @contextmanager
    def _opened(self) -> Iterator[Grab]:
        config = rs.config()
        config.enable_device(self._serial())
        width, height = (value or 0 for value in self._wanted)  # 0: what it gives
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, self._fps or 0)
        pipeline = rs.pipeline()
        pipeline.start(config)
        try:
            yield partial(_grab, pipeline)
        finally:
            pipeline.stop()

    def _serial(self) -> str:
        """Returns the serial number. Raises Lost where none or several fit: one may come yet."""
        devices = [
            (
                device.get_info(rs.camera_info.serial_number),
                device.get_info(rs.camera_info.name),
            )
            for device in rs.context().query_devices()
        ]
        fitting = [serial for serial, name in devices if self._address in (serial, name)]
        if len(fitting) != 1:
            there = ", ".join(f"{serial} ({name})" for serial, name in devices) or "none"
            raise Lost(f"{len(fitting) or 'no'} cameras are that one; there are: {there}")
        return str(fitting[0])


def _grab(pipeline: Any) -> tuple[Picture, float] | None:
    has_come, frames = pipeline.try_wait_for_frames(_POLL_MS)
    came = time.monotonic()
    picture = frames.get_color_frame() if has_come else None
    if not picture:
        return None
    return np.array(picture.get_data(), np.uint8), came
