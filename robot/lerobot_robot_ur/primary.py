"""The primary interface (port 30001): the arm's own lengths, which no other interface gives.

Layout: Universal Robots, Primary and Secondary Interfaces. Ten times a second the controller sends
a message of the robot's state; one that comes soon after connecting holds the package of the
kinematics. Everything else in it is passed over.
"""

from __future__ import annotations

import socket
import struct
import time

from .calibration import Calibration
from .errors import ConfigError, ConnectionFailed

PORT = 30001
ROBOT_STATE, KINEMATICS = 16, 5  # types of a message, and of a package in it
HEADER = struct.Struct(">iB")  # size, itself included, and type; of messages and packages
KINEMATICS_LAYOUT = struct.Struct(">6I24dI")  # checksums; theta, a, d, alpha of each joint; status
_LARGEST = 1 << 16  # bytes of a message; real ones have some 1,500
_CONNECT_TIMEOUT_S = 1.0
_TIMEOUT_S = 2.5  # of all that comes


def read_calibration(host: str) -> Calibration:
    """Returns the lengths of the arm behind a controller.

    Raises:
        ConnectionFailed: the interface is switched off (Settings, Security, Services), sends
            something else, or nothing of the kinematics in time.
    """
    try:
        with socket.create_connection((host, PORT), timeout=_CONNECT_TIMEOUT_S) as sock:
            return _find(sock, time.monotonic() + _TIMEOUT_S)
    except (OSError, EOFError, ValueError, ConfigError) as error:
        raise ConnectionFailed(
            f"{host}: no calibration from the primary interface, port {PORT}: {error}"
        ) from error


def _find(sock: socket.socket, deadline: float) -> Calibration:
    while True:
        kind, content = _split(_read(sock, HEADER.size, deadline))
        data = _read(sock, content, deadline)
        if kind == ROBOT_STATE and (found := _kinematics_in(data)) is not None:
            return found


def _kinematics_in(message: bytes) -> Calibration | None:
    while message:
        kind, content = _split(message[: HEADER.size])
        package, message = message[HEADER.size :][:content], message[HEADER.size + content :]
        if kind == KINEMATICS:
            # Later versions may append to it, as they do to other packages.
            if len(package) < KINEMATICS_LAYOUT.size:
                raise ValueError(f"a package of the kinematics of {len(package)} bytes")
            numbers = KINEMATICS_LAYOUT.unpack_from(package)[6:-1]
            return Calibration(*(numbers[i : i + 6] for i in range(0, 24, 6)))
    return None


def _split(header: bytes) -> tuple[int, int]:
    """Returns the type of a message or package, and how many bytes follow its header."""
    if len(header) < HEADER.size:
        raise ValueError("a package without an end")
    size, kind = HEADER.unpack(header)
    if not HEADER.size <= size <= _LARGEST:
        raise ValueError(f"a message or package of {size} bytes")
    return kind, size - HEADER.size


def _read(sock: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        sock.settimeout(max(1e-3, deadline - time.monotonic()))
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError("the connection was closed")
        data += more
    return data
