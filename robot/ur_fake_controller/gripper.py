"""A Robotiq 2F-85 behind its URCap's port (63352): lines `SET POS 200 GTO 1`, `GET OBJ`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum
from socket import socket

from lerobot_env_ur3e.scene import FINGER_STROKE

from .net import Connection, LineConnection, Loop, Service
from .world import STEP, ArmWorld

logger = logging.getLogger(__name__)

PORT = 63352
OPEN_COUNT, CLOSED_COUNT = 3, 230  # the encoder's counts at the ends of its travel
_STROKE = 2 * FINGER_STROKE  # m
_SLOWEST, _FASTEST = 0.02, 0.15  # m/s at SPE 0 and 255
_SQUEEZE = 0.01  # m per finger by which a closing grip is commanded past shut
_STILL = 0.002  # m/s
_STILL_TIME = 0.06  # s at rest before the gripper says that it has stopped
_NEAR = 0.0012  # m: at its target
_SETTABLE: tuple[str, ...] = ("ACT", "GTO", "ATR", "ARD", "FOR", "SPE", "POS")


class Status(IntEnum):
    RESET = 0
    ACTIVATING = 1
    ACTIVE = 3


class ObjectStatus(IntEnum):
    MOVING = 0
    STOPPED_OPENING = 1
    STOPPED_CLOSING = 2
    AT_TARGET = 3


def opening_of(count: float) -> float:
    """Returns opening (m) that an encoder count stands for."""
    share = (min(max(count, OPEN_COUNT), CLOSED_COUNT) - OPEN_COUNT) / (CLOSED_COUNT - OPEN_COUNT)
    return _STROKE * (1.0 - share)


def count_of(opening: float) -> int:
    """Returns encoder count at an opening (m)."""
    share = 1.0 - min(max(opening / _STROKE, 0.0), 1.0)
    return round(OPEN_COUNT + share * (CLOSED_COUNT - OPEN_COUNT))


class Gripper:
    """The gripper's registers, and the fingers that they move.

    The force of the fingers is the scene's (25 N); FOR is stored and has no effect.
    """

    def __init__(self, world: ArmWorld):
        self._world = world
        self.fault = 0
        self.is_connected = self.is_powered = True
        self.reset()

    def reset(self) -> None:
        """Resets as after power-up: not active; the fingers stay where they are."""
        self._registers: dict[str, int] = dict.fromkeys(_SETTABLE, 0)
        self._registers["POS"] = count_of(self._world.finger_opening())
        self.status = Status.RESET
        self.object = ObjectStatus.MOVING
        self._goal = self._setpoint = self._world.finger_opening()
        self._activation: list[float] = []
        self._still = 0.0
        self._closing = False

    def open_at_once(self) -> None:
        """Follows the world, which was put back with open fingers."""
        self._goal = self._setpoint = self._world.finger_opening()
        self._registers["POS"] = count_of(self._goal)
        self.object = ObjectStatus.AT_TARGET

    @property
    def _answers(self) -> bool:
        return self.is_connected and self.is_powered

    def get(self, name: str) -> str:
        """Returns a register's value as text; `?` where there is none to be had."""
        if not self._answers:
            return "?"
        values = {
            **self._registers,
            "POS": count_of(self._world.finger_opening()),
            "PRE": self._registers["POS"],
            "STA": int(self.status),
            "OBJ": int(self.object),
            "FLT": self.fault,
        }
        return str(values.get(name, "?"))

    def set(self, values: dict[str, int]) -> bool:
        """Writes registers; False where a name or a value cannot be."""
        if not self._answers or not set(values) <= set(_SETTABLE):
            return False
        if not all(0 <= v <= 255 for v in values.values()):
            return False
        was_active = self._registers["ACT"]
        self._registers.update(values)
        if not self._registers["ACT"]:
            self.status, self._activation = Status.RESET, []
        elif not was_active:
            self.status = Status.ACTIVATING
            self._activation = [_STROKE, 0.0]  # popped from the end: it closes, then opens
            self._aim(self._activation.pop())
        if "POS" in values or "GTO" in values:
            self._follow_request()
        return True

    def step(self) -> None:
        """Moves the gripper for one `world.STEP`."""
        if not self._answers:
            return
        is_activating = self.status == Status.ACTIVATING
        if is_activating or (self.status == Status.ACTIVE and self._registers["GTO"]):
            share = 1.0 if is_activating else self._registers["SPE"] / 255
            reach = (_SLOWEST + share * (_FASTEST - _SLOWEST)) * STEP
            self._setpoint += min(max(self._goal - self._setpoint, -reach), reach)
            squeeze = _SQUEEZE if self._setpoint <= 0 else 0.0
            self._world.finger_target = self._setpoint / 2 - squeeze
        self._update_object()
        if is_activating and self.object != ObjectStatus.MOVING:
            self._activate_further()

    def _activate_further(self) -> None:
        if self._activation:
            self._aim(self._activation.pop())
        else:
            self.status = Status.ACTIVE
            self._follow_request()

    def _follow_request(self) -> None:
        if self.status == Status.ACTIVE and self._registers["GTO"]:
            self._aim(opening_of(self._registers["POS"]))

    def _aim(self, opening: float) -> None:
        if opening == self._goal:
            return
        self._closing = opening < self._world.finger_opening()
        self._goal, self._setpoint = opening, self._world.finger_opening()
        self.object, self._still = ObjectStatus.MOVING, 0.0

    def _update_object(self) -> None:
        is_still = abs(self._world.finger_speed()) < _STILL
        self._still = self._still + STEP if is_still else 0.0
        if self._still < _STILL_TIME:
            return
        # Closed pads give a little, so that the opening is below zero.
        if abs(max(self._world.finger_opening(), 0.0) - self._goal) < _NEAR:
            self.object = ObjectStatus.AT_TARGET
        elif self._closing:
            self.object = ObjectStatus.STOPPED_CLOSING
        else:
            self.object = ObjectStatus.STOPPED_OPENING


class GripperServer:
    def __init__(self, loop: Loop, host: str, gripper: Gripper):
        self.gripper = gripper
        self.service = Service(loop, host, PORT, lambda *args: GripperConnection(self, *args))


class GripperConnection(LineConnection):
    def __init__(
        self,
        server: GripperServer,
        loop: Loop,
        sock: socket,
        on_close: Callable[[Connection], None],
    ):
        self._gripper = server.gripper
        super().__init__(loop, sock, on_close)

    def on_line(self, line: str) -> None:
        word, *rest = line.split() or [""]
        if word == "GET" and len(rest) == 1:
            self.send(f"{rest[0]} {self._gripper.get(rest[0])}\n".encode())
        elif word == "SET" and (values := _pairs(rest)) and self._gripper.set(values):
            self.send(b"ack")  # without a newline, as the URCap answers
        else:
            logger.warning("gripper: not understood: %s", line)
            self.send(b"nack")


def _pairs(words: list[str]) -> dict[str, int]:
    """Returns `POS 200 GTO 1` as a dict; empty where it is not such a list."""
    if len(words) % 2 or not all(value.isdigit() for value in words[1::2]):
        return {}
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}
