"""Running a fake controller as a process of its own, and talking to it.

It has to be one: ur-rtde's constructors hold Python's interpreter lock while they wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lerobot_robot_ur.calibration import Calibration

CONTROL_PORT = 30099
_START_TIMEOUT = 120.0  # s; importing MuJoCo alone can take many on a busy machine
_ANSWER_TIMEOUT = 30.0  # s


class ControllerError(RuntimeError):
    """The fake controller did not start, ended, or refused a request."""


class Faults:
    """Causes faults in a running controller; `clear` ends them."""

    def __init__(self, controller: FakeController):
        self._request = controller.request

    def freeze_output(self) -> None:
        """Keeps RTDE's connections open and sends nothing more through them."""
        self._request("freeze_output")

    def drop_rtde(self, abort: bool = False) -> None:
        """Closes all RTDE connections; with a reset where `abort`. New ones are accepted."""
        self._request("drop", service="rtde", abort=abort)

    def drop(self, service: str, abort: bool = False) -> None:
        """Closes all connections of rtde, primary, dashboard, script or gripper."""
        self._request("drop", service=service, abort=abort)

    def delay(self, seconds: float) -> None:
        """Sends everything of RTDE `seconds` later."""
        self._request("delay", seconds=seconds)

    def delay_dashboard(self, seconds: float) -> None:
        """Lets the dashboard greet and answer `seconds` later."""
        self._request("delay_dashboard", seconds=seconds)

    def slow(self, factor: float) -> None:
        """Lets the controller take `factor` seconds for each of its own."""
        self._request("slow", factor=factor)

    def refuse(self, *names: str) -> None:
        """Refuses new connections of a service (see `drop`), or remote_control."""
        self._request("refuse", names=list(names))

    def set_slider(self, fraction: float) -> None:
        """Puts the pendant's speed slider somewhere, from 0 to 1."""
        self._request("set_slider", fraction=fraction)

    def limit_speed(self, fraction: float) -> None:
        """Lets the controller itself slow its motion down to a fraction, whatever the slider."""
        self._request("limit_speed", fraction=fraction)

    def delay_stops(self, seconds: float) -> None:
        """Lets servoStop, and whatever else waits for the arm, take so much longer."""
        self._request("delay_stops", seconds=seconds)

    def set_inputs(self, bits: int) -> None:
        """Puts voltage on digital inputs, a bit each."""
        self._request("set_inputs", bits=bits)

    def run_program(self, name: str) -> None:
        """Runs somebody else's program, in place of any."""
        self._request("run_program", name=name)

    def move_tool(self, metres: float) -> None:
        """Tells the tool's pose as of an arm that was calibrated otherwise."""
        self._request("move_tool", metres=metres)

    def calibrate(self, calibration: Calibration) -> None:
        """Gives the arm lengths of its own, in all that the controller computes and tells."""
        self._request("calibrate", **asdict(calibration))

    def send_primary(self, data: bytes) -> None:
        """Sends these bytes, and nothing else, to each client of the primary interface."""
        self._request("send_primary", data=data.hex())

    def set_payload(self, kilograms: float) -> None:
        """Sets the payload's mass, as another client may."""
        self._request("set_payload", kilograms=kilograms)

    def reduced_mode(self) -> None:
        """Puts the safety system into reduced mode; the arm still moves."""
        self._request("reduced_mode")

    def report_joint(self, value: float) -> None:
        """Gives a value as the base's measured position that has nothing to do with it."""
        self._request("report_joint", value=value)

    def safety_bits(self, bits: int) -> None:
        """Sets bits of safety_status_bits besides those of the safety mode."""
        self._request("safety_bits", bits=bits)

    def claim_version(self, *version: int) -> None:
        """Gives four numbers as the controller's version over RTDE."""
        self._request("claim_version", version=list(version))

    def slow_secretly(self, fraction: float) -> None:
        """Lets the arm follow more slowly without a word of it."""
        self._request("slow_secretly", fraction=fraction)

    def report_speed_scaling(self, value: float) -> None:
        """Gives a value as speed scaling that has nothing to do with the motion; -1, say."""
        self._request("report_speed_scaling", value=value)

    def protective_stop(self) -> None:
        """Stops as after a collision; until unlocked through the dashboard."""
        self._request("protective_stop")

    def emergency_stop(self) -> None:
        """Presses the emergency stop button; `clear` releases it, power stays off."""
        self._request("emergency_stop")

    def safeguard_stop(self) -> None:
        """Opens the safeguard input; `clear` closes it, the program stays paused."""
        self._request("safeguard_stop")

    def pretend_to_drive(self, model: str) -> None:
        """Lets the dashboard say that the arm is a `UR5`, say."""
        self._request("pretend_to_drive", model=model)

    def disconnect_gripper(self) -> None:
        """Lets the gripper's port answer `?`, as where the gripper has no power."""
        self._request("disconnect_gripper")

    def gripper_fault(self, code: int) -> None:
        """Lets the gripper report a fault code in FLT."""
        self._request("gripper_fault", code=code)

    def freeze_cameras(self) -> None:
        """Publishes no more pictures."""
        self._request("freeze_cameras")

    def clear(self) -> None:
        """Ends all of these, as far as nobody has to confirm it at the robot."""
        self._request("clear")


