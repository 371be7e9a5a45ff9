"""The whole controller: ports, program, safety, arm and world, in one thread and in real time."""

from __future__ import annotations

import logging
import os
import selectors
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot_robot_ur.models import MODELS
from numpy.typing import NDArray

from .arm import Arm
from .cameras import CameraProcess
from .chain import Chain, pose
from .dashboard import DashboardServer
from .faults import ControlServer
from .gripper import Gripper, GripperServer
from .motions import MotionFault, ProgramError
from .net import Loop
from .pacing import Pacer
from .primary import PrimaryServer
from .registers import ControlProgram, RuntimeState
from .rtde import RtdeServer
from .safety import Safety, SafetyMode
from .script import ScriptServer, parse_control_script
from .variables import Values, inputs, outputs
from .world import STEP, ArmWorld

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

GRIPPER_TCP = (0.0, 0.0, 0.141, 0.0, 0.0, 0.0)  # m, rad: the installation's tool centre point
MAX_TOOL_FORCE = 150.0  # N, the default of the safety configuration
MAX_DEVIATION = 0.1  # rad between target and measured joint positions
_PATIENCE = 0.02  # s that either must last
_SUCCESS_CHECK = 0.05  # s between checks of the task
_JOINT_MODES = {True: 253, False: 239}  # running, power off


@dataclass(frozen=True)
class ControllerSettings:
    """How a controller is started; `tcp` is the tool centre point [6] (m, rad) it begins with."""

    model: str = "ur3e"
    host: str = "127.0.0.1"
    task: str = "pick_cube"
    start: int = 0
    tcp: tuple[float, ...] = GRIPPER_TCP
    unlock_delay: float = 5.0  # s after a protective stop before it can be unlocked
    cameras: bool = False
    camera_rate_hz: float = 30.0
    image_size: int = 256


