"""One episode: the control loop from its first observation to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from actquant.chunks import ChunkScheduler, Tick
from actquant.deploy.events import EventLog
from actquant.deploy.journal import Frame, Journal
from actquant.deploy.latency import Latencies, MotionWatch, is_at_rest
from actquant.deploy.policy import Policy, Seen
from actquant.deploy.report import Ending, EpisodeReport, jerk
from actquant.deploy.robot import Robot
from actquant.deploy.settling import settle
from actquant.deploy.stopping import StopRequest
from actquant.errors import RecordingError
from actquant.simulation import Window

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
    in_a_row: int = 0
    refusals: dict[str, int] = field(default_factory=dict)


class Episode:
    """The loop's state. `run` returns the report.

    Latencies, by name: `camera to observation`, `observation to inference`, `inference`,
    `inference to action`, `camera to action` (of each chunk's first action), `action to motion`
    and `camera to motion` (where the arm stood before), `tick` (the work of one tick), `lateness`
    (of ticks against the clock).
    """

    def __init__(
        self,
        number: int,
        robot: Robot,
        policy: Policy,
        scheduler: ChunkScheduler,
        rules: Rules,
        events: EventLog,
        stop: StopRequest,
        journal: Journal | None = None,
        rerun: "RerunLog | None" = None,
    ) -> None:
        self._number, self._robot, self._policy = number, robot, policy
        self._scheduler, self._rules, self._events = scheduler, rules, events
        self._stop, self._journal, self._rerun = stop, journal, rerun
        self._window = Window(policy.observation_steps)
        self._counts, self._latencies = _Counts(), Latencies()
        self._last_chunk = -1
        self._camera_time_s: float | None = None
        self._holding = True
        self._commanded: list[Any] = []
        self._seams: list[bool] = []
        self._idle_since: float | None = None

    def run(self) -> EpisodeReport:
        """Runs to the episode's end; the arm is at rest, or stopping, when it returns."""
        self._events.add("episode begins", self._number_text)
        self._scheduler.reset()
        self._watch = MotionWatch(self._read_state)
        begin = time.monotonic()
        try:
            ending = self._loop(begin)
        finally:
            self._watch.close()
        seconds = time.monotonic() - begin
        for motion in self._watch.motions:
            self._latencies.add("action to motion", motion.moved_s - motion.sent_s)
            self._latencies.add("camera to motion", motion.moved_s - motion.camera_time_s)
        self._come_to_rest(ending)
        self._drain_arm_events()
        self._events.add("episode ends", ending.detail, ending=ending.kind, seconds=seconds)
        counts = self._counts
        return EpisodeReport(
            number=self._number,
            ending=ending,
            seconds=seconds,
            ticks=counts.ticks,
            actions=counts.actions,
            chunks=self._last_chunk + 1,
            holds=counts.holds,
            late_ticks=counts.late_ticks,
            refusals=counts.refusals,
            latency_ms=self._latencies.percentiles(),
            jerk_rad_s3=jerk(self._commanded, self._seams, self._robot.period_s),
        )

    @property
    def _number_text(self) -> str:
        return f"episode {self._number}, mode {self._scheduler.mode}"

    def _loop(self, begin: float) -> Ending:
        """Ticks at `begin + k * period`: a late tick shifts none of those after it."""
        from lerobot_robot_ur.errors import RobotError, Stopped

        period, due = self._robot.period_s, begin
        while True:
            if self._stop.wait_until(due):
                return Ending(kind="operator", detail=self._stop.by)
            now = time.monotonic()
            if now - begin >= self._rules.max_seconds:
                return Ending(kind="time limit", detail=f"{self._rules.max_seconds:g} s")
            self._latencies.add("lateness", now - due)
            try:
                due += self._settle()
                ending = self._tick()
            except Stopped as stopped:
                if self._stop.is_set:  # it is the operator's stop that the arm reports
                    return Ending(kind="operator", detail=self._stop.by)
                return Ending(kind="stopped", detail=str(stopped))
            except RecordingError as error:
                return Ending(kind="recording", detail=str(error))
            except RobotError as error:
                return Ending(kind="stopped", detail=f"{type(error).__name__}: {error}")
            if ending is not None:
                return ending
            self._latencies.add("tick", time.monotonic() - now)
            missed = max(0, int((time.monotonic() - due) / period))
            self._counts.late_ticks += missed
            due += (missed + 1) * period

    def _settle(self) -> float:
        """Waits for the arm where the next chunk answers to what it has done; seconds waited."""
        scheduler, limit = self._scheduler, self._rules.settle_s
        if scheduler.mode != "sync" or not limit or not scheduler.is_chunk_due:
            return 0.0
        seconds = settle(self._robot, self._stop, limit)
        self._latencies.add("settling", seconds)
        return seconds

    def _tick(self) -> Ending | None:
        from lerobot_robot_ur.errors import Refused, StaleState

        self._counts.ticks += 1
        self._drain_arm_events()
        self._events.check()
        rules = self._rules
        if rules.is_done is not None and rules.is_done():
            return Ending(kind="done", detail="the task is done")
        if rules.max_actions is not None and self._counts.actions >= rules.max_actions:
            return Ending(kind="time limit", detail=f"{rules.max_actions} actions")
        try:
            seen = self._robot.observe()
        except StaleState as stale:
            return self._refuse("stale", [str(stale)])
        if seen.camera_time_s is not None:
            self._latencies.add("camera to observation", seen.made_s - seen.camera_time_s)
        self._window.append(dict(seen.raw))
        whole = Seen(self._window.observation, seen.made_s, seen.camera_time_s)
        try:
            tick = self._scheduler.tick(whole, whole.made_s)
        except Exception as error:  # whatever the policy raised ends the episode, not the program
            return Ending(kind="policy", detail=f"{type(error).__name__}: {error}")
        if tick is None:
            return self._wait_for_policy()
        self._idle_since = None
        late = tick.age_s - tick.index * self._robot.period_s
        limit = self._robot.arm.limits.max_action_age_s
        if late > max(limit, 2 * self._robot.period_s):
            return self._refuse("old action", [f"it is {late:.2f} s late, limit {limit:.2f} s"])
        try:
            self._execute(tick, seen)
        except Refused as refused:
            return self._refuse("refused", refused.reasons)
        self._counts.in_a_row = 0
        return None

    def _execute(self, tick: Tick, seen: Seen) -> None:
        state = self._robot.arm.state()
        rests = not self._rules.dry_run and is_at_rest(state.joint_speeds)
        if self._rules.dry_run:
            self._robot.check(tick.action, tick.upcoming)
            sent = tick.action
        else:
            sent = self._robot.send(tick.action, tick.upcoming)
        sent_s = time.monotonic()
        self._holding = False
        self._counts.actions += 1
        self._note_times(tick, sent_s)
        if rests and self._camera_time_s is not None:
            self._watch.sent(self._camera_time_s, sent_s, state.joints)
        self._commanded.append(state.commanded)
        self._seams.append(tick.seam)
        if self._journal is not None:
            self._journal.append(self._frame(tick, seen, sent))
        if self._rerun is not None:
            self._rerun.frame(seen, sent, tick)

    def _note_times(self, tick: Tick, sent_s: float) -> None:
        """What the first action of a chunk tells of the way from its observation."""
        if tick.chunk == self._last_chunk:
            return
        self._last_chunk = tick.chunk
        inference = self._policy.take_inference(tick.observation_time_s)
        if tick.seam:
            self._events.add("seam", chunk=tick.chunk, delay=tick.delay, age_s=tick.age_s)
        if inference is None:
            return
        add, made = self._latencies.add, tick.observation_time_s
        add("observation to inference", inference.begin_s - made)
        add("inference", inference.end_s - inference.begin_s)
        add("inference to action", sent_s - inference.end_s)
        self._camera_time_s = inference.camera_time_s
        if self._camera_time_s is not None:
            add("camera to action", sent_s - self._camera_time_s)

    def _frame(self, tick: Tick, seen: Seen, sent: Any) -> Frame:
        assert self._journal is not None
        return Frame(
            time_s=time.time(),
            state=np.asarray(seen.raw.get("observation.state", ()), np.float32),
            action=sent,
            images={name: seen.raw[name] for name in self._journal.header.cameras},
            extra={"tick": self._counts.ticks, "chunk": tick.chunk, "index": tick.index},
        )

    # -- without an action ---------------------------------------------------------------------

    def _wait_for_policy(self) -> Ending | None:
        """Nothing to execute: hold; a policy that stays silent for too long ends the episode."""
        self._hold("no action")
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        limit = self._robot.arm.limits.stop_after_s
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
            self._robot.driver.hold()

    def _come_to_rest(self, ending: Ending) -> None:
        """Hold, where the arm still can; a stop of the operator's has been sent already."""
        from lerobot_robot_ur.errors import RobotError

        if self._rules.dry_run or ending.kind == "stopped":
            return
        try:
            self._robot.driver.hold()
        except RobotError as error:
            self._events.add("hold failed", str(error))

    # -- from the arm --------------------------------------------------------------------------

    def _drain_arm_events(self) -> None:
        for event in self._robot.arm.events():
            self._events.add(f"arm: {event.kind}", event.detail, happened_s=event.time_s)

    def _read_state(self) -> tuple[float, Any, Any]:
        state = self._robot.arm.state()
        return state.time_s, state.joints, state.joint_speeds
