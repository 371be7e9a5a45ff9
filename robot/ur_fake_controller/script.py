"""Script upload (port 30003): takes ur-rtde's control script and reads off what varies in it.

URScript itself is not run. The control script's commands are emulated in `registers`; any other
script is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket

from .net import Connection, Loop, Service

logger = logging.getLogger(__name__)

PORT = 30003
_LARGEST_SCRIPT = 1 << 20
_END = re.compile(rb"^end\s*\Z|^end[ \t]*\r?\n", re.MULTILINE)
_CONTROL_SCRIPT = ("def rtde_control():", "def process_cmd(", "read_input_integer_register")
# ur-rtde puts the number on the line after a comment that stands in its place.
_OFFSET = re.compile(r"global reg_offset_int\s*=\s*(?:#.*\n)?\s*(\d+)")
_PATH = re.compile(r"def exec_move_path\(\):(.*?)^\s*end$", re.DOTALL | re.MULTILINE)
_NUMBER = r"[-+.\deE]+"
_WAYPOINT = re.compile(
    rf"(movej|movel|movep)\((p?)\[([^\]]*)\],\s*a=({_NUMBER}),\s*v=({_NUMBER}),\s*r=({_NUMBER})\)"
)


@dataclass(frozen=True)
class Waypoint:
    """One move of a path: a pose (m, rad) or joint positions (rad), and how to get there."""

    linear: bool
    is_pose: bool
    values: tuple[float, ...]
    speed: float
    acceleration: float


@dataclass(frozen=True)
class ControlScript:
    """What differs between uploads of ur-rtde's control script."""

    register_offset: int
    path: tuple[Waypoint, ...]


def parse_control_script(text: str) -> ControlScript | None:
    """Returns the control script's variable parts; None where `text` is another script."""
    if not all(mark in text for mark in _CONTROL_SCRIPT):
        return None
    offset = _OFFSET.search(text)
    body = _PATH.search(text)
    moves = _WAYPOINT.findall(body.group(1)) if body else []
    path = tuple(
        Waypoint(
            linear=name != "movej",
            is_pose=bool(pose),
            values=tuple(float(v) for v in values.split(",")),
            speed=float(speed),
            acceleration=float(acceleration),
        )
        for name, pose, values, acceleration, speed, _blend in moves
    )
    return ControlScript(int(offset.group(1)) if offset else 0, path)


class ScriptServer:
    """Port 30003; only its upload half (a real controller also sends its state there)."""

    def __init__(self, loop: Loop, host: str, on_script: Callable[[str], None]):
        self.on_script = on_script
        self.service = Service(loop, host, PORT, lambda *args: ScriptConnection(self, *args))


class ScriptConnection(Connection):
    def __init__(
        self,
        server: ScriptServer,
        loop: Loop,
        sock: socket,
        on_close: Callable[[Connection], None],
    ):
        self._server, self._buffer = server, b""
        super().__init__(loop, sock, on_close)

    def on_data(self, data: bytes) -> None:
        self._buffer += data
        while (end := _END.search(self._buffer)) is not None:
            text, self._buffer = self._buffer[: end.end()], self._buffer[end.end() :]
            self._server.on_script(text.decode("utf-8", "replace"))
        if len(self._buffer) > _LARGEST_SCRIPT:
            logger.warning("a script of over %d bytes without an end", _LARGEST_SCRIPT)
            self.close()
