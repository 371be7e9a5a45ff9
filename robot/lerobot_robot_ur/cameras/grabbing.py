"""A camera whose pictures are fetched by a thread of its own, which keeps the newest."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ConnectionFailed

Picture = NDArray[np.uint8]
Grab = Callable[[], tuple[Picture, float] | None]
"""Returns the next picture uint8 [H, W, 3] (RGB) and when it came (time.monotonic); None where
there is none after some tenths of a second. Raises whatever the camera's library does, or Lost."""

FIRST_PICTURE_S = 15.0
"""For which `connect` waits by default: a USB camera takes 1 to 3 s, a busy computer longer."""
_SILENCE_S = 5.0  # without a picture, after which the camera is opened anew
_PAUSE_S = 0.5  # before it is opened anew
_CLOSE_S = 2.0  # for a thread that hangs in a device


class Lost(Exception):
    """The camera gives nothing any more; it is opened anew."""


class GrabbingCamera(ABC):
    """A camera whose newest picture is kept by a thread of its own.

    That thread alone touches the device: it opens it, reads from it, closes it, and opens it anew
    where it fails or falls silent, until `disconnect`. One that hangs in the device closes it by
    itself when it comes back.

    Args:
        name: which camera it is, as messages have it.
        width, height, first_picture_s: as for `make_camera`.
        warm_up_s: how long `connect` goes on after the first picture, until exposure is right.

    Attributes:
        width, height: of its pictures (pixels), once it is connected.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int | None = None,
        height: int | None = None,
        first_picture_s: float = FIRST_PICTURE_S,
        warm_up_s: float = 0.0,
    ):
        """Raises ConfigError for sizes and times that cannot be."""
        self.name = name
        self.width, self.height = width, height
        self._wanted = width, height
        self._first_picture_s, self._warm_up_s = first_picture_s, warm_up_s
        problems = [
            f"{name}: {what} is {value}; it is above 0"
            for what, value in (
                ("width", width),
                ("height", height),
                ("first_picture_s", first_picture_s),
            )
            if value is not None and not 0 < value < math.inf
        ]
        if problems:
            raise ConfigError(problems)
        self._thread: threading.Thread | None = None
        self._closing, self._arrived = threading.Event(), threading.Event()
        self._newest: tuple[Picture, float] | None = None
        self._problem, self._is_hopeless = "", False

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def _opened(self) -> AbstractContextManager[Grab]:
        """Opens the device until the context ends; called by the camera's thread.

        Raises ConfigError for what will be no better the next time, else as a `Grab` does.
        """

    @property
    def is_connected(self) -> bool:
        return self._thread is not None

    @property
    def latest_timestamp(self) -> float | None:
        """When the newest picture came (time.monotonic); None where none has."""
        newest = self._newest
        return None if newest is None else newest[1]

    def connect(self) -> None:
        """Opens the camera and waits for its first picture.

        Raises:
            ConnectionFailed: none came; the message names the camera and what it did instead.
        """
        if self._thread is not None:
            raise ConnectionFailed(f"{self} is connected already")
        # Another thread's of an earlier connection may still hang in the device.
        self._closing, self._arrived = threading.Event(), threading.Event()
        self._newest, self._problem, self._is_hopeless = None, "", False
        self.width, self.height = self._wanted
        self._thread = threading.Thread(
            target=self._run, args=(self._closing, self._arrived), name=self.name, daemon=True
        )
        self._thread.start()
        try:
            self._arrived.wait(self._first_picture_s)
            if self.latest_timestamp is None:
                waited = "" if self._is_hopeless else f" in {self._first_picture_s:g} s"
                raise ConnectionFailed(f"{self} gives no picture{waited}{self._because()}")
            self._closing.wait(self._warm_up_s)
        except BaseException:
            self.disconnect()
            raise
        height, width = self.newest()[0].shape[:2]
        self.width, self.height = self.width or width, self.height or height

    def disconnect(self) -> None:
        """Closes the camera; does nothing where it is not connected."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._closing.set()
            thread.join(_CLOSE_S)
        self._newest = None

    def newest(self) -> tuple[Picture, float]:
        """Returns the newest picture uint8 [H, W, 3] (RGB) and its age (s), however old.

        Raises:
            ConnectionFailed: the camera is not connected.
        """
        newest = self._newest
        if newest is None:
            raise ConnectionFailed(f"{self} is not connected")
        return newest[0], time.monotonic() - newest[1]

    def read_latest(self, max_age_ms: int = 500) -> NDArray[Any]:
        """Returns the newest picture uint8 [H, W, 3] (RGB), as LeRobot's cameras do.

        Raises:
            TimeoutError: it is older than `max_age_ms`; the message says what is wrong.
            ConnectionFailed: the camera is not connected.
        """
        picture, age_s = self.newest()
        if 1e3 * age_s > max_age_ms:
            allowed = f"{1e-3 * max_age_ms:g} s are allowed"
            raise TimeoutError(
                f"{self}: the newest picture is too old: {age_s:.2f} s, {allowed}{self._because()}"
            )
        return picture

    def _because(self) -> str:
        return f": {self._problem}" if self._problem else ""

    def _run(self, closing: threading.Event, arrived: threading.Event) -> None:
        while not closing.is_set():
            try:
                with self._opened() as grab:
                    self._stream(grab, closing, arrived)
            except ConfigError as error:
                if not closing.is_set():
                    self._problem, self._is_hopeless = str(error), True
                    arrived.set()
                return
            except Lost as error:
                self._complain(str(error), closing)
            except Exception as error:  # whatever the camera's library raises
                self._complain(f"{type(error).__name__}: {error}", closing)
            closing.wait(_PAUSE_S)

    def _stream(self, grab: Grab, closing: threading.Event, arrived: threading.Event) -> None:
        last_s = time.monotonic()
        while not closing.is_set():
            found = grab()
            if closing.is_set():
                return
            if found is not None:
                self._newest, self._problem = found, ""
                last_s = found[1]
                arrived.set()
            elif time.monotonic() - last_s > _SILENCE_S:
                raise Lost(self._problem or f"nothing came for {_SILENCE_S:g} s")

    def _complain(self, problem: str, closing: threading.Event) -> None:
        if not closing.is_set():
            self._problem = problem
