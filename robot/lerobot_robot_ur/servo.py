"""The servo loop: read the state, look after safety, take the newest command, send one target.

It runs in a process of its own (`servo_process`) at 500 Hz (CB3: 125 Hz) and never waits for
anybody: not for the policy, not for its parent, not for a call of ur-rtde that can block.
"""

from __future__ import annotations

import os
import time
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from .channel import Channel, ChannelClosed
from .errors import Refused
from .guard import Guard
from .limits import Limits
from .link import RELEASE_TIME_S, Link, LinkLost, Reading
from .messages import REFUSED, Free, Halt, Hold, Move, Report, StopReport
from .pace import ArmClock, Following, is_scaling
from .realtime import Role, take_priority
from .shared import Phase, ServoState, SharedMemory
from .stops import REDUCED, REMEDIES, StopKind, classify
from .trajectory import JointTrajectory

Array = NDArray[np.float64]

# For a controlled stop; what then still moves is stopped by the controller. Well below the 2.5 s
# after which ur-rtde takes a silent controller for lost and connects anew.
_STOP_TIME_S = 1.0
_END_TIME_S = 2.0  # for the end of the program
_HANGING_WATCHDOGS, _HANGING_S = 5.0, 2.0  # for one cycle, in the watchdog's times; at most
_SETTLING_S = 0.6  # after the last target; three times the largest lookahead
_THERE_RAD, _STILL_RAD_S = 2e-3, 0.01
_LARGEST_STEP = 2  # periods by which a target may move on after a late cycle
_PARTED_S = 0.5  # that the arm may stay away from where it was told to be, holding
_FULL_SPEED = 0.99