class ControllerServer:
    """A fake controller; `run` serves until `quit`."""

    def __init__(self, settings: ControllerSettings):
        self.settings, self.model = settings, MODELS[settings.model]
        self.remote_control = True
        self.claimed_model = self.model.type  # what the dashboard says that it drives
        self.claimed_scaling: float | None = None
        self.claimed_joint: float | None = None
        self.tool_offset = np.zeros(6)  # by which it has the tool elsewhere than its kinematics
        self.cameras: CameraProcess | None = None
        self._running = True
        self._time, self._next_check = 0.0, 0.0
        self._strained = 0.0
        self.chain = Chain(self.model, settings.tcp)
        self.world = ArmWorld(self.model, self.chain, settings.task, settings.start)
        self.arm = Arm(self.model, self.world.q)
        self.safety = Safety(settings.unlock_delay, self._on_halt, self._on_power_loss)
        self.gripper = Gripper(self.world)
        self.log: deque[str] = deque(maxlen=50)
        logging.getLogger(__package__).addHandler(_Recorder(self.log))
        self._open_ports()
        if settings.cameras:
            self.cameras = CameraProcess(self.model.name, settings, self.world.configuration.size)
        self.pacer = Pacer(1.0 / self.model.rate_hz)

    def _open_ports(self) -> None:
        host, model = self.settings.host, self.model
        self._loop = loop = Loop()
        self.rtde = RtdeServer(
            loop,
            host,
            model.rate_hz,
            model.version,
            outputs(model.is_e_series),
            inputs(),
            self._on_input,
        )
        self.program = ControlProgram(self.rtde, self.arm, self.chain, self.world, self.safety)
        self.dashboard = DashboardServer(loop, host, self)
        self.primary = PrimaryServer(loop, host, model.version, self.chain)
        self.services = {
            "rtde": self.rtde.service,
            "primary": self.primary.service,
            "dashboard": self.dashboard.service,
            "script": ScriptServer(loop, host, self._on_script).service,
            "gripper": GripperServer(loop, host, self.gripper).service,
        }
        self._publish()
        # Last, because whoever starts a controller waits for this port.
        self._control = ControlServer(loop, host, self)

    def run(self, lifeline: int | None = None) -> None:
        """Serves in real time until `quit`, or until the file descriptor `lifeline` ends."""
        if lifeline is not None:

            def on_lifeline(_: int) -> None:
                if not os.read(lifeline, 1024):
                    self.quit()

            self._loop.watch(lifeline, selectors.EVENT_READ, on_lifeline)
        try:
            while self._running:
                self._loop.run_until(self.pacer.deadline)
                self.pacer.tick()
                self._tick()
        finally:
            if self.cameras is not None:
                self.cameras.close()

    def quit(self) -> None:
        self._running = False

    def reset(self, task: str | None = None, start: int | None = None) -> None:
        """Puts the world where a start has it; the arm is there at once, and at rest.

        The program goes on running; the gripper stays active and opens.
        """
        task = self.settings.task if task is None else task
        start = self.settings.start if start is None else start
        joints = self.world.place(task, start)
        self.arm.hold_at(joints)
        self.program.forget_motion()
        self.gripper.open_at_once()
        self._strained = 0.0

    def state(self) -> dict[str, Any]:
        """Returns what is true in the simulation, as plain values (m, rad, s)."""
        return {
            "time": self._time,
            "joints": self.world.q.tolist(),
            "target_joints": self.arm.q.tolist(),
            "speeds": self.world.qd.tolist(),
            "tcp_pose": pose(self.chain.tool(self.world.q)).tolist(),
            "tool_force": self.world.tool_force().tolist(),
            "robot_mode": self.safety.robot_mode.name,
            "safety_mode": self.safety.mode.name,
            "stop_reason": self.safety.reason,
            "program": self.program.state.name,
            "uploads": self.program.uploads,
            "watchdog_s": self.program.watchdog.period,
            "gripper": {
                name: self.gripper.get(name) for name in ("ACT", "STA", "POS", "PRE", "OBJ")
            },
            "clients": {name: len(s.connections) for name, s in self.services.items()},
            "misfits": self.rtde.misfits,
            "lateness": self.pacer.report(),
            "log": list(self.log),
            **self.world.report(),
        }

    def _tick(self) -> None:
        self._time += 1.0 / self.model.rate_hz
        self.safety.tick(self._time)
        self.gripper.is_powered = self.safety.is_powered
        self.program.tick(self._time)
        for _ in range(round(1.0 / (self.model.rate_hz * STEP))):
            self._step()
        if self._time >= self._next_check:
            self._next_check = self._time + _SUCCESS_CHECK
            self.world.check_success()
        if self.cameras is not None:
            self.cameras.show(self.world.configuration)
        self._publish()
        self.rtde.publish()

    def _step(self) -> None:
        try:
            self.arm.step(STEP)
        except MotionFault as fault:
            self.safety.protective_stop(str(fault))
        except ProgramError as error:
            logger.warning("runtime error of the program: %s", error)
            self.program.stop("runtime error")
        self.gripper.step()
        self.world.step(self.arm.q, self.arm.qd)
        self._watch_strain()

    def _watch_strain(self) -> None:
        """Stops the arm where it is pressed too hard or kept from where it should be."""
        deviation = float(np.abs(self.arm.q - self.world.q).max())
        force = float(np.linalg.norm(self.world.tool_force()[:3]))
        if force <= MAX_TOOL_FORCE and deviation <= MAX_DEVIATION:
            self._strained = 0.0
            return
        self._strained += STEP
        if self._strained >= _PATIENCE and self.safety.can_move:
            self.arm.hold_at(self.world.q)
            self.safety.protective_stop(
                f"the tool is pressed with {force:.0f} N, the joints are off by {deviation:.3f} rad"
            )

    @property
    def _is_playing(self) -> bool:
        return self.program.shown_state == RuntimeState.PLAYING

    @property
    def _told_scaling(self) -> float:
        if self.claimed_scaling is not None:
            return self.claimed_scaling
        return self.arm.limiter if self._is_playing else 0.0

    def _publish(self) -> None:
        """Writes the present state into the output variables."""
        arm, world, safety, values = self.arm, self.world, self.safety, self.rtde.values
        tool, jacobian = self.chain.jacobian(world.q)
        target_tool, target_jacobian = self.chain.jacobian(arm.q)
        playing = self._is_playing
        vectors: dict[str, Array] = {
            "actual_q": world.q,
            "actual_qd": world.qd,
            "target_q": arm.q,
            "target_qd": arm.qd,
            "target_qdd": arm.qdd,
            "target_moment": world.motor_torques(),
            "actual_TCP_pose": pose(tool) + self.tool_offset,
            "actual_TCP_speed": jacobian @ world.qd,
            "actual_TCP_force": world.tool_force(),
            "target_TCP_pose": pose(target_tool),
            "target_TCP_speed": target_jacobian @ arm.qd,
        }
        for name, vector in vectors.items():
            values[name] = tuple(vector.tolist())
        scalars: dict[str, Values] = {
            "timestamp": (self._time,),
            "robot_mode": (int(safety.robot_mode),),
            "safety_mode": (int(safety.mode),),
            "safety_status": (int(safety.mode),),
            "safety_status_bits": (safety.status_bits,),
            "robot_status_bits": (int(safety.is_powered) | playing << 1,),
            "runtime_state": (int(self.program.shown_state),),
            "joint_mode": (_JOINT_MODES[safety.is_powered],) * 6,
            "speed_scaling": (self._told_scaling,),
            "target_speed_fraction": (arm.slider,),
            "payload": (self.program.payload,),
            "payload_cog": self.program.centre_of_gravity,
        }
        values.update(scalars)
        if self.claimed_joint is not None:
            values["actual_q"] = (self.claimed_joint, *values["actual_q"][1:])
        if self.model.is_e_series:
            values["tcp_offset"] = tuple(self.chain.tcp.tolist())
            values["ft_raw_wrench"] = values["actual_TCP_force"]

    def _on_input(self, written: dict[str, Values]) -> None:
        self.program.on_input(written)
        if written.get("speed_slider_mask", (0,))[0] and "speed_slider_fraction" in written:
            fraction = written["speed_slider_fraction"][0]
            self.arm.slider = min(max(fraction, 0.0), 1.0)
        for mask, bits, shift in _DIGITAL_OUTPUTS:
            if mask in written and bits in written:
                chosen, wanted = int(written[mask][0]) << shift, int(written[bits][0]) << shift
                now = int(self.rtde.values["actual_digital_output_bits"][0])
                new = now & ~chosen | wanted & chosen
                self.rtde.values["actual_digital_output_bits"] = (new,)

    def _on_script(self, text: str) -> None:
        if not self.remote_control:
            logger.warning("a script was sent, but remote control is off: it is ignored")
            return
        script = parse_control_script(text)
        if script is None:
            logger.warning("only ur-rtde's control script is emulated, not: %s", text[:200])
            return
        self.program.start(script)

    def _on_halt(self, mode: SafetyMode) -> None:
        if mode == SafetyMode.SAFEGUARD_STOP:
            self.program.pause()
        else:
            self.program.stop("protective stop")
        self.arm.stop_fast()

    def _on_power_loss(self) -> None:
        self.program.stop("power off")
        self.arm.hold_at(self.world.q)
        self.gripper.reset()


_DIGITAL_OUTPUTS = (
    ("standard_digital_output_mask", "standard_digital_output", 0),
    ("configurable_digital_output_mask", "configurable_digital_output", 8),
    ("tool_digital_output_mask", "tool_digital_output", 16),
)


class _Recorder(logging.Handler):
    """Keeps the last log messages for `state`."""

    def __init__(self, messages: deque[str]):
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())
