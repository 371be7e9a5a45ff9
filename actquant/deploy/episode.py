"""One episode: the control loop from its first observation to its end."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import (
    RecordingError,
    RefusedError,
    RobotError,
    StaleStateError,
    StoppedError,
)
from actquant.control.chunk_scheduler import ChunkScheduler, Tick
from actquant.control.loop import run_loop
from actquant.control.window import ObservationWindow
from actquant.deploy.events import EventLog
from actquant.deploy.journal import Frame, Journal
from actquant.deploy.latency import Latencies, MotionWatch, is_at_rest
from actquant.deploy.policy import Inference, Seen, TimedPolicy
from actquant.deploy.port import RobotState
from actquant.deploy.report import Ending, EpisodeReport
from actquant.deploy.robot import Robot
from actquant.deploy.settling import settle
from actquant.deploy.smoothness import Smoothness
from actquant.deploy.stopping import StopRequest

if TYPE_CHECKING:
    from actquant.deploy.rerun_log import RerunLog


@dataclass
class Rules:
    """When an episode ends, and whether anything moves.

    `is_done` is asked once a tick whether the task is done, if anybody can know. `settle_s`: how
    long at most to wait, before each observation for a chunk in `sync`, until the arm has arrived.
    """

    max_seconds: float
    max_refusals: int
    dry_run: bool = False
    is_done: Callable[[], bool] | None = None
    max_actions: int | None = None
    settle_s: float = 0.0


@dataclass
class _Counts:
    ticks: int = 0
    actions: int = 0
    holds: int = 0
    late_ticks: int = 0
    unsettled: int = 0
    in_a_row: int = 0
    refusals: dict[str, int] = field(default_factory=dict)


class Episode:
    """The robot as the control loop's world, and what becomes of an episode. `run` returns the
    report.

    Latencies, by name: `settling`, `camera to observation`, `observation to inference`,
    `inference`, `inference to action`, `camera to action` (of each chunk's first action), `action
    to motion` and `camera to motion` (of those, where the arm stood before), `tick` (the loop's
    work in one tick after settling; in `sync` with the inference, if there is one), `lateness` (of
    ticks against the clock).

    Attributes:
        journal: of this episode; None before the first action, or if nothing is recorded.
    """

    def __init__(
        self,
        number: int,
        robot: Robot,
        policy: TimedPolicy,
        scheduler: ChunkScheduler,
        rules: Rules,
        events: EventLog,
        stop: StopRequest,
        begin_journal: Callable[[Seen], Journal] | None = None,
        rerun: "RerunLog | None" = None,
    ) -> None:
        self._number, self._robot, self._policy = number, robot, policy
        self._scheduler, self._rules, self._events = scheduler, rules, events
        self._stop, self._begin_journal, self._rerun = stop, begin_journal, rerun
        self.journal: Journal | None = None
        self._window = ObservationWindow(policy.observation_steps)
        self._counts, self._latencies = _Counts(), Latencies()
        self._smoothness = Smoothness(robot.period_s)
        self._chunk = self._executed_chunk = -1
        self._inference: Inference | None = None
        self._is_still, self._thought_s = False, 0.0
        self._checked: Any = None
        self._holding = True
        self._idle_since: float | None = None
        self._due_s = self._tick_began_s = 0.0

    def run(self) -> EpisodeReport:
        """Runs to the episode's end; the arm is at rest, or stopping, when it returns."""
        self._events.add("episode begins", self._number_text)
        self._scheduler.reset()
        self._watch = MotionWatch(self._read_state)
        began_s = time.monotonic()
        self._began_clock_s = self._due_s = self._robot.port.clock()
        try:
            ending = run_loop(self, self._scheduler)
        finally:
            self._come_to_rest()
            self._watch.close()
        seconds = time.monotonic() - began_s
        for motion in self._watch.motions:
            self._latencies.add("action to motion", motion.moved_s - motion.sent_s)
            self._latencies.add("camera to motion", motion.moved_s - motion.camera_time_s)
        self._drain_arm_events()
        self._events.add("episode ends", ending.detail, ending=ending.kind, seconds=seconds)
        counts = self._counts
        return EpisodeReport(
            number=self._number,
            ending=ending,
            seconds=seconds,
            ticks=counts.ticks,
            actions=counts.actions,
            chunks=self._executed_chunk + 1,
            holds=counts.holds,
            late_ticks=counts.late_ticks,
            unsettled=counts.unsettled,
            refusals=counts.refusals,
            latency_ms=self._latencies.percentiles(),
            jerk_rad_s3=self._smoothness.jerk(),
        )

    @property
    def _number_text(self) -> str:
        return f"episode {self._number}, mode {self._scheduler.mode}"

    def next_tick(self) -> Ending | None:
        """Waits for `begin + k * period` of the robot's clock: a late tick shifts none of those
        after it."""
        try:
            if self._counts.ticks:
                self._end_tick()
            if self._robot.wait_until(self._due_s, self._stop):
                return self._operators_ending()
            now = self._robot.port.clock()
        except RobotError as error:
            return self.failed(error)
        self._tick_began_s = time.monotonic()
        if now - self._began_clock_s >= self._rules.max_seconds:
            return Ending(kind="time limit", detail=f"{self._rules.max_seconds:g} s")
        self._latencies.add("lateness", now - self._due_s)
        return None

    def _end_tick(self) -> None:
        """Notes how long a tick took, and moves on to the next that is not past already."""
        self._latencies.add("tick", time.monotonic() - self._tick_began_s)
        now, period = self._robot.port.clock(), self._robot.period_s
        missed = max(0, int((now - self._due_s) / period))
        self._counts.late_ticks += missed
        self._due_s += (missed + 1) * period

    def failed(self, error: Exception) -> Ending | None:
        """Returns what follows from an error of the robot or the recording."""
        try:
            if isinstance(error, StaleStateError):
                return self._refuse("stale", [str(error)])
            raise error
        except StoppedError as stopped:
            if self._stop.is_set:  # it is the operator's stop that the arm reports
                return self._operators_ending()
            return Ending(kind="stopped", detail=str(stopped))
        except RecordingError as broken:
            return Ending(kind="recording", detail=str(broken))
        except RobotError as broken:
            return Ending(kind="robot error", detail=str(broken))

    def policy_failed(self, error: Exception) -> Ending:
        """Ends the episode, not the program, whatever the policy raised."""
        return Ending(kind="policy", detail=f"{type(error).__name__}: {error}")

    def _operators_ending(self) -> Ending:
        return Ending(kind="operator", detail=self._stop.by)

    def prepare(self) -> Ending | None:
        """Looks whether the episode is over; lets the arm settle before a chunk in `sync`."""
        self._counts.ticks += 1
        self._drain_arm_events()
        self._events.check()
        rules = self._rules
        if rules.is_done is not None and rules.is_done():
            return Ending(kind="done", detail="the task is done")
        if rules.max_actions is not None and self._counts.actions >= rules.max_actions:
            return Ending(kind="time limit", detail=f"{rules.max_actions} actions")
        if self._scheduler.mode == "sync" and self._scheduler.is_chunk_due:
            self._settle()
            self._tick_began_s = time.monotonic()
        return self._operators_ending() if self._stop.is_set else None

    def observe(self) -> tuple[Seen, float]:
        """Observes the robot; returns the window that ends with it."""
        seen = self._seen = self._robot.observe()
        if seen.camera_time_s is not None:
            self._latencies.add("camera to observation", seen.made_s - seen.camera_time_s)
        self._window.append(dict(seen.raw))
        return dataclasses.replace(seen, raw=self._window.observation), seen.clock_s

    def _settle(self) -> None:
        """Waits for the arm, so that the next chunk answers to what it has done."""
        self._is_still = self._rules.dry_run
        if not self._rules.settle_s:
            return
        settled = settle(self._robot, self._stop, self._rules.settle_s)
        self._due_s += settled.clock_s
        self._latencies.add("settling", settled.seconds)
        if settled.lacking:
            self._counts.unsettled += 1
            self._events.add("not settled", settled.lacking, seconds=settled.seconds)
        self._is_still = settled.is_still
        if settled.is_still and not self._holding and not self._stop.is_set:
            self._robot.hold_position()

    def execute(self, tick: Tick) -> Ending | None:
        """Executes the action, unless it is too old or the robot refuses it."""
        self._idle_since = None
        is_first = tick.chunk != self._chunk
        if is_first:
            self._chunk = tick.chunk
            self._inference = self._policy.take_inference(tick.observation_time_s)
            # What the policy took to think has changed nothing of what an arm at rest had seen.
            is_still = self._scheduler.mode == "sync" and self._is_still
            self._thought_s = tick.age_s if is_still else 0.0
        late, limit = self._lateness(tick), self._robot.oldest_action_s
        if late > limit:
            self._scheduler.refused()
            return self._refuse("old action", [f"it is {late:.2f} s late, limit {limit:.2f} s"])
        try:
            ending = self._send(tick, is_first)
        except RefusedError as refused:
            self._scheduler.refused()
            return self._refuse("refused", refused.reasons)
        except StaleStateError as stale:
            self._scheduler.refused()
            return self._refuse("stale", [str(stale)])
        self._counts.in_a_row = 0
        return ending

    def _lateness(self, tick: Tick) -> float:
        """Returns how long after its time an action comes (s, of the robot's clock)."""
        return tick.age_s - tick.index * self._robot.period_s - self._thought_s

    def _send(self, tick: Tick, is_first: bool) -> Ending | None:
        seen = self._seen
        if self._begin_journal is not None and self.journal is None:
            self.journal = self._begin_journal(seen)
        state = self._robot.port.state()
        if self._stop.is_set:
            return self._operators_ending()
        if self._rules.dry_run:
            sent = self._check(tick, is_first)
        else:
            sent = self._robot.send(tick.action, tick.upcoming)
            self._holding = False
        sent_s = time.monotonic()
        if self._stop.is_set:  # it was sent into a stop: the hold that follows takes it back
            return self._operators_ending()
        self._counts.actions += 1
        if tick.seam:
            self._events.add("seam", chunk=tick.chunk, delay=tick.delay, age_s=tick.age_s)
        self._executed_chunk = tick.chunk
        if is_first:
            self._note_times(sent_s)
        if not self._rules.dry_run:
            self._watch_for_motion(sent_s, state, is_first)
        self._smoothness.add(sent_s, state.commanded, tick.seam)
        if self.journal is not None:
            self.journal.append(self._frame(self.journal, tick, seen, sent))
        if self._rerun is not None:
            self._rerun.frame(seen, sent, tick)
        return None

    def _check(self, tick: Tick, is_first: bool) -> Any:
        """Checks an action, in place of sending it, from where it would find the arm; returns it.

        A chunk begins where it saw the arm at rest, but in `rtc`: there it goes on from the one
        before.
        """
        goes_on = not is_first or self._scheduler.mode == "rtc"
        start = self._checked if goes_on else None
        self._checked = self._robot.check(tick.action, tick.upcoming, start)
        if self._scheduler.mode != "rtc":
            self._scheduler.not_executed()
        return tick.action

    def _note_times(self, sent_s: float) -> None:
        """Notes what the first action of a chunk tells of the path from its observation."""
        inference = self._inference
        if inference is None:
            return
        add = self._latencies.add
        add("observation to inference", inference.begin_s - inference.made_s)
        add("inference", inference.end_s - inference.begin_s)
        add("inference to action", sent_s - inference.end_s)
        if inference.camera_time_s is not None:
            add("camera to action", sent_s - inference.camera_time_s)

    def _watch_for_motion(self, sent_s: float, before: RobotState, is_first: bool) -> None:
        """Watches for the motion that an action causes.

        `before`: the arm's state just before it was sent.
        """
        self._watch.goes_on(before.commanded)
        camera_time_s = self._inference.camera_time_s if self._inference is not None else None
        if is_first and camera_time_s is not None and is_at_rest(before.joint_speeds):
            self._watch.sent(camera_time_s, sent_s, before.joints, before.commanded)

    def _frame(self, journal: Journal, tick: Tick, seen: Seen, sent: Any) -> Frame:
        return Frame(
            time_s=time.time(),
            state=np.asarray(seen.raw.get("observation.state", ()), np.float32),
            action=sent,
            images={name: seen.raw[name] for name in journal.header.cameras},
            extra={"tick": self._counts.ticks, "chunk": tick.chunk, "index": tick.index},
        )

    def wait_for_policy(self) -> Ending | None:
        """Holds, as there is nothing to execute; a policy that stays silent for too long ends the
        episode."""
        self._hold("no action")
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        limit = self._robot.port.stop_after_s
        if now - self._idle_since > limit:
            return Ending(kind="policy", detail=f"no action for {limit:g} s")
        return None

    def _refuse(self, kind: str, reasons: list[str]) -> Ending | None:
        counts = self._counts
        counts.in_a_row += 1
        counts.refusals[kind] = counts.refusals.get(kind, 0) + 1
        self._events.add(kind, "; ".join(reasons), reasons=reasons, in_a_row=counts.in_a_row)
        self._hold(kind)
        if counts.in_a_row < self._rules.max_refusals:
            return None
        return Ending(
            kind="refusals", detail=f"{counts.in_a_row} in a row, the last: {'; '.join(reasons)}"
        )

    def _hold(self, why: str) -> None:
        self._counts.holds += 1
        if not self._holding:
            self._holding = True
            self._events.add("hold", why)
            self._robot.port.hold()

    def _come_to_rest(self) -> None:
        """Holds, unless the arm has stopped by itself.

        In the operator's stop too: what may have been sent at the same time is taken back, of the
        gripper also.
        """
        has_stopped = self._robot.port.stopped is not None and not self._stop.is_set
        if self._rules.dry_run or has_stopped:
            return
        try:
            self._robot.port.hold()
        except RobotError as error:
            self._events.add("hold failed", str(error))

    def _drain_arm_events(self) -> None:
        for event in self._robot.port.events():
            self._events.add(f"arm: {event.kind}", event.detail, happened_s=event.time_s)

    def _read_state(self) -> tuple[float, NDArray[np.float64]]:
        state = self._robot.port.state()
        return state.time_s, state.joints