class ServoLoop:
    """See the module. `run` returns when the process is to end."""

    def __init__(
        self, link: Link, limits: Limits, guard: Guard, period_s: float,
        channel: Channel, shared: SharedMemory, watchdog_s: float = 0.1,
    ):  # fmt: skip
        self._hanging_s = min(_HANGING_WATCHDOGS * watchdog_s, _HANGING_S)
        self._link, self._limits, self._guard = link, limits, guard
        self._period, self._channel, self._shared = period_s, channel, shared
        self._trajectory = JointTrajectory(limits, period_s, guard.kinematics)
        self._phase = Phase.IDLE
        self._stop: StopKind | None = None
        self._leave = False
        self._ending: Thread | None = None
        self._deadline = 0.0
        now = time.monotonic()
        self._cycle_began = now
        # It also stands still where a late cycle is cut to a few periods.
        self._clock = ArmClock(now)
        self._following = Following(period_s, link.lag_s)
        self._parted_since: float | None = None
        self._is_slowed = False
        self._reduced_rate = min(1.0, limits.reduced_speed_m_s / limits.tool_speed_m_s)
        self._is_reduced = self._has_other_payload = False
        self._wants_free = False
        self._released = Phase.IDLE  # what follows when the thread that is waited for has ended
        self._sequence = 0
        self._due = now  # by the arm's clock: when the next command is expected
        self._is_streamed = self._is_holding = self._has_refused = False
        self._rest_began = now
        self._commanded: Array | None = None
        self._waiting: Move | None = None

    def run(self) -> None:
        """Cycles until told to leave, or until the link or the parent is gone."""
        self._link.watch(self._leave_on_hangup)
        self._cycle_began = now = time.monotonic()
        self._clock = ArmClock(now)
        Thread(target=self._leave_if_it_hangs, daemon=True).start()
        self._shared.start_periods(now)
        wake = now
        while not self._is_over:
            self.cycle()
            wake += self._period
            now = time.monotonic()
            if wake > now:
                time.sleep(wake - now)
            elif now - wake > self._period:
                wake = now

    def _leave_on_hangup(self) -> None:
        """Ends the process before ur-rtde notices that its connection is gone."""
        self._leave_at_once(StopKind.LINK_LOST, "the controller closed an RTDE connection")
        os._exit(1)

    def _leave_if_it_hangs(self) -> None:
        """Ends the process where a call of ur-rtde does not return, as without output it may not.

        The controller's watchdog has ended the program long before.
        """
        take_priority(Role.WATCH)
        while time.monotonic() - self._cycle_began < self._hanging_s:
            time.sleep(self._hanging_s / 5)
        self._leave_at_once(StopKind.LINK_LOST, "a call of ur-rtde did not return")
        os._exit(1)

    @property
    def _is_over(self) -> bool:
        if self._phase != Phase.STOPPED or not self._leave:
            return False
        # A program that is only paused would go on by itself: it has to be ended first.
        is_ending = self._ending is not None and self._ending.is_alive()
        return not is_ending or time.monotonic() > self._deadline

    def cycle(self) -> None:
        """Does one period's work, without the wait for the next."""
        now = time.monotonic()
        elapsed = now - self._cycle_began
        self._cycle_began = now
        self._shared.add_period(elapsed, now, self._period)
        try:
            reading = self._link.read(now)
        except LinkLost as lost:
            self._leave_at_once(StopKind.LINK_LOST, str(lost))
            return
        if self._commanded is None or (
            self._phase in (Phase.IDLE, Phase.FREE) and reading.is_finite
        ):
            self._commanded = reading.joints
        self._take_commands(reading)
        self._look_after(reading, now)
        step = min(elapsed, _LARGEST_STEP * self._period)
        is_reduced = bool(reading.safety_bits & REDUCED)
        self._clock.advance(step, self._scaling(reading), self._reduced_rate if is_reduced else 1.0)
        self._act(step, now, reading)
        self._publish(reading, now)

    def _scaling(self, reading: Reading) -> float:
        """Returns how fast the arm's time passes; nobody must wait for that of a stopped one."""
        if self._phase in (Phase.ENDING, Phase.STOPPED):
            return 1.0
        return reading.speed_scaling if is_scaling(reading.speed_scaling) else 0.0

    def _take_commands(self, reading: Reading) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosed:
            messages = []
            if not self._leave:
                self._leave = True
                self._begin_stop(StopKind.PARENT_LOST, "the process that commands is gone")
        for message in messages:
            if isinstance(message, Move):
                self._waiting = message
            elif isinstance(message, Hold):
                self._sequence, self._waiting = message.sequence, None
                self._is_streamed = False
                if self._phase == Phase.SERVOING:
                    self._trajectory.hold()
            elif isinstance(message, Free):
                self._sequence, self._waiting = message.sequence, None
                self._is_streamed, self._wants_free = False, message.is_on
                if self._phase == Phase.SERVOING:
                    self._trajectory.hold()
            elif isinstance(message, Halt):
                self._leave |= message.leave
                self._begin_stop(StopKind.REQUESTED, message.reason)
        if self._waiting is not None and self._phase != Phase.RELEASING:
            self._move(self._waiting, reading)
            self._waiting = None

    def _move(self, move: Move, reading: Reading) -> None:
        self._sequence, self._has_refused = move.sequence, False
        if self._wants_free or self._phase == Phase.FREE:
            self._report_refusal("the arm is led by hand")
            return
        self._is_streamed, self._is_holding = move.is_streamed, False
        self._due = max(self._clock.time_s, float(move.times_s[0]))
        if self._phase == Phase.IDLE:
            self._trajectory.reset(reading.joints)
            self._following.reset(reading.joints)
            self._commanded, self._parted_since = reading.joints, None
            self._phase = Phase.SERVOING
        if self._phase == Phase.SERVOING and self._parted_since is not None:
            self._report_refusal("the arm is not yet back where it was told to be")
        elif self._phase == Phase.SERVOING:
            self._trajectory.retarget(move.joints, move.times_s)

    def _look_after(self, reading: Reading, now: float) -> None:
        """Looks after everything but a command that can end the motion."""
        if self._phase in (Phase.ENDING, Phase.STOPPED):
            return
        kind = classify(
            reading.safety_bits, reading.robot_bits, reading.runtime_state, reading.robot_mode
        )
        if kind is None and not reading.is_finite:
            kind = StopKind.UNREADABLE
        if kind is not None:
            self._stopped_by_controller(kind, reading)
        elif reading.age_s > self._limits.max_state_age_s:
            self._leave = True
            self._begin_stop(StopKind.STALE, f"the state is {reading.age_s:.3f} s old")
        elif now - self._shared.heartbeat_s > self._limits.max_heartbeat_age_s:
            self._leave = True
            silent = now - self._shared.heartbeat_s
            self._begin_stop(StopKind.PARENT_LOST, f"no sign of life for {silent:.1f} s")
        elif not is_scaling(reading.speed_scaling):
            self._leave = True
            detail = f"the controller gives {reading.speed_scaling} as its speed scaling"
            self._begin_stop(StopKind.UNREADABLE, detail)
        elif self._phase == Phase.SERVOING:
            self._look_after_following(reading, now)
            if self._is_streamed:
                self._look_after_policy(self._clock.time_s - self._due)
        if self._stop is None:
            self._tell_of_changes(reading)

    def _tell_of_changes(self, reading: Reading) -> None:
        """Reports what slows the arm down, and a payload that somebody else has set."""
        is_slowed = reading.speed_scaling < _FULL_SPEED
        if is_slowed != self._is_slowed:
            self._is_slowed = is_slowed
            percent = f"{100 * reading.speed_scaling:.0f} % of its speed"
            self._report("slowed", f"the controller lets the arm move at {percent}")
        is_reduced = bool(reading.safety_bits & REDUCED)
        if is_reduced != self._is_reduced:
            self._is_reduced = is_reduced
            held_to = f"at most {self._limits.reduced_speed_m_s:g} m/s"
            self._report("reduced", f"reduced mode, {held_to}" if is_reduced else "normal mode")
        has_other = self._link.has_other_payload()
        if has_other != self._has_other_payload:
            self._has_other_payload = has_other
            self._report("payload", self._link.describe_payload())

    def _look_after_following(self, reading: Reading, now: float) -> None:
        """Holds, then stops, an arm that does not go where it is told."""
        off = self._following.deviation(reading.joints, reading.age_s)
        limit = self._limits.max_deviation_rad
        if off <= limit:
            self._parted_since = None
            return
        detail = f"a joint is {off:.3f} rad from where it was told to be, limit {limit:g}"
        if self._parted_since is None:
            self._parted_since = now
            self._trajectory.hold()
            self._report("hold", detail)
        elif now - self._parted_since > _PARTED_S:
            self._begin_stop(StopKind.DEVIATION, detail)

    def _look_after_policy(self, late: float) -> None:
        if late > self._limits.stop_after_s:
            self._begin_stop(StopKind.POLICY_LATE, f"the next action is {late:.2f} s late")
        elif late > self._limits.hold_after_s and not self._is_holding:
            self._is_holding = True
            self._trajectory.hold()
            self._report("hold", f"the next action is {late:.2f} s late")

    def _stopped_by_controller(self, kind: StopKind, reading: Reading) -> None:
        self._ending = self._link.abandon_program()
        self._phase, self._deadline = Phase.STOPPED, time.monotonic() + _END_TIME_S
        detail = (
            f"safety bits {reading.safety_bits:#x}, robot mode {reading.robot_mode}, "
            f"program state {reading.runtime_state}"
        )
        if kind in REMEDIES:
            detail += f": {REMEDIES[kind]}"
        self._report_stop(kind, detail)

    def _begin_stop(self, kind: StopKind, detail: str) -> None:
        """Decelerates along the trajectory, then ends the program; in a stop, does nothing."""
        if self._stop is not None:
            return
        self._report_stop(kind, detail)
        if self._phase in (Phase.IDLE, Phase.FREE):
            self._end()
        elif self._phase == Phase.SERVOING:
            self._trajectory.hold()
            self._phase, self._deadline = Phase.STOPPING, time.monotonic() + _STOP_TIME_S

    def _end(self) -> None:
        if self._stop == StopKind.STALE:
            # Asked anything that it answers, ur-rtde would wait for output that does not come and
            # then connect anew. Silence lets the controller's watchdog end the program.
            self._phase = Phase.STOPPED
            return
        self._ending = self._link.end_program(was_servoing=self._phase == Phase.STOPPING)
        self._phase, self._deadline = Phase.ENDING, time.monotonic() + _END_TIME_S

    def _act(self, step: float, now: float, reading: Reading) -> None:
        if self._phase in (Phase.IDLE, Phase.FREE):
            if self._wants_free == (self._phase == Phase.FREE):
                self._link.kick_watchdog()
                return
            self._ending = self._link.free(self._wants_free)
            self._released = Phase.FREE if self._wants_free else Phase.IDLE
            self._phase, self._deadline = Phase.RELEASING, now + RELEASE_TIME_S
        elif self._phase == Phase.SERVOING:
            self._servo(step)
            if not self._is_streamed and self._has_settled(reading):
                self._ending, self._released = self._link.release(), Phase.IDLE
                self._phase, self._deadline = Phase.RELEASING, now + RELEASE_TIME_S
        elif self._phase == Phase.RELEASING:
            if self._is_done(now, "the servo did not stop in time"):
                self._phase = self._released
                if self._stop is not None:
                    self._end()
        elif self._phase == Phase.STOPPING:
            self._servo(step)
            if now > self._deadline or self._has_settled(reading):
                self._end()
        elif self._phase == Phase.ENDING and self._is_done(now, "the program did not end in time"):
            self._phase = Phase.STOPPED

    def _has_settled(self, reading: Reading) -> bool:
        """Returns whether the arm, which lags by servoJ's lookahead, is where it was told to be."""
        assert self._commanded is not None
        if not self._trajectory.is_at_rest:
            self._rest_began = self._clock.time_s
            return False
        if self._clock.time_s - self._rest_began > _SETTLING_S:
            return True
        is_fresh = reading.age_s < self._limits.max_state_age_s
        is_there = np.abs(reading.joints - self._commanded).max() < _THERE_RAD
        return bool(is_fresh and is_there and np.abs(reading.speeds).max() < _STILL_RAD_S)

    def _is_done(self, now: float, otherwise: str) -> bool:
        """Returns whether the thread that is waited for has ended; past its time the process
        does."""
        assert self._ending is not None
        if not self._ending.is_alive():
            return True
        if now > self._deadline:
            self._leave_at_once(StopKind.LINK_LOST, otherwise)
        return False

    def _servo(self, step: float) -> None:
        assert self._commanded is not None
        now = self._clock.time_s
        q, _, _ = self._trajectory.step(now)
        if (refused := self._refusal(q, step)) is not None:
            self._report_refusal(str(refused))
            self._trajectory.brake()
            q, _, _ = self._trajectory.step(now)
            if self._refusal(q, step) is not None:
                # Braking leads on to where the arm must not be: stay at the last good target.
                self._trajectory.reset(self._commanded)
                q = self._commanded
        elif self._trajectory.fault is not None:
            self._report_refusal(self._trajectory.fault)
        if self._link.servo(q):
            self._commanded = q
            self._following.told(now, q)

    def _refusal(self, q: Array, step: float) -> Refused | None:
        assert self._commanded is not None
        try:
            self._guard.check_target(q, self._commanded, max(step, self._period))
        except Refused as refused:
            return refused
        return None

    def _report_refusal(self, reasons: str) -> None:
        """Reports once for each command: what follows is the same one's."""
        if not self._has_refused:
            self._has_refused = True
            self._report(REFUSED, f"in motion: {reasons}")

    def _publish(self, reading: Reading, now: float) -> None:
        assert self._commanded is not None
        is_idle = self._phase in (Phase.IDLE, Phase.FREE)
        has_no_path = is_idle or self._phase in (Phase.ENDING, Phase.STOPPED)
        self._shared.write(
            ServoState(
                time_s=now,
                timestamp_s=reading.timestamp_s,
                age_s=reading.age_s,
                joints=reading.joints,
                speeds=reading.speeds,
                commanded=self._commanded,
                force=reading.force,
                speed_scaling=reading.speed_scaling,
                clock_s=self._clock.time_s,
                clock_rate=1.0 if has_no_path and not is_idle else self._clock.rate,
                phase=self._phase,
                sequence=self._sequence,
                at_rest=(has_no_path or self._trajectory.is_at_rest)
                and bool(np.abs(reading.speeds).max() < _STILL_RAD_S),
                robot_mode=reading.robot_mode,
                safety_bits=reading.safety_bits,
                robot_bits=reading.robot_bits,
                runtime_state=reading.runtime_state,
                digital_inputs=reading.digital_inputs,
                digital_outputs=reading.digital_outputs,
            )
        )

    def _report_stop(self, kind: StopKind, detail: str) -> None:
        self._stop = kind
        self._send(StopReport(time.monotonic(), kind, detail))

    def _report(self, kind: str, detail: str) -> None:
        self._send(Report(time.monotonic(), kind, detail))

    def _send(self, report: Report) -> None:
        try:
            self._channel.send(report)
        except ChannelClosed:
            return  # nobody is left to be told; the next look for commands notices

    def _leave_at_once(self, kind: StopKind, detail: str) -> None:
        if self._stop is None:
            self._report_stop(kind, detail)
        self._phase, self._leave, self._ending = Phase.STOPPED, True, None
