"""An arm: connect, look, move through waypoints, hold, stop, recover.

The face of the servo process and the gripper's thread. No method waits for the arm to move except
`move_to`, and none makes it move that could not be refused first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .calibration import Calibration
from .channel import ChannelClosed
from .config import ArmConfig
from .dashboard import ControllerInfo, bring_back, check_controller
from .errors import ConnectionFailed, Refused, RobotError, StaleState, Stopped
from .gripper import GripperThread, make_gripper
from .guard import Guard, joint_positions
from .kinematics import calibration_offset_m
from .messages import REFUSED, Free, Halt, Hold, Move
from .models import MODELS
from .monitor import Event, EventQueue, Monitor
from .path import check_path, slow_path
from .primary import read_calibration
from .servo_process import ServoProcess
from .shared import Jitter, Phase, ServoState
from .stops import BY_THE_ROBOT, REDUCED, StopKind

Array = NDArray[np.float64]

_FARTHEST_CALIBRATION_M = 15e-3  # of the flange; a UR3's is 29 mm from a UR3e's
_THERE_RAD = 5e-3  # from the goal: what gravity and friction may leave
_NO_JITTER = Jitter(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)


@dataclass(frozen=True)
class ArmState:
    """The measured state.

    Attributes:
        time_s: time.monotonic() at which it was true.
        timestamp_s: the controller's clock at that time.
        joints, joint_speeds: measured [6] (rad, rad/s).
        commanded: joint positions [6] (rad) last sent to the controller.
        tool_force: force and torque at the tool [6] (N, Nm, base axes), as the controller gives it.
        gripper_opening_m: between the pads; None without a gripper.
        gripper_is_holding: whether it says that it holds something.
        is_moving: whether commanded motion has not ended.
        speed_scaling: the controller's own, 0 to 1: its speed slider's, and what else slows it.
        is_reduced: whether its safety system is in reduced mode.
        digital_inputs, digital_outputs: a bit each: 0-7 standard, 8-15 configurable, 16-17 tool.
    """

    time_s: float
    timestamp_s: float
    joints: Array
    joint_speeds: Array
    commanded: Array
    tool_force: Array
    gripper_opening_m: float | None
    gripper_is_holding: bool
    is_moving: bool
    speed_scaling: float
    is_reduced: bool
    digital_inputs: int
    digital_outputs: int


class Arm:
    """An arm behind its configuration; a context manager that connects and disconnects.

    Attributes:
        config, limits: as given; the limits are scaled by the configured speed.
        guard: the checks that every target passes, here and once more in the servo process.
        controller: what the controller says of itself; None before `connect`.
        calibration: the arm's own lengths, from the configuration or, at `connect`, from the
            controller; None where published ones are used.
        calibration_offset_m: how far they have the flange from where published ones have it, at
            most (m).
    """

    def __init__(self, config: ArmConfig):
        self.config = config
        self.model, self.limits = MODELS[config.model], config.effective_limits
        self._take_calibration(config.calibration)
        self.controller: ControllerInfo | None = None
        self._process: ServoProcess | None = None
        self._gripper: GripperThread | None = None
        self._events = EventQueue()
        self._monitor = Monitor(config.ip, self._events, self._on_stop)
        self._lock = threading.Lock()
        self._sequence = 0

    def __enter__(self) -> Arm:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    @property
    def is_connected(self) -> bool:
        return self._process is not None

    def connect(self) -> None:
        """Checks the controller, starts servo process and gripper. Nothing of the arm moves;
        a gripper that was not active opens and closes once.

        Raises:
            ConnectionFailed: something does not answer, is another model or not ready to be moved.
            Stopped: the robot is stopped, or was when this arm was disconnected; `recover` can
                bring it back with an operator's word.
        """
        if self.is_connected:
            raise ConnectionFailed(f"{self.config.ip}: this arm is connected already")
        if self._monitor.stopped is not None:
            raise self._monitor.stopped
        self.controller = check_controller(self.config.ip, self.model)
        self._start()

    def disconnect(self) -> None:
        """Stops in a controlled way, ends the program on the controller and the process here.

        What had stopped the arm before (`stopped`) is remembered.
        """
        if not self.is_connected:
            return
        self._leave("disconnect")
        self.note("disconnected", self.config.ip)

    def _start(self) -> None:
        self._calibrate()
        gripper = make_gripper(self.config.gripper, self.config.gripper_ip or self.config.ip)
        self._process = process = ServoProcess(replace(self.config, calibration=self.calibration))
        self._monitor.start(process)
        self.note("connected", f"{self.config.ip}: {self.controller}")
        self.note("realtime", "; ".join(process.notes))
        if gripper is not None:
            self._gripper = GripperThread(gripper, self.note, clock=process.clock)
            try:
                self._gripper.start()
            except BaseException:
                self._leave("the gripper did not start")
                raise

    def _calibrate(self) -> None:
        """Asks the controller for the arm's own lengths, where the configuration has none.

        Raises:
            ConnectionFailed: they are another model's.
        """
        if self.config.calibration is None:
            try:
                self._take_calibration(read_calibration(self.config.ip))
            except ConnectionFailed as error:
                self._take_calibration(None)
                self.note("calibration", f"{error}; published lengths are used")
        if self.calibration_offset_m > _FARTHEST_CALIBRATION_M:
            raise ConnectionFailed(
                f"{self.config.ip}: the arm's calibration has the flange up to "
                f"{1e3 * self.calibration_offset_m:.1f} mm from where the lengths of a "
                f"{self.model.name} have it (allowed {1e3 * _FARTHEST_CALIBRATION_M:g} mm): is it "
                "another model?"
            )

    def _take_calibration(self, calibration: Calibration | None) -> None:
        config, self.calibration = self.config, calibration
        self.guard = Guard(
            self.model, self.limits, config.tcp, config.gripper, config.extra_shapes, calibration
        )
        self.calibration_offset_m = 0.0
        if calibration is not None:
            self.calibration_offset_m = calibration_offset_m(self.model, calibration)

    def _leave(self, reason: str) -> None:
        """Ends the servo process, after a controlled stop, and the gripper's thread."""
        process, self._process = self._process, None
        gripper, self._gripper = self._gripper, None
        if process is None:
            return
        self._monitor.expect_the_end()
        with contextlib.suppress(ChannelClosed):  # it has ended by itself
            process.channel.send(Halt(reason, leave=True))
        # Only now: a gripper that does not answer is waited for, and the arm must not move on.
        if gripper is not None:
            gripper.stop()
        self._monitor.join()
        process.close()

    def state(self) -> ArmState:
        """Returns the newest state; never a wait.

        Raises:
            StaleState: it is older than `limits.max_state_age_s`, or the gripper's older than 1 s.
            ConnectionFailed: there is no connection.
        """
        servo = self._read_fresh()
        reading = self._gripper.reading() if self._gripper is not None else None
        return ArmState(
            time_s=servo.time_s - servo.age_s,
            timestamp_s=servo.timestamp_s,
            joints=servo.joints,
            joint_speeds=servo.speeds,
            commanded=servo.commanded,
            tool_force=servo.force,
            gripper_opening_m=None if reading is None else reading.opening_m,
            gripper_is_holding=reading is not None and reading.is_holding,
            is_moving=not servo.at_rest,
            speed_scaling=servo.speed_scaling,
            is_reduced=bool(servo.safety_bits & REDUCED),
            digital_inputs=servo.digital_inputs,
            digital_outputs=servo.digital_outputs,
        )

    def clock(self) -> float:
        """Returns the arm's own time (s), in which all its motion is: it passes as time.monotonic
        does, but slower by the controller's speed scaling, and it stands while that is 0.

        Raises:
            ConnectionFailed: there is no connection.
        """
        if self._process is None:
            raise ConnectionFailed(f"{self.config.ip}: not connected")
        return self._process.clock()

    def commanded(self) -> Array:
        """Returns joint positions [6] (rad) last sent to the controller, whatever the gripper does.

        Raises:
            StaleState, ConnectionFailed: as `state`, of the arm alone.
        """
        return self._read_fresh().commanded

    @property
    def refused_in_motion(self) -> int:
        """How many commands the servo process has refused in motion so far: the arm has come to
        rest on its way then, and is not where it was told to go."""
        return self._monitor.refused_in_motion

    @property
    def stopped(self) -> Stopped | None:
        """Why the arm does not move until `recover`; None where it may."""
        return self._monitor.stopped

    def events(self) -> list[Event]:
        """Returns what has happened since the last call."""
        return self._events.take()

    def jitter(self) -> Jitter:
        """Returns periods of the servo loop since it was started."""
        return _NO_JITTER if self._process is None else self._process.shared.jitter()

    @property
    def servo_pid(self) -> int | None:
        """Process number of the servo process."""
        return None if self._process is None else self._process.pid

    def move_through(
        self,
        joints: ArrayLike,
        arrival_times_s: ArrayLike,
        gripper_openings_m: Sequence[float] | None = None,
    ) -> None:
        """Goes through joint positions [n, 6] (rad), at times [n] (of `clock`) where the limits
        allow it and later where not; in place of whatever has not begun. Returns at once.

        The next call is due when the first waypoint is: `limits.hold_after_s` later the arm holds,
        `limits.stop_after_s` later it stops, unless `hold` said that nothing follows.

        Raises:
            Refused: with all reasons; the arm goes on with what it had.
            Stopped: until `recover`.
            StaleState: nothing recent is known of where the arm is.
        """
        self._move(joints, arrival_times_s, gripper_openings_m, is_streamed=True)

    def move_to(self, joints: ArrayLike, timeout_s: float | None = None) -> None:
        """Goes slowly to joint positions [6] (rad) and returns when the arm is there, at rest.

        Args:
            timeout_s: of `clock`; by default twice what the path should take.

        Raises:
            Refused, Stopped, StaleState: as `move_through`.
            RobotError: it is not there in time, was refused on its way or told something else;
                it holds.
        """
        goal, start = joint_positions(joints, "goal", 1), self.commanded()
        path, times = slow_path(self.guard, start, goal)
        sequence = self._move(path, self.clock() + times, None, is_streamed=False)
        if timeout_s is None:
            timeout_s = 2.0 * float(times[-1]) + 5.0
        self._wait_for(goal, sequence, timeout_s)

    def hold(self) -> None:
        """Decelerates and stays, arm and gripper."""
        self._hold_gripper()
        self._send(Hold(self._next_sequence()))

    def lead(self, is_on: bool, timeout_s: float = 10.0) -> None:
        """Lets the arm be led by hand (freedrive), or no longer, and returns when that is so.

        It comes to rest first. Whoever leads it is not held back by any limit of this driver.

        Raises:
            Stopped, ConnectionFailed: as `move_to`.
            RobotError: it did not come about in `timeout_s`.
        """
        if self._monitor.stopped is not None:
            raise self._monitor.stopped
        self._hold_gripper()
        self._send(Free(self._next_sequence(), is_on))
        deadline = time.monotonic() + timeout_s
        while self.is_led != is_on or (not is_on and self._read().phase != Phase.IDLE):
            if self._monitor.stopped is not None:
                raise self._monitor.stopped
            if time.monotonic() > deadline:
                raise RobotError(f"freedrive did not {'begin' if is_on else 'end'} in time")
            time.sleep(0.01)
        self.note("led" if is_on else "not led", "freedrive")

    @property
    def is_led(self) -> bool:
        """Whether the arm is led by hand."""
        return self._process is not None and self._read().phase == Phase.FREE

    def stop(self, reason: str) -> None:
        """Stops in a controlled way: decelerates, ends the program. Motion needs `recover` then."""
        self._hold_gripper()
        self._send(Halt(reason))
        if self._monitor.stopped is None:
            self._monitor.stopped = Stopped(StopKind.REQUESTED, reason)

    def recover(self, operator: str) -> None:
        """Makes the arm ready to move again, after a look at why it stopped.

        Unlocks a protective stop, switches power and brakes on where needed, starts a new servo
        process and makes the gripper active. The arm stands still until it is told to move.

        Args:
            operator: who says that this is safe; goes into the events.

        Raises:
            Refused: nobody is named.
            Stopped: a button or a safeguard still holds the robot.
            ConnectionFailed: the controller or the gripper did not follow.
        """
        if not operator.strip():
            raise Refused("recovery needs the name of the operator who allows it")
        before = self._monitor.stopped
        self._leave("recovery")
        bring_back(self.config.ip)
        self.controller = check_controller(self.config.ip, self.model)
        self._start()
        self.note("recovered", f"from {before} by {operator.strip()}")

    def _move(
        self,
        joints: ArrayLike,
        arrival_times_s: ArrayLike,
        gripper_openings_m: Sequence[float] | None,
        is_streamed: bool,
    ) -> int:
        if self._monitor.stopped is not None:
            raise self._monitor.stopped
        now, start = self.clock(), self.commanded()
        stroke = self._gripper.stroke_m if self._gripper is not None else None
        try:
            path = check_path(
                self.guard,
                start,
                joints,
                arrival_times_s,
                gripper_openings_m,
                stroke,
                now,
            )
        except Refused as refused:
            self.note(REFUSED, str(refused))
            raise
        self._monitor.last_refusal = ""
        sequence = self._next_sequence()
        self._send(Move(sequence, path.joints, path.times_s, is_streamed))
        if path.openings_m is not None and self._gripper is not None:
            starts = [now, *path.times_s[:-1].tolist()]
            self._gripper.schedule(path.openings_m.tolist(), starts)
        return sequence

    def _send(self, message: Move | Hold | Free | Halt) -> None:
        process = self._process
        if process is None:
            raise ConnectionFailed(f"{self.config.ip}: not connected")
        try:
            if not process.channel.send(message):
                raise ConnectionFailed(f"{self.config.ip}: the servo process takes no commands")
        except ChannelClosed:
            # The monitor notices too, and tells why.
            ended = Stopped(StopKind.LINK_LOST, "the servo process ended")
            raise self._monitor.stopped or ended from None

    def _read(self) -> ServoState:
        if self._process is None:
            raise ConnectionFailed(f"{self.config.ip}: not connected")
        return self._process.state()

    def _read_fresh(self) -> ServoState:
        servo = self._read()
        age = servo.age_s + (time.monotonic() - servo.time_s)
        if age > self.limits.max_state_age_s:
            raise StaleState(
                f"{self.config.ip}: the state is {age:.3f} s old; "
                f"{self.limits.max_state_age_s:.3f} s are allowed"
            )
        return servo

    def _wait_for(self, goal: Array, sequence: int, timeout_s: float) -> None:
        """Returns when the arm rests at `goal` [6] (rad), where command `sequence` leads."""
        deadline = self.clock() + timeout_s
        while True:
            if self._monitor.stopped is not None:
                raise self._monitor.stopped
            servo = self._read()
            if servo.sequence > sequence:
                raise RobotError("on its way to its goal the arm was told something else")
            # A stop is told of by another thread, a little later.
            is_stopping = servo.phase in (Phase.STOPPING, Phase.ENDING, Phase.STOPPED)
            if servo.sequence == sequence and servo.at_rest and not is_stopping:
                if np.abs(servo.joints - goal).max() < _THERE_RAD:
                    return
                if self._monitor.last_refusal:
                    raise RobotError(f"the arm rests before its goal: {self._monitor.last_refusal}")
            if self.clock() > deadline:
                self.hold()
                off = np.abs(servo.joints - goal).max()
                raise RobotError(
                    f"after {timeout_s:.1f} s the arm is {off:.4f} rad from its goal, "
                    f"allowed are {_THERE_RAD:g}"
                )
            time.sleep(0.01)

    def _on_stop(self, stopped: Stopped) -> None:
        """Where the robot itself has stopped the arm, the fingers stop too, if they can."""
        if self._gripper is not None and stopped.kind in BY_THE_ROBOT:
            self._gripper.stop_fingers()
        else:
            self._hold_gripper()

    def _hold_gripper(self) -> None:
        if self._gripper is not None:
            self._gripper.hold()

    def _next_sequence(self) -> int:
        with self._lock:
            self._sequence += 1
            return self._sequence

    def note(self, kind: str, detail: str, time_s: float | None = None) -> None:
        """Adds an event to those that `events` gives."""
        self._events.note(kind, detail, time_s)
