"""Cameras that OpenCV reads: V4L2 devices, and video files and streams."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import ConfigError, ConnectionFailed
from .grabbing import Grab, GrabbingCamera, Lost, Picture

_WARM_UP_S = 1.0
_SAME_RATE = 1e-3


class OpenCVCamera(GrabbingCamera):
    """A V4L2 device (`/dev/video0`, or its number), a video file or an URL.

    A file is played at its own pace, again and again.
    """

    def __init__(self, address: str, *, fps: int | None = None, **settings: Any):
        """Raises ConfigError for an fps that is not above 0."""
        self._device = f"/dev/video{address}" if address.isdecimal() else address
        self._is_device = self._device.startswith("/dev/")
        self._is_file = not self._is_device and "://" not in self._device
        warm_up_s = _WARM_UP_S if self._is_device else 0.0
        super().__init__(f"opencv camera {self._device}", warm_up_s=warm_up_s, **settings)
        if fps is not None and fps <= 0:
            raise ConfigError(f"{self}: fps is {fps}; it is above 0")
        self._fps = fps

    def connect(self) -> None:
        """Does what `GrabbingCamera.connect` does, without waiting for a device that is not there.

        Raises:
            ConnectionFailed
        """
        if self._is_missing:
            there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise ConnectionFailed(f"{self} is not there; devices that are: {there}")
        super().connect()

    @property
    def _is_missing(self) -> bool:
        return (self._is_device or self._is_file) and not Path(self._device).exists()

    @contextmanager
    def _opened(self) -> Iterator[Grab]:
        # What fails is told by us, and not each time that it is tried again.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        cv2.setNumThreads(1)  # more would take processors from the policy
        if self._is_missing:
            raise Lost("it is not there any more")
        capture = cv2.VideoCapture(self._device, cv2.CAP_V4L2 if self._is_device else cv2.CAP_ANY)
        try:
            if not capture.isOpened():
                raise Lost("it cannot be opened; another program may use it, or it is no camera")
            self._configure(capture)
            yield self._grab_from(capture)
        finally:
            capture.release()

    def _configure(self, capture: cv2.VideoCapture) -> None:
        """Raises ConfigError where the camera does not give what is wanted."""
        wanted = (
            ("width", cv2.CAP_PROP_FRAME_WIDTH, self._wanted[0]),
            ("height", cv2.CAP_PROP_FRAME_HEIGHT, self._wanted[1]),
            ("fps", cv2.CAP_PROP_FPS, self._fps),
        )
        for _, key, value in wanted:
            if value is not None:
                capture.set(key, float(value))
        given = {name: capture.get(key) for name, key, _ in wanted}
        wrong = [
            f"{name} {given[name]:g} instead of {value}"
            for name, _, value in wanted
            # Some devices do not say how fast they are.
            if value is not None
            and given[name] > 0
            and not math.isclose(given[name], value, rel_tol=_SAME_RATE)
        ]
        if wrong:
            raise ConfigError(f"it gives {', '.join(wrong)}")

    def _grab_from(self, capture: cv2.VideoCapture) -> Grab:
        pace = _pace(capture.get(cv2.CAP_PROP_FPS)) if self._is_file else None

        def grab() -> tuple[Picture, float]:
            if pace is not None:
                pace()
            is_there, picture = capture.read()
            if not is_there:
                raise Lost("it gives no picture any more")
            came = time.monotonic()
            return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8), came

        return grab


def _pace(rate_hz: float) -> Callable[[], None]:
    """Returns what waits until its next turn, `rate_hz` times a second."""
    due = time.monotonic()

    def wait() -> None:
        nonlocal due
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic()) + 1.0 / max(rate_hz, 1.0)

    return wait
