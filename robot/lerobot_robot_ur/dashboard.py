"""The dashboard server (port 29999): what the robot says of itself, and bringing it back.

One line asks, one line answers (Universal Robots, Dashboard Server e-Series and CB-Series). It is
spoken here in plain sockets and not through ur-rtde, which must stay in the servo process.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from dataclasses import dataclass

from .errors import ConnectionFailed, Stopped
from .models import RobotModel
from .rtde_version import FIRST_POLYSCOPE_X, rtde_version
from .stops import REMEDIES, StopKind

PORT = 29999
_ANSWER_TIMEOUT_S = 2.5
_UNLOCK_TIMEOUT_S = 10.0  # a protective stop can be unlocked 5 s after it occurred
_POWER_TIMEOUT_S = 60.0  # booting the joints of a real arm takes some 20 s
_PROGRAM_TIMEOUT_S = 2.0
_POLL_S = 0.1
_LONGEST_LINE = 4096  # bytes
_MOVING_STATUS = ("NORMAL", "REDUCED")
_HELD_BY_A_DEVICE = {
    "ROBOT_EMERGENCY_STOP": (StopKind.EMERGENCY, "release the emergency stop button"),
    "SYSTEM_EMERGENCY_STOP": (StopKind.EMERGENCY, "release the system's emergency stop"),
    "SAFEGUARD_STOP": (StopKind.SAFEGUARD, "close the safeguard and reset it"),
    "AUTOMATIC_MODE_SAFEGUARD_STOP": (StopKind.SAFEGUARD, "close the safeguard and reset it"),
    "SYSTEM_THREE_POSITION_ENABLING_STOP": (StopKind.ENABLING, REMEDIES[StopKind.ENABLING]),
    "STOPPED_DUE_TO_SAFETY": (StopKind.SAFETY_STOP, REMEDIES[StopKind.SAFETY_STOP]),
}


@dataclass(frozen=True)
class ControllerInfo:
    """What a controller says of itself; `version` is PolyScope's numbers, major first."""

    version: tuple[int, ...]
    model: str
    serial: str

    @property
    def is_e_series(self) -> bool:
        return self.version[0] > 3


class Dashboard:
    """A connection to the dashboard server; a context manager.

    Raises:
        ConnectionFailed: by every method, where the server cannot be reached or does not answer.
    """

    def __init__(self, host: str, timeout_s: float = _ANSWER_TIMEOUT_S):
        self._host = host
        try:
            self._socket = socket.create_connection((host, PORT), timeout=timeout_s)
        except OSError as error:
            raise ConnectionFailed(
                f"{host}: no dashboard server on port {PORT}: {error}"
            ) from error
        self._lines = self._socket.makefile("rb")
        try:
            self._read("its greeting")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, command: str) -> str:
        """Returns the answer to one command line."""
        try:
            self._socket.sendall(command.encode() + b"\n")
        except OSError as error:
            raise ConnectionFailed(f"{self._host}: dashboard `{command}`: {error}") from error
        return self._read(f"an answer to `{command}`")

    def _read(self, what: str) -> str:
        try:
            line = self._lines.readline(_LONGEST_LINE)
        except OSError as error:
            raise ConnectionFailed(
                f"{self._host}: the dashboard gave not {what}: {error}"
            ) from error
        if not line:
            raise ConnectionFailed(f"{self._host}: the dashboard closed instead of giving {what}")
        if len(line) == _LONGEST_LINE:
            raise ConnectionFailed(
                f"{self._host}: the dashboard gave {what} longer than {_LONGEST_LINE} bytes"
            )
        return line.decode("utf-8", "replace").strip()

    def controller(self) -> ControllerInfo:
        text = self.ask("PolyscopeVersion")
        found = re.search(r"\d+(\.\d+)+", text)
        if found is None:
            raise ConnectionFailed(f"{self._host}: no version number in {text!r}")
        version = tuple(int(part) for part in found.group().split("."))
        has_serial = version[0] > 3 and version >= (5, 6)
        serial = self.ask("get serial number") if has_serial else "unknown"
        return ControllerInfo(version, self.ask("get robot model"), serial)

    def is_in_remote_control(self) -> bool:
        """Returns whether it is; on an e-Series from 5.6 only, before that there is no such
        thing."""
        return self.ask("is in remote control").lower() == "true"

    def program(self) -> str:
        """Returns state and name of the program that is loaded, as `PLAYING pick.urp`."""
        return self.ask("programState")

    def demand_remote_control(self, version: tuple[int, ...]) -> None:
        if version >= (5, 6) and not self.is_in_remote_control():
            raise ConnectionFailed(f"{self._host}: enable remote control at the pendant")

    def demand_no_program(self) -> None:
        """Raises ConnectionFailed where a program runs or is paused: it is somebody else's.

        One that is just being ended is waited for.
        """
        deadline = time.monotonic() + _PROGRAM_TIMEOUT_S
        while not (program := self.program()).startswith("STOPPED"):
            if time.monotonic() < deadline:
                time.sleep(_POLL_S)
                continue
            raise ConnectionFailed(
                f"{self._host}: another program is there ({program}); this driver does not end "
                "it: stop it at the pendant, or where it was started"
            )

    def robot_mode(self) -> str:
        """Returns `RUNNING`, `IDLE`, `POWER_OFF`, …"""
        return self.ask("robotmode").partition(":")[2].strip()

    def safety_status(self) -> str:
        """Returns `NORMAL`, `REDUCED`, `PROTECTIVE_STOP`, `SAFEGUARD_STOP`, …"""
        answer = self.ask("safetystatus")
        if "could not understand" in answer.lower():
            answer = self.ask("safetymode")
        return answer.partition(":")[2].strip()


