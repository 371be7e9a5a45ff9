"""The control loop between ROS and a policy."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from actquant_runtime import PreviousChunk
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import RosError
from actquant.control.chunk_scheduler import ChunkScheduler, Tick
from actquant.control.loop import run_loop
from actquant.control.policy import Actions, Policy, PolicyDescription
from actquant.control.window import ObservationWindow
from actquant.ros.joints import JointMap, parse_joints
from actquant.ros.link import Link
from actquant.ros.messages import Trajectory, smooth_velocities
from actquant.ros.sensors import NotReadyError, Sensors
from actquant.ros.settings import RosSettings, split_joints

SAY_AGAIN_S = 1.0
"""How long a reason waits whose words alone have changed."""


class RosReport(BaseModel):
    """What a run was.

    Attributes:
        ending: why it ended.
        trajectories: published, or with --dry-run made; one leads on for several ticks.
        chunks: of actions that the policy gave.
        silent_ticks: without a trajectory, since there was nothing to act upon.
        refused: trajectories that were not published, since they lead too far.
        waits: ticks in which the policy had no action yet.
        late_ticks: that were left out, since the tick before took too long.
        inference_ms: median and 95th percentile of a chunk's computation.
    """

    model_config = ConfigDict(extra="forbid")

    ending: str
    seconds: float
    trajectories: int = 0
    chunks: int = 0
    silent_ticks: int = 0
    refused: int = 0
    waits: int = 0
    late_ticks: int = 0
    inference_ms: tuple[float, float] | None = None


class Driver:
    """ROS as the control loop's world.

    policy: with a control rate; tell: called with every text for a person.
    """

    def __init__(
        self,
        policy: Policy,
        settings: RosSettings,
        link: Link,
        tell: Callable[[str], None],
    ) -> None:
        """Raises RosError or SchedulingError listing what policy and settings lack of each other.
        Connects nothing."""
        about = self._about = policy.describe()
        self._policy, self._settings, self._link, self._tell = policy, settings, link, tell
        self._rate_hz = about.control_rate_hz or 0.0
        problems = _camera_problems(about, settings)
        if not self._rate_hz:
            problems.append("the policy does not say its control rate")
        given = parse_joints(settings.joints)
        known = list(dict.fromkeys((*about.state_names, *about.action_names)))
        problems += [
            f"--joint {name}: the policy has no such number; it has {', '.join(known)}"
            for name in given
            if name not in known
        ]
        if problems:
            raise RosError("; ".join(problems))
        self._moved = JointMap(about.action_names, given)
        self._topics = split_joints(settings.trajectories, self._moved.names)
        self._jumps = np.array([settings.jump_of(name) for name in self._moved.names])
        if unknown := [name for name in settings.jumps if name not in self._moved.names]:
            raise RosError(
                f"--max-jump: the policy does not move {', '.join(unknown)}; it moves "
                f"{', '.join(self._moved.names)}"
            )
        checked = [
            n for n, jump in zip(self._moved.names, self._jumps, strict=True) if jump < math.inf
        ]
        self._sensors = Sensors(
            settings,
            about,
            JointMap(about.state_names, given),
            checked,
            link.about,
        )
        self._scheduler = ChunkScheduler(
            self._act,
            mode=settings.mode,
            steps_per_chunk=settings.steps_per_chunk or about.steps_per_chunk,
            execution_horizon=settings.execution_horizon,
            supports_guidance=about.supports_guidance,
        )
        self._report = RosReport(ending="", seconds=0.0)
        self._stop = threading.Event()
        self._stopped_by = ""
        self._ticks = 0
        self._inference_s: list[float] = []
        self._task: str | None = None
        self._said: tuple[str, str, float] = ("", "", 0.0)
        self._was_troubled = False
        self._published: int | None = None
        self._left = 0

    def stop(self, by: str) -> None:
        """Ends `run` after the present tick. May be called from any thread."""
        self._stopped_by = self._stopped_by or by
        self._stop.set()

    def run(self) -> RosReport:
        """Hears, acts and publishes until it is stopped; returns what it did.

        Raises RosError where ROS cannot be reached at the beginning, and what the policy raises.
        """
        self._window = ObservationWindow(self._about.observation_steps)
        with self._scheduler:
            self._link.open(
                self._sensors.subscriptions, list(self._topics), self._settings.status_topic
            )
            try:
                self._began_s = self._due_s = time.monotonic()
                ending = run_loop(self, self._scheduler) or ""
                self._link.say(f"ended: {ending}")
            except Exception as error:
                self._link.say(f"ended: {error}")
                raise
            finally:
                self._link.close()
        report = self._report
        report.ending, report.seconds = ending, time.monotonic() - self._began_s
        report.chunks = len(self._inference_s)
        if self._inference_s:
            median, high = np.percentile(1e3 * np.array(self._inference_s), [50, 95])
            report.inference_ms = float(median), float(high)
        return report

    def next_tick(self) -> str | None:
        """Waits until the next tick. Of those that are past already, as many follow at once as the
        robot has gone on by itself, along what was published last; the others are left out."""
        period = 1 / self._rate_hz
        if self._ticks:
            missed = max(0, int((time.monotonic() - self._due_s) / period))
            left_out = missed - min(missed, self._still_to_go)
            self._report.late_ticks += left_out
            self._due_s += (left_out + 1) * period
        self._ticks += 1
        if self._stop.wait(max(0.0, self._due_s - time.monotonic())):
            return self._stopped_by
        limit = self._settings.max_seconds
        if limit is not None and time.monotonic() - self._began_s >= limit:
            return f"{limit:g} s have passed"
        return None

    @property
    def _still_to_go(self) -> int:
        """How many actions of what was published last come after the present one."""
        return 0 if self._published is None else max(0, self._left)

    def prepare(self) -> str | None:
        """Does nothing: ROS is heard all the time."""
        return None

    def observe(self) -> tuple[dict[str, Any], float]:
        """Returns the newest observation. Raises NotReadyError with all reasons."""
        if trouble := self._link.trouble():
            self._was_troubled = True
            raise NotReadyError(trouble)
        if self._was_troubled:
            self._was_troubled = False
            self._sensors.forget()
        observation = self._sensors.observe()
        if observation["task"] != self._task:
            self._begin_anew()
            self._task = observation["task"]
        self._window.append(observation)
        return self._window.observation, time.monotonic()

    def execute(self, tick: Tick) -> str | None:
        """Publishes the action and those that follow it, as far ahead as is wanted, unless what was
        published last still leads on: each trajectory has the controller begin anew.
        """
        ahead = max(1, round(self._settings.ahead_s * self._rate_hz))
        self._left -= 1
        more = min(len(tick.upcoming), ahead - 1)
        if tick.chunk == self._published:
            is_late = time.monotonic() - self._due_s > 1 / self._rate_hz
            if self._left >= min(more, ahead / 2) or (is_late and self._still_to_go):
                return None
        actions = np.concatenate([tick.action[None], tick.upcoming])[:ahead]
        positions = self._moved.to_ros(actions)
        now = self._sensors.positions(self._moved.names)
        if refusal := self._refusal(now, positions):
            self._scheduler.refused()
            self._published = None
            self._report.refused += 1
            self._say("refused", f"not published: {refusal}")
            return None
        period_s = 1 / self._rate_hz
        velocities = smooth_velocities(now, positions, period_s)
        if not self._settings.dry_run:
            self._link.send(
                {
                    topic: Trajectory(
                        tuple(self._moved.names[i] for i in indices),
                        positions[:, indices],
                        velocities[:, indices],
                        period_s,
                    )
                    for topic, indices in self._topics.items()
                }
            )
        self._due_s = time.monotonic()  # ticks keep step with the trajectory
        self._published, self._left = tick.chunk, len(positions) - 1
        self._report.trajectories += 1
        self._say("acting", f"acting: {self._task}")
        return None

    def wait_for_policy(self) -> str | None:
        """Lets a tick pass; the last trajectory goes on to its end."""
        self._report.waits += 1
        return None

    def policy_failed(self, error: Exception) -> str | None:
        """Says why there is no chunk where one may come again; raises any other error."""
        return self.failed(error)

    def failed(self, error: Exception) -> str | None:
        """Says why nothing is published, once; raises what is no such reason."""
        if not isinstance(error, RosError):
            raise error
        self._report.silent_ticks += 1
        self._begin_anew()
        self._say("silent", f"nothing is published: {error}")
        return None

    def _begin_anew(self) -> None:
        """Drops what is left of a chunk: the robot is not where it leads on."""
        self._scheduler.reset()
        self._published = None
        self._window = ObservationWindow(self._about.observation_steps)

    def _act(self, observation: dict[str, Any], previous: PreviousChunk | None) -> Actions:
        began = time.monotonic()
        actions = self._policy.act(observation, previous=previous)
        self._inference_s.append(time.monotonic() - began)
        return actions

    def _refusal(self, now: NDArray[np.float64], positions: NDArray[np.float64]) -> str:
        """Says why positions [n, J] are not sent to joints that are at `now` [J]; empty where
        nothing is against it."""
        names = self._moved.names
        if not np.isfinite(positions).all():
            wrong = np.flatnonzero(~np.isfinite(positions).all(axis=0))
            return f"the policy gave no number for {', '.join(names[i] for i in wrong)}"
        steps = np.abs(np.diff(np.vstack([now, positions]), axis=0)).max(axis=0)
        return "; ".join(
            f"{name} would go {step:.3g} at once, {jump:g} is allowed (--max-jump)"
            for name, step, jump in zip(names, steps, self._jumps, strict=True)
            if step > jump
        )

    def _say(self, kind: str, text: str) -> None:
        before, told, when = self._said
        now = time.monotonic()
        if text == told or (kind == before and now - when < SAY_AGAIN_S):
            return
        self._said = kind, text, now
        self._tell(text)
        self._link.say(text)


def _camera_problems(about: PolicyDescription, settings: RosSettings) -> list[str]:
    missing = [name for name in about.cameras if name not in settings.cameras]
    problems = [
        f"--camera {name}: the policy has no such camera; it has {', '.join(about.cameras)}"
        for name in settings.cameras
        if name not in about.cameras
    ]
    if len(missing) > about.optional_cameras:
        problems += [f"the policy looks through {n}; add --camera {n}=TOPIC" for n in missing]
    return problems