class FakeController:
    """A fake controller in a process of its own; a context manager.

    Args:
        host: loopback address (127.0.0.N) whose ports it takes; ur-rtde's ports are fixed, so
            two controllers need two addresses.
        model: a name in `lerobot_robot_ur.models.MODELS`; those before the e-Series run at 125 Hz.
        task, start: the simulated task and the number of its start.
        unlock_delay: s after a protective stop before it can be unlocked.
        cameras: whether to publish the cameras `scene` and `wrist`, on port 5555.
        image_size: height and width of the pictures, in pixels.
        camera_rate_hz: pictures of each camera in a second.

    Raises:
        ControllerError: it did not start; the message holds what it wrote.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        model: str = "ur3e",
        task: str = "pick_cube",
        start: int = 0,
        unlock_delay: float = 5.0,
        cameras: bool = False,
        image_size: int = 256,
        camera_rate_hz: float = 30.0,
    ):
        self.host = host
        options = {
            "model": model,
            "host": host,
            "task": task,
            "start": start,
            "unlock-delay": unlock_delay,
            "image-size": image_size,
            "camera-rate": camera_rate_hz,
        }
        self._arguments = [f"--{name}={value}" for name, value in options.items()]
        self._arguments += ["--cameras"] if cameras else []
        self.faults = Faults(self)
        self._closing = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> FakeController:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process and waits until its ports accept."""
        with contextlib.ExitStack() as closing:
            self._output = closing.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [sys.executable, "-m", __package__ or "", *self._arguments, "--lifeline"],
                stdin=subprocess.PIPE,  # ends with this process, and the controller with it
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # for a priority of its own
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            )
            deadline = time.monotonic() + _START_TIMEOUT
            while not self._is_connected(deadline):
                time.sleep(0.05)
            self._closing = closing.pop_all()

    def _is_connected(self, deadline: float) -> bool:
        """Tries once. Raises ControllerError when there is no more to wait for."""
        assert self._process is not None
        try:
            self._connect(self._process.pid)
        except (OSError, ControllerError) as error:
            if self._process.poll() is None and time.monotonic() < deadline:
                return False
            written = self._read_output()
            self.stop()
            raise ControllerError(
                f"the fake controller on {self.host} did not start: {error}\n{written}"
            ) from error
        return True

    def _connect(self, process_id: int) -> None:
        """Raises OSError or ControllerError if the control port does not answer, or for another
        process than that started here."""
        address = (self.host, CONTROL_PORT)
        self._socket = socket.create_connection(address, timeout=_ANSWER_TIMEOUT)
        self._lines = self._socket.makefile("rb")
        try:
            if (other := self.request("process_id")) != process_id:
                raise ControllerError(f"its ports are in use by process {other}")
        except ControllerError:
            self._socket.close()
            self._socket = None
            raise

    def stop(self) -> None:
        """Ends the process."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._closing.close()

    def state(self) -> dict[str, Any]:
        """Returns what is true in the simulation: joints, tool, objects (m), success, log, …"""
        return self.request("state")

    def reset(self, task: str | None = None, start: int | None = None) -> None:
        """Puts world and arm where a start has them, at once; by default where they began."""
        self.request("reset", task=task, start=start)

    def request(self, action: str, **arguments: Any) -> Any:
        """Returns the answer of the controller's control port; for any thread."""
        if self._socket is None:
            raise ControllerError("the fake controller is not running")
        try:
            with self._lock:
                self._socket.sendall(json.dumps({"do": action, "with": arguments}).encode() + b"\n")
                line = self._lines.readline()
        except OSError:
            line = b""
        if not line:
            raise ControllerError(f"the fake controller has ended:\n{self._read_output()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ControllerError(answer["error"])
        return answer["result"]

    def _read_output(self) -> str:
        """Returns the end of what the process has written."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4000))
        return self._output.read().decode("utf-8", "replace")


def _import_path() -> Iterable[str]:
    """Returns where this process imports from, so that the controller finds the same packages."""
    here = str(Path(__file__).parents[1])
    return dict.fromkeys([here, *(p for p in sys.path if p)])
