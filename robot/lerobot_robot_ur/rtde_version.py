"""The controller's version as RTDE gives it, also where there is no dashboard server to ask."""

from __future__ import annotations

import socket
import struct

from .errors import ConnectionFailed

RTDE_PORT = 30004
FIRST_POLYSCOPE_X = 10  # major version
_HEADER = struct.Struct(">HB")
_PROTOCOL, _VERSION = 86, 118  # packet types
_TIMEOUT_S = 2.5


def rtde_version(host: str) -> tuple[int, int, int, int]:
    """Returns major, minor, bugfix and build number.

    Raises:
        ConnectionFailed: the RTDE server cannot be reached or answers something else.
    """
    try:
        with socket.create_connection((host, RTDE_PORT), timeout=_TIMEOUT_S) as sock:
            _ask(sock, _PROTOCOL, struct.pack(">H", 2))
            answer = _ask(sock, _VERSION, b"")
    except (OSError, EOFError) as error:
        raise ConnectionFailed(f"{host}: no RTDE server on port {RTDE_PORT}: {error}") from error
    if len(answer) != 16:
        raise ConnectionFailed(f"{host}: RTDE gives a version of {len(answer)} bytes, not 16")
    major, minor, bugfix, build = struct.unpack(">4I", answer)
    return major, minor, bugfix, build


def _ask(sock: socket.socket, kind: int, payload: bytes) -> bytes:
    """Returns the payload of the answer of the same kind; text messages before it are dropped."""
    sock.sendall(_HEADER.pack(_HEADER.size + len(payload), kind) + payload)
    while True:
        size, answered = _HEADER.unpack(_read(sock, _HEADER.size))
        data = _read(sock, size - _HEADER.size)
        if answered == kind:
            return data


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError("the connection was closed")
        data += more
    return data