def check_controller(host: str, model: RobotModel) -> ControllerInfo:
    """Returns what the controller says of itself, once it is known that it can drive that arm now.

    Raises:
        ConnectionFailed: it is another arm's, does not allow remote control, or runs a program.
        Stopped: it is not ready to move.
    """
    with _open(host) as dashboard:
        info = dashboard.controller()
        _refuse_polyscope_x(host, info.version)
        version = ".".join(map(str, info.version))
        if info.is_e_series != model.is_e_series:
            raise ConnectionFailed(
                f"{host} has PolyScope {version}, which is not that of a {model.name}"
            )
        # Some versions add the e of the e-Series, which the version has told already.
        if info.model.upper().removesuffix("E") != model.type:
            raise ConnectionFailed(
                f"{host} drives a {info.model!r}, configured is a {model.name} ({model.type!r})"
            )
        dashboard.demand_remote_control(info.version)
        status, mode = dashboard.safety_status(), dashboard.robot_mode()
        if status in _MOVING_STATUS:
            dashboard.demand_no_program()
    if status not in _MOVING_STATUS or mode != "RUNNING":
        kind = StopKind.POWER_OFF if status in _MOVING_STATUS else StopKind.SAFETY
        kind, remedy = _HELD_BY_A_DEVICE.get(status, (kind, "look what stopped it"))
        raise Stopped(
            kind,
            f"{host}: safety status {status}, robot mode {mode}: {remedy}, then recover with an "
            "operator's word",
        )
    return info


def _open(host: str) -> Dashboard:
    """Returns a connection; of a controller that has no such server, says which one it is."""
    try:
        return Dashboard(host)
    except ConnectionFailed:
        version = None
        with contextlib.suppress(ConnectionFailed):
            version = rtde_version(host)
        if version is not None:
            _refuse_polyscope_x(host, version)
        raise


def _refuse_polyscope_x(host: str, version: tuple[int, ...]) -> None:
    if version[0] >= FIRST_POLYSCOPE_X:
        text = ".".join(map(str, version))
        raise ConnectionFailed(
            f"{host} has PolyScope X {text}, which is not supported yet (PolyScope 3 and 5 are): "
            "see robot/README.md"
        )


def stop_program(host: str) -> bool:
    """Has the controller end its program; whether it said that it did."""
    try:
        with Dashboard(host, timeout_s=1.0) as dashboard:
            return dashboard.ask("stop") == "Stopped"
    except ConnectionFailed:
        return False


def bring_back(host: str) -> None:
    """Unlocks a protective stop, switches power on, releases the brakes: as far as each is needed.

    Raises:
        Stopped: something only a person at the robot can end still holds it.
        ConnectionFailed: the dashboard cannot be reached, does not allow remote control, has a
            program that runs or is paused, or the robot did not follow in time.
    """
    with _open(host) as dashboard:
        dashboard.demand_remote_control(dashboard.controller().version)
        dashboard.demand_no_program()
        status = dashboard.safety_status()
        if status in _HELD_BY_A_DEVICE:
            kind, remedy = _HELD_BY_A_DEVICE[status]
            raise Stopped(kind, f"the safety status is still {status}: {remedy}, then recover")
        if status == "PROTECTIVE_STOP":
            dashboard.ask("close safety popup")
            _unlock(dashboard)
        elif status not in _MOVING_STATUS:
            raise Stopped(
                StopKind.SAFETY, f"the safety status is {status}: restart the safety at the pendant"
            )
        dashboard.ask("close popup")
        _power_up(dashboard)


def _unlock(dashboard: Dashboard) -> None:
    deadline = time.monotonic() + _UNLOCK_TIMEOUT_S
    while True:
        answer = dashboard.ask("unlock protective stop")
        if answer == "Protective stop releasing":
            break
        if time.monotonic() > deadline:
            raise ConnectionFailed(f"the protective stop was not unlocked: {answer}")
        time.sleep(_POLL_S)
    _wait_for(lambda: dashboard.safety_status() in _MOVING_STATUS, "unlock", _UNLOCK_TIMEOUT_S)


def _power_up(dashboard: Dashboard) -> None:
    if dashboard.robot_mode() == "RUNNING":
        return
    if dashboard.robot_mode() != "IDLE":
        dashboard.ask("power on")
        _wait_for(
            lambda: dashboard.robot_mode() in ("IDLE", "RUNNING"), "power on", _POWER_TIMEOUT_S
        )
    if dashboard.robot_mode() != "RUNNING":
        dashboard.ask("brake release")
        _wait_for(lambda: dashboard.robot_mode() == "RUNNING", "release brakes", _POWER_TIMEOUT_S)


def _wait_for(condition, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ConnectionFailed(f"the robot did not {what} within {timeout_s:.0f} s")
        time.sleep(_POLL_S)
