"""A Robotiq 2F-85 through its URCap's port (63352): lines `SET POS 200 GTO 1`, `GET OBJ`.

Registers as in Robotiq's manual of the 2F-85 (ACT, GTO, POS, SPE, FOR, STA, OBJ, FLT; all 0-255).
"""

from __future__ import annotations

import re
import socket
import time

from .gripper import STROKES_M, GripperError, GripperReading

PORT = 63352
STROKE_M = STROKES_M["robotiq_2f85"]
_OPEN_COUNT, _CLOSED_COUNT = 3, 230  # the encoder's counts at the ends of its travel
_ACTIVE = 3  # STA
_MOVING, _HOLDING = 0, (1, 2)  # OBJ: in motion; stopped by an object while opening, closing
_TIMEOUT_S = 2.0
_LARGEST_ANSWER = 256
_ACTIVATION_TIMEOUT_S = 15.0
_FAULTS = {
    5: "action delayed: it must be activated first",
    7: "it must be activated first",
    8: "too hot",
    9: "no communication during at least 1 s",
    10: "under minimum operating voltage",
    11: "automatic release in progress",
    12: "internal fault",
    13: "activation fault",
    14: "overcurrent",
    15: "automatic release completed",
}


class RobotiqGripper:
    """See the module.

    Args:
        host: address of the robot's controller.
        force, speed: 0 to 1 of what it can.
    """

    def __init__(self, host: str, *, force: float = 0.5, speed: float = 1.0):
        self.stroke_m = STROKE_M
        self._host = host
        self._force, self._speed = round(255 * force), round(255 * speed)
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        self.close()
        try:
            self._socket = socket.create_connection((self._host, PORT), timeout=_TIMEOUT_S)
        except OSError as error:
            raise GripperError(f"{self._host}: no Robotiq URCap on port {PORT}: {error}") from error

    def activate(self) -> None:
        if self._get("STA") == _ACTIVE:
            self._fail_on_fault()
            return
        self._set(ACT=0)
        self._wait_for_status(0, _TIMEOUT_S)
        self._set(ACT=1)
        self._wait_for_status(_ACTIVE, _ACTIVATION_TIMEOUT_S)
        self._fail_on_fault()

    def move(self, opening_m: float) -> bool:
        share = 1.0 - min(max(opening_m / STROKE_M, 0.0), 1.0)
        # The ends are asked for in full, so that they are reached whatever the encoder's offset.
        count = _OPEN_COUNT + share * (_CLOSED_COUNT - _OPEN_COUNT)
        count = {0.0: 0, 1.0: 255}.get(share, round(count))
        self._set(POS=count, SPE=self._speed, FOR=self._force, GTO=1)
        return True

    def stop(self) -> bool:
        self._set(GTO=0)
        return True

    def read(self) -> GripperReading:
        if self._get("STA") != _ACTIVE:
            raise GripperError(f"{self._host}: the gripper is not active (was it without power?)")
        self._fail_on_fault()
        count, object_status = self._get("POS"), self._get("OBJ")
        share = (count - _OPEN_COUNT) / (_CLOSED_COUNT - _OPEN_COUNT)
        opening = STROKE_M * (1.0 - min(max(share, 0.0), 1.0))
        return GripperReading(opening, object_status == _MOVING, object_status in _HOLDING)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _wait_for_status(self, status: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._get("STA") != status:
            if time.monotonic() > deadline:
                raise GripperError(f"{self._host}: the gripper did not come to status {status}")
            time.sleep(0.02)

    def _fail_on_fault(self) -> None:
        fault = self._get("FLT")
        if fault:
            meaning = _FAULTS.get(fault & 0x0F, "unknown")
            raise GripperError(f"{self._host}: the gripper reports fault {fault} ({meaning})")

    def _get(self, name: str) -> int:
        answer = self._ask(f"GET {name}")
        answered, _, value = answer.partition(" ")
        if answered != name or not re.fullmatch("-?[0-9]{1,9}", value):
            raise GripperError(f"{self._host}: `GET {name}` was answered by {answer!r}")
        return int(value)

    def _set(self, **values: int) -> None:
        line = "SET " + " ".join(f"{name} {value}" for name, value in values.items())
        answer = self._ask(line)
        if answer != "ack":
            raise GripperError(f"{self._host}: `{line}` was answered by {answer!r}")

    def _ask(self, line: str) -> str:
        if self._socket is None:
            raise GripperError(f"{self._host}: the gripper is not connected")
        try:
            self._socket.sendall(line.encode() + b"\n")
            # One answer to one question; `ack` comes without the end of a line.
            answer = self._socket.recv(_LARGEST_ANSWER)
        except OSError as error:
            raise GripperError(f"{self._host}: `{line}`: {error}") from error
        if not answer:
            raise GripperError(f"{self._host}: the gripper's port was closed")
        return answer.decode("utf-8", "replace").strip()
