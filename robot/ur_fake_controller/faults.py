"""Faults that a test can cause, and the control port (30099) through which it does.

One JSON object a line: {"do": name, "with": {arguments}} is answered by {"result": …} or
{"error": text}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, Any

from lerobot_robot_ur.calibration import Calibration, published

from .net import Connection, LineConnection, Loop, Service

if TYPE_CHECKING:
    from .server import ControllerServer

PORT = 30099
Six = list[float]


class FaultHooks:
    """What can go wrong with a controller. See `process.Faults` for what each does."""

    def __init__(self, controller: ControllerServer):
        self._controller = controller

    def freeze_output(self) -> None:
        self._controller.rtde.frozen = True

    def delay(self, seconds: float) -> None:
        if not 0 <= seconds <= 10:
            raise ValueError(f"a delay is between 0 and 10 s, got {seconds}")
        self._controller.rtde.delay = float(seconds)

    def delay_dashboard(self, seconds: float) -> None:
        self._controller.dashboard.delay = float(seconds)

    def slow(self, factor: float) -> None:
        if not 0.01 <= factor <= 100:
            raise ValueError(f"a factor is between 0.01 and 100, got {factor}")
        self._controller.pacer.slowdown = float(factor)

    def drop(self, service: str = "rtde", abort: bool = False) -> None:
        self._service(service).drop(abort)

    def refuse(self, names: list[str]) -> None:
        services = [self._service(name) for name in names if name != "remote_control"]
        if "remote_control" in names:
            self._controller.remote_control = False
        for service in services:
            service.refuse()

    def freeze_cameras(self) -> None:
        self._cameras().freeze(True)

    def set_slider(self, fraction: float) -> None:
        self._controller.arm.slider = _fraction(fraction)

    def limit_speed(self, fraction: float) -> None:
        self._controller.arm.limiter = _fraction(fraction)

    def delay_stops(self, seconds: float) -> None:
        self._controller.program.stop_delay = float(seconds)

    def set_inputs(self, bits: int) -> None:
        self._controller.rtde.values["actual_digital_input_bits"] = (int(bits),)

    def run_program(self, name: str) -> None:
        self._controller.program.stop("another program was started")
        self._controller.program.other = name

    def move_tool(self, metres: float) -> None:
        self._controller.tool_offset[0] = metres

    def calibrate(self, theta: Six, a: Six, d: Six, alpha: Six) -> None:
        calibration = Calibration(tuple(theta), tuple(a), tuple(d), tuple(alpha))
        self._controller.chain.calibrate(calibration)

    def send_primary(self, data: str) -> None:
        self._controller.primary.garbage = bytes.fromhex(data)

    def set_payload(self, kilograms: float) -> None:
        self._controller.program.payload = kilograms

    def reduced_mode(self) -> None:
        self._controller.safety.is_reduced = True

    def report_joint(self, value: float | None) -> None:
        self._controller.claimed_joint = value

    def safety_bits(self, bits: int) -> None:
        self._controller.safety.other_bits = bits

    def claim_version(self, version: list[int]) -> None:
        major, minor, bugfix, build = version
        self._controller.rtde.version = (major, minor, bugfix, build)

    def slow_secretly(self, fraction: float) -> None:
        self._controller.arm.hidden = _fraction(fraction)

    def report_speed_scaling(self, value: float | None) -> None:
        self._controller.claimed_scaling = value

    def protective_stop(self, reason: str = "a test asked for it") -> None:
        self._controller.safety.protective_stop(reason)

    def emergency_stop(self) -> None:
        self._controller.safety.emergency_stop()

    def safeguard_stop(self) -> None:
        self._controller.safety.safeguard_stop()

    def pretend_to_drive(self, model: str) -> None:
        self._controller.claimed_model = model

    def disconnect_gripper(self) -> None:
        self._controller.gripper.is_connected = False

    def gripper_fault(self, code: int) -> None:
        self._controller.gripper.fault = int(code)

    def clear(self) -> None:
        controller = self._controller
        controller.rtde.frozen, controller.rtde.delay = False, 0.0
        controller.dashboard.delay, controller.pacer.slowdown = 0.0, 1.0
        controller.remote_control = True
        controller.claimed_model = controller.model.type
        arm = controller.arm
        arm.slider = arm.limiter = arm.hidden = 1.0
        controller.claimed_scaling = controller.claimed_joint = None
        controller.tool_offset[:] = 0.0
        controller.chain.calibrate(published(controller.model))
        controller.primary.garbage = None
        controller.program.other, controller.program.stop_delay = None, 0.0
        controller.rtde.version = controller.model.version
        for service in controller.services.values():
            service.open()
        controller.safety.release()
        controller.gripper.is_connected, controller.gripper.fault = True, 0
        if controller.cameras is not None:
            controller.cameras.freeze(False)

    def _service(self, name: str) -> Service:
        services = self._controller.services
        if name not in services:
            raise ValueError(f"no service {name!r}; there are {', '.join(services)}")
        return services[name]

    def _cameras(self):
        if self._controller.cameras is None:
            raise ValueError("this controller was started without cameras")
        return self._controller.cameras


def _fraction(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"a fraction is between 0 and 1, got {value}")
    return float(value)


class ControlServer:
    """The control port: faults, `state`, `reset` and `quit`."""

    def __init__(self, loop: Loop, host: str, controller: ControllerServer):
        hooks = FaultHooks(controller)
        self._actions: dict[str, Callable[..., Any]] = {
            name: getattr(hooks, name) for name in dir(FaultHooks) if not name.startswith("_")
        }
        self._actions |= {
            "state": controller.state,
            "reset": controller.reset,
            "quit": controller.quit,
            "process_id": os.getpid,
        }
        self.service = Service(loop, host, PORT, lambda *args: ControlConnection(self, *args))

    def perform(self, line: str) -> dict[str, Any]:
        """Returns the answer to one request line."""
        try:
            request = json.loads(line)
            action = self._actions.get(request["do"])
            if action is None:
                known = ", ".join(self._actions)
                return {"error": f"unknown action {request['do']!r}; there are {known}"}
            return {"result": action(**request.get("with", {}))}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}


class ControlConnection(LineConnection):
    def __init__(
        self,
        server: ControlServer,
        loop: Loop,
        sock: socket,
        on_close: Callable[[Connection], None],
    ):
        self._server = server
        super().__init__(loop, sock, on_close)

    def on_line(self, line: str) -> None:
        self.send(json.dumps(self._server.perform(line)).encode() + b"\n")
