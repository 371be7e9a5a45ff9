"""The primary interface (port 30001), as far as it tells of the arm: its version and its lengths.

A real one goes on sending the state ten times a second; here nothing follows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import astuple
from itertools import chain
from socket import socket

from lerobot_robot_ur.primary import HEADER, KINEMATICS, KINEMATICS_LAYOUT, PORT, ROBOT_STATE

from .chain import Chain
from .net import Connection, Loop, Service

_ROBOT_MESSAGE, _VERSION_MESSAGE, _ROBOT_MODE = 20, 3, 0
_PROJECT = b"URControl"


class PrimaryServer:
    """Tells each client of an arm once."""

    def __init__(self, loop: Loop, host: str, version: tuple[int, int, int, int], arm: Chain):
        self.version, self.arm = version, arm
        self.garbage: bytes | None = None  # in place of everything
        self.service = Service(loop, host, PORT, lambda *args: PrimaryConnection(self, *args))

    def greeting(self) -> bytes:
        """Returns the version message, a state without the kinematics, and one with it."""
        if self.garbage is not None:
            return self.garbage
        major, minor, bugfix, build = self.version
        version = struct.pack(">QbbB", 0, -1, _VERSION_MESSAGE, len(_PROJECT)) + _PROJECT
        version += struct.pack(">BBii", major, minor, bugfix, build)
        mode = _wrapped(_ROBOT_MODE, bytes(33))
        numbers = chain.from_iterable(astuple(self.arm.calibration))
        lengths = _wrapped(KINEMATICS, KINEMATICS_LAYOUT.pack(*range(6), *numbers, 0))
        return (
            _wrapped(_ROBOT_MESSAGE, version)
            + _wrapped(ROBOT_STATE, mode)
            + _wrapped(ROBOT_STATE, mode + lengths)
        )


class PrimaryConnection(Connection):
    def __init__(
        self,
        server: PrimaryServer,
        loop: Loop,
        sock: socket,
        on_close: Callable[[Connection], None],
    ):
        super().__init__(loop, sock, on_close)
        self.send_now(server.greeting())

    def on_data(self, data: bytes) -> None:
        """Drops it: scripts are taken on port 30003."""


def _wrapped(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(payload), kind) + payload
