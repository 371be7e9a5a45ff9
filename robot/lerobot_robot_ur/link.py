"""Everything of ur-rtde in one place. It is used inside the servo process only.

ur-rtde 1.6.5 can crash when its socket drops, blocks in its constructors with the interpreter lock
held, and goes on returning old values; what is done about each stands where it is done.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface
from ur_motion import rotations

from .dashboard import stop_program
from .errors import ConnectionFailed, RobotError
from .kinematics import Kinematics
from .realtime import Role, take_priority
from .rtde_version import RTDE_PORT, rtde_version
from .stops import RuntimeState

Array = NDArray[np.float64]

_STOP_DECELERATION = 2.0  # m/s^2 of servoStop, for what the trajectory left moving
_DRIFT = 1e-3  # s in a second; of crystals it is a tenth of that
_TIME_CONSTANTS = 3.0
_TOLD_S = 1.0
RELEASE_TIME_S = 2.0  # for servoStop
_SAME_PLACE_M, _SAME_TURN_RAD = 5e-3, 0.02
_SAME_PAYLOAD = 1e-3  # kg, m
_CONNECT_ATTEMPTS = 5  # the controller frees the registers of a lost client a little later
_VARIABLES = [
    "timestamp",
    "actual_q",
    "actual_qd",
    "actual_TCP_force",
    "actual_TCP_pose",
    "speed_scaling",
    "target_speed_fraction",
    "robot_mode",
    "robot_status_bits",
    "safety_status_bits",
    "runtime_state",
    "actual_digital_input_bits",
    "actual_digital_output_bits",
]

_PAYLOAD_VARIABLES = ["payload", "payload_cog"]  # since PolyScope 3.11 and 5.5.1


class LinkLost(RobotError):
    """The connection to the controller is gone; ur-rtde must not be asked anything more."""


@dataclass(frozen=True)
class Reading:
    """One look at the controller's newest packet; `age_s` is by the controller's own clock.

    `speed_scaling` is that of `pace.ArmClock`.
    """

    timestamp_s: float
    age_s: float
    joints: Array
    speeds: Array
    force: Array
    speed_scaling: float
    robot_mode: int
    robot_bits: int
    safety_bits: int
    runtime_state: int
    digital_inputs: int
    digital_outputs: int

    @property
    def is_finite(self) -> bool:
        """Whether positions and speeds are numbers."""
        return bool(np.isfinite(self.joints).all() and np.isfinite(self.speeds).all())


class PacketClock:
    """How old a packet is, from the timestamp in it.

    A connection that is open says nothing (ur-rtde returns old values for ever): what counts is how
    far the controller's clock has fallen behind the earliest that any packet arrived. That notices
    output that is frozen, late, or slow, however slowly it falls behind: what is forgiven is a
    drift of both clocks against each other.
    """

    def __init__(self) -> None:
        self._earliest, self._at = math.inf, 0.0

    def age(self, timestamp_s: float, now: float) -> float:
        """Returns age (s) at `now` (time.monotonic) of a packet stamped `timestamp_s`."""
        offset = now - timestamp_s
        self._earliest = min(offset, self._earliest + _DRIFT * (now - self._at))
        self._at = now
        return offset - self._earliest


class Link:
    """The two connections of ur-rtde to one controller.

    Args:
        host: the controller's address.
        period_s: of servoJ.
        lookahead_s, gain: of servoJ.

    Attributes:
        lag_s: by which an arm that follows may be late.

    Raises:
        ConnectionFailed: the controller refused, or its program did not start.
    """

    def __init__(self, host: str, period_s: float, lookahead_s: float, gain: float):
        self._host = host
        self._servo_parameters = (0.0, 0.0, period_s, lookahead_s, gain)
        # servoJ is near to q'' = gain (target - q - lookahead q'): late by the lookahead in steady
        # motion, and by some times its own time constant where speeds change.
        self.lag_s = lookahead_s + _TIME_CONSTANTS / math.sqrt(gain)
        self._clock = PacketClock()
        self._watchdog_s = RELEASE_TIME_S
        self._payload: tuple[float, ...] | None = None  # mass and centre, as we set them
        self._reservation = _reserve(host)
        version = rtde_version(host)
        self._tells_payload = version >= (5, 5, 1) or (3, 11) <= version < (4,)
        variables = _VARIABLES + _PAYLOAD_VARIABLES if self._tells_payload else _VARIABLES
        others = _rtde_sockets()
        try:
            self._receive = RTDEReceiveInterface(host, variables=variables)
            self._control = _connect_control(host, self._receive)
        except RuntimeError as error:
            raise ConnectionFailed(f"{host}: {error}") from error
        self._sockets = _rtde_sockets() - others
        if len(self._sockets) != 2:
            raise ConnectionFailed(
                f"{host}: {len(self._sockets)} connections to port {RTDE_PORT} instead of 2"
            )

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Calls `on_lost` in a thread as soon as the controller closes one of the connections.

        ur-rtde notices some 2 ms later, connects anew, uploads its program, without a watchdog, and
        sends the last command again; it can crash meanwhile. The process has to end before that.
        """
        poll = select.poll()
        for descriptor in self._sockets:
            poll.register(descriptor, select.POLLRDHUP)  # POLLHUP and POLLERR come by themselves

        def watch() -> None:
            poll.poll()
            on_lost()

        _start(watch, Role.WATCH)

    def set_up(
        self, tcp: Sequence[float], payload_kg: float, payload_cog_m: Sequence[float]
    ) -> None:
        """Sets tool centre point and payload.

        Raises:
            ConnectionFailed: the controller refused one of them.
        """
        self._set(
            {
                "tool centre point": lambda: self._control.setTcp(list(tcp)),
                "payload": lambda: self._control.setPayload(payload_kg, list(payload_cog_m)),
            }
        )
        self._payload = (payload_kg, *payload_cog_m)
        if not _becomes(lambda: not self.has_other_payload()):
            raise ConnectionFailed(f"{self._host}: {self.describe_payload()}")

    def has_other_payload(self) -> bool:
        """Returns whether the controller has another payload than `set_up` gave it."""
        if self._payload is None or not self._tells_payload:
            return False
        told = (self._receive.getPayload(), *self._receive.getPayloadCog())
        # ur-rtde takes a centre of zeros for none.
        count = len(told) if any(self._payload[1:]) else 1
        pairs = zip(told[:count], self._payload[:count], strict=True)
        return any(abs(a - b) > _SAME_PAYLOAD for a, b in pairs)

    def describe_payload(self) -> str:
        told = (self._receive.getPayload(), *self._receive.getPayloadCog())
        text, own = (", ".join(f"{v:g}" for v in p) for p in (told, self._payload or ()))
        return f"the controller's payload is {text} (kg, m); {own} was set here"

    def check_tool(self, kinematics: Kinematics) -> None:
        """Checks that the controller has the tool where we have it.

        Another model, another tool centre point and a calibration of this arm that we do not know
        show here.

        Raises:
            ConnectionFailed: it is more than 5 mm or 0.02 rad off.
        """
        if not _becomes(lambda: max(self._tool_offsets(kinematics)) <= 1.0):
            distance, turn = self._tool_offsets(kinematics)
            off = f"{1e3 * distance * _SAME_PLACE_M:.1f} mm and {turn * _SAME_TURN_RAD:.3f} rad"
            raise ConnectionFailed(
                f"{self._host}: the controller has the tool {off} from where this driver has it "
                f"(allowed {1e3 * _SAME_PLACE_M:g} mm, {_SAME_TURN_RAD:g} rad): is the tool centre "
                "point right, and the model?"
            )

    def _tool_offsets(self, kinematics: Kinematics) -> tuple[float, float]:
        """Returns distance and angle between both, as parts of what is allowed."""
        pose = np.array(self._receive.getActualTCPPose())
        position, rotation = kinematics.tool(self._receive.getActualQ())
        distance = float(np.linalg.norm(pose[:3] - position))
        turn = float(np.linalg.norm(rotations.log(rotations.exp(pose[3:]) @ rotation.T)))
        return distance / _SAME_PLACE_M, turn / _SAME_TURN_RAD

    def set_watchdog(self, period_s: float) -> None:
        """Has the program ended where nothing comes for that long; from now on, so something has
        to come soon.

        Raises:
            ConnectionFailed: the controller refused it.
        """
        self._watchdog_s = period_s
        self._set({"watchdog": lambda: self._control.setWatchdog(1.0 / period_s)})

    def _set(self, settings: dict[str, Callable[[], bool]]) -> None:
        refused = [name for name, set_it in settings.items() if not set_it()]
        if refused:
            receive = self._receive
            raise ConnectionFailed(
                f"{self._host}: the controller did not take {', '.join(refused)} (program state "
                f"{receive.getRuntimeState()}, safety bits {receive.getSafetyStatusBits():#x})"
            )

    def read(self, now: float) -> Reading:
        """Returns the controller's newest state; never a wait.

        Raises:
            LinkLost: one of the connections is closed.
        """
        receive = self._receive
        if not (receive.isConnected() and self._control.isConnected()):
            raise LinkLost(f"{self._host}: the controller closed the RTDE connection")
        timestamp = receive.getTimestamp()
        return Reading(
            timestamp_s=timestamp,
            age_s=self._clock.age(timestamp, now),
            joints=np.array(receive.getActualQ()),
            speeds=np.array(receive.getActualQd()),
            force=np.array(receive.getActualTCPForce()),
            speed_scaling=receive.getSpeedScaling() * receive.getTargetSpeedFraction(),
            robot_mode=receive.getRobotMode(),
            robot_bits=receive.getRobotStatus(),
            safety_bits=receive.getSafetyStatusBits(),
            runtime_state=receive.getRuntimeState(),
            digital_inputs=receive.getActualDigitalInputBits(),
            digital_outputs=receive.getActualDigitalOutputBits(),
        )

    def servo(self, q: Array) -> bool:
        """Sends one target [6] (rad); False where the controller's program does not run."""
        # servoJ itself takes a target of any length, and NaN.
        if q.shape != (6,) or not np.isfinite(q).all():
            raise ValueError(f"a servo target is 6 finite numbers, not {q}")
        return self._control.servoJ(q.tolist(), *self._servo_parameters)

    def kick_watchdog(self) -> bool:
        """Tells the controller that we are here while nothing moves."""
        return self._control.kickWatchdog()

    def close(self) -> None:
        """Disconnects, for a process that goes on; it takes a second."""
        self._control.disconnect()
        self._receive.disconnect()
        self._reservation.close()

    def release(self) -> threading.Thread:
        """Stops the servo in a thread and lets the program run on; nothing may be sent
        meanwhile.

        So nothing tells the watchdog of us. It has to be patient then: the arm is at rest.
        """

        return _start(lambda: self._patiently(lambda: self._control.servoStop(_STOP_DECELERATION)))

    def free(self, is_on: bool) -> threading.Thread:
        """Begins or ends freedrive in a thread; nothing may be sent meanwhile."""
        change = self._control.freedriveMode if is_on else self._control.endFreedriveMode
        return _start(lambda: self._patiently(change))

    def _patiently(self, work: Callable[[], object]) -> None:
        """Does what can take longer than the watchdog waits, and of which nothing moves."""
        self._control.setWatchdog(1.0 / RELEASE_TIME_S)
        work()
        self._control.setWatchdog(1.0 / self._watchdog_s)

    def end_program(self, was_servoing: bool) -> threading.Thread:
        """Stops the servo, then the program, in a thread: either call can wait for minutes.

        The thread is over when the program has ended; whoever waits for it sets the bound.
        """

        def end() -> None:
            # Another motion, and the end of the program too, must not meet a servo in effect.
            if was_servoing:
                self._control.servoStop(_STOP_DECELERATION)
            self._control.stopScript()

        return _start(end)

    def abandon_program(self) -> threading.Thread:
        """Ends a program that the controller has stopped or paused, in a thread.

        A paused program would go on towards its last target as soon as the pause ends, and one
        that is sent anew would find the last command in its register.
        """

        def end() -> None:
            stop_program(self._host)
            self._control.servoStop(_STOP_DECELERATION)  # not carried out: it clears the register

        return _start(end)


