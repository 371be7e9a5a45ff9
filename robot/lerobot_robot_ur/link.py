"""Everything of ur-rtde in one place. It is used inside the servo process only.

ur-rtde 1.6.5 can crash when its socket drops, blocks in its constructors with the interpreter lock
held, and goes on returning old values; what is done about each stands where it is done.
"""

from __future__ import annotations

import math
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface

from .dashboard import stop_program
from .errors import ConnectionFailed, RobotError

Array = NDArray[np.float64]

RTDE_PORT = 30004
_STOP_DECELERATION = 2.0  # m/s^2 of servoStop, for what the trajectory left moving
_OFFSET_WINDOW_S = 5.0
_TIME_CONSTANTS = 3.0
_CONNECT_ATTEMPTS = 5  # the controller frees the registers of a lost client a little later
_VARIABLES = [
    "timestamp",
    "actual_q",
    "actual_qd",
    "actual_TCP_force",
    "speed_scaling",
    "target_speed_fraction",
    "robot_mode",
    "robot_status_bits",
    "safety_status_bits",
    "runtime_state",
]


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


class PacketClock:
    """How old a packet is, from the timestamp in it.

    A connection that is open says nothing (ur-rtde returns old values for ever): what counts is how
    far the controller's clock has fallen behind the earliest that any packet of the last seconds
    arrived. That notices output that is frozen, late, or slow.
    """

    def __init__(self) -> None:
        self._offsets: deque[tuple[float, float]] = deque()

    def age(self, timestamp_s: float, now: float) -> float:
        """Returns age (s) at `now` (time.monotonic) of a packet stamped `timestamp_s`."""
        offset = now - timestamp_s
        offsets = self._offsets
        while offsets and offsets[-1][1] >= offset:
            offsets.pop()
        if not offsets or now - offsets[-1][0] > _OFFSET_WINDOW_S / 10:
            offsets.append((now, offset))
        while len(offsets) > 1 and now - offsets[0][0] > _OFFSET_WINDOW_S:
            offsets.popleft()
        return max(0.0, offset - offsets[0][1])


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
        others = _rtde_sockets()
        try:
            self._receive = RTDEReceiveInterface(host, variables=_VARIABLES)
            self._control = _connect_control(host)
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

        _start(watch)

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

    def set_watchdog(self, period_s: float) -> None:
        """Has the program ended where nothing comes for that long; from now on, so something has
        to come soon.

        Raises:
            ConnectionFailed: the controller refused it.
        """
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

    def release(self) -> threading.Thread:
        """Stops the servo in a thread and lets the program run on; nothing may be sent
        meanwhile."""
        return _start(lambda: self._control.servoStop(_STOP_DECELERATION))

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


def _connect_control(host: str) -> RTDEControlInterface:
    for attempt in range(_CONNECT_ATTEMPTS):
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


def _start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
