"""The dashboard server (port 29999): one line asks, one line answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from socket import socket
from typing import Protocol

from lerobot_robot_ur.models import RobotModel

from .net import Connection, LineConnection, Loop, Service
from .registers import ControlProgram, RuntimeState
from .safety import Safety, SafetyMode

logger = logging.getLogger(__name__)

PORT = 29999
PROGRAM = "rtde_control"
_TOO_SOON = (
    "Cannot unlock protective stop until 5s after occurrence. "
    "Always inspect cause of protective stop before unlocking"
)
_NOT_REMOTE = (
    "Command is not allowed due to safety reasons. Ensure that the robot is in remote control."
)
_E_SERIES_ONLY = ("is in remote control", "get operational mode")
_STATE_NAMES = {
    RuntimeState.STOPPED: "STOPPED",
    RuntimeState.PLAYING: "PLAYING",
    RuntimeState.PAUSED: "PAUSED",
}


class Robot(Protocol):
    """What the dashboard speaks for."""

    model: RobotModel
    safety: Safety
    program: ControlProgram
    remote_control: bool
    claimed_model: str


class DashboardServer:
    def __init__(self, loop: Loop, host: str, robot: Robot):
        self.robot = robot
        self.delay = 0.0  # s until each line is sent
        self.service = Service(loop, host, PORT, lambda *args: DashboardConnection(self, *args))


class DashboardConnection(LineConnection):
    def __init__(
        self,
        server: DashboardServer,
        loop: Loop,
        sock: socket,
        on_close: Callable[[Connection], None],
    ):
        self._server, self._robot = server, server.robot
        super().__init__(loop, sock, on_close)
        self.send(b"Connected: Universal Robots Dashboard Server\n")

    def send(self, data: bytes) -> None:
        if self._server.delay > 0:
            self._loop.send_later(time.monotonic() + self._server.delay, self, data)
        else:
            self.send_now(data)

    def on_line(self, line: str) -> None:
        text = line.strip()
        self.send(f"{answer(self._robot, text)}\n".encode())
        if text.lower() in ("quit", "shutdown"):
            self.close()


def answer(robot: Robot, line: str) -> str:
    """Returns the controller's answer to one command line."""
    command = line.lower()
    if command in _E_SERIES_ONLY and not robot.model.is_e_series:
        return f'could not understand: "{line}"'
    for known, reply in _QUERIES.items():
        if command == known:
            return reply(robot)
    for known, reply in _COMMANDS.items():
        if command == known:
            return reply(robot) if robot.remote_control else _NOT_REMOTE
    word, _, rest = line.partition(" ")
    if word.lower() == "load":
        return f"File not found: {rest}" if robot.remote_control else _NOT_REMOTE
    if word.lower() == "popup":
        return "showing popup"
    if word.lower() == "addtolog":
        logger.info("log of the dashboard: %s", rest)
        return "Added log message"
    if word.lower() == "setuserrole":
        return f"Setting user role: {rest.upper()}"
    return f'could not understand: "{line}"'


def _polyscope_version(robot: Robot) -> str:
    return f"URSoftware {robot.model.version_text} (Jan 01 2024)"


def _program_state(robot: Robot) -> str:
    state = robot.program.shown_state
    name = robot.program.other or PROGRAM
    name = "<unnamed>" if state == RuntimeState.STOPPED else name
    return f"{_STATE_NAMES[state]} {name}"


def _is_running(robot: Robot) -> str:
    return f"Program running: {str(robot.program.shown_state == RuntimeState.PLAYING).lower()}"


def _unlock(robot: Robot) -> str:
    return "Protective stop releasing" if robot.safety.unlock() else _TOO_SOON


def _power_on(robot: Robot) -> str:
    robot.safety.power_on()
    return "Powering on"


def _power_off(robot: Robot) -> str:
    robot.safety.power_off()
    return "Powering off"


def _brake_release(robot: Robot) -> str:
    robot.safety.release_brakes()
    return "Brake releasing"


def _play(robot: Robot) -> str:
    return "Starting program" if robot.program.resume() else "Failed to execute: play"


def _pause(robot: Robot) -> str:
    return "Pausing program" if robot.program.pause() else "Failed to execute: pause"


def _stop(robot: Robot) -> str:
    robot.program.stop("dashboard")
    return "Stopped"


def _serial_number(robot: Robot) -> str:
    return robot.model.serial


def _safety_status(robot: Robot) -> str:
    return f"Safetystatus: {robot.safety.mode.name}"


def _safety_mode(robot: Robot) -> str:
    return f"Safetymode: {robot.safety.mode.name}"


def _restart_safety(robot: Robot) -> str:
    if robot.safety.mode == SafetyMode.NORMAL:
        robot.safety.power_off()
    return "Restarting safety"


_QUERIES: dict[str, Callable[[Robot], str]] = {
    "polyscopeversion": _polyscope_version,
    "version": lambda robot: robot.model.version_text,
    "get serial number": _serial_number,
    "get robot model": lambda robot: robot.claimed_model,
    "is in remote control": lambda robot: str(robot.remote_control).lower(),
    "get operational mode": lambda robot: "NONE",
    "robotmode": lambda robot: f"Robotmode: {robot.safety.robot_mode.name}",
    "safetymode": _safety_mode,
    "safetystatus": _safety_status,
    "programstate": _program_state,
    "running": _is_running,
    "get loaded program": lambda robot: "No program loaded",
    "isprogramsaved": lambda robot: "false <unnamed>",
    "quit": lambda robot: "Disconnected",
}

_COMMANDS: dict[str, Callable[[Robot], str]] = {
    "power on": _power_on,
    "power off": _power_off,
    "brake release": _brake_release,
    "unlock protective stop": _unlock,
    "close popup": lambda robot: "closing popup",
    "close safety popup": lambda robot: "closing safety popup",
    "restart safety": _restart_safety,
    "play": _play,
    "pause": _pause,
    "stop": _stop,
    "shutdown": lambda robot: "Shutting down",
}