def _reserve(host: str) -> socket.socket:
    """Returns what keeps other drivers of this computer from the same controller, until the process
    ends. (From other computers its registers do, and that it runs a program.)

    Raises:
        ConnectionFailed: another one has it.
    """
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0lerobot_robot_ur {socket.gethostbyname(host)}")
    except OSError as error:
        reservation.close()
        if error.errno == errno.EADDRINUSE:
            error = "another program on this computer drives this arm"
        raise ConnectionFailed(f"{host}: {error}") from None
    return reservation


def _becomes(condition: Callable[[], bool]) -> bool:
    """Waits a little for what has just been set to be told by the controller."""
    deadline = time.monotonic() + _TOLD_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _connect_control(host: str, receive: RTDEReceiveInterface) -> RTDEControlInterface:
    for attempt in range(_CONNECT_ATTEMPTS):
        state = receive.getRuntimeState()
        if state not in (RuntimeState.STOPPED, RuntimeState.STOPPING):
            raise ConnectionFailed(f"{host}: another program has begun (program state {state})")
        try:
            return RTDEControlInterface(host)
        except RuntimeError as error:
            if "in use" not in str(error) or attempt + 1 == _CONNECT_ATTEMPTS:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


def _rtde_sockets() -> set[int]:
    """Returns descriptors of connections to RTDE servers, which ur-rtde does not give."""
    found = set()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as duplicate:
                if duplicate.getpeername()[1:2] == (RTDE_PORT,):
                    found.add(descriptor)
        except OSError:
            continue  # not connected, or the listing's own, which is closed again
    return found


def _start(work: Callable[[], None], role: Role = Role.ASIDE) -> threading.Thread:
    def run() -> None:
        take_priority(role)
        work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
