"""A robot that fits a policy, matched by name; everything that is missing is reported at once."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import DeployError
from actquant.common.renames import likeness
from actquant.deploy.adapters import make_port
from actquant.deploy.cameras import CameraSpec, parse_cameras
from actquant.deploy.policy import Seen, TimedPolicy
from actquant.deploy.port import RobotPort
from actquant.deploy.resizing import resized
from actquant.deploy.settings import DeploySettings
from actquant.deploy.stopping import StopRequest

_SHORTEST_WAIT_S = 5e-4
_LATE_PERIODS = 2.0  # that an action may always be late
LONGEST_THOUGHT_S = 30.0
"""A policy that takes longer for a chunk is taken for dead, also where the arm stands and waits."""


class Robot:
    """A port with pictures and actions as the policy has them.

    Attributes:
        port: the robot with its cameras, not yet connected.
        period_s: the time by the robot's clock that one action takes, with the speed in it.
        task: what the policy is told to do.
    """

    def __init__(self, port: RobotPort, policy: TimedPolicy, task: str, resize: bool) -> None:
        self.port, self.period_s = port, port.period_s
        self.task = task
        self._policy, self._resize = policy, resize

    @property
    def oldest_action_s(self) -> float:
        """How long after its time an action may come (s)."""
        return max(self.port.max_action_age_s, _LATE_PERIODS * self.period_s)

    def observe(self) -> Seen:
        """Returns the newest pictures and state. Raises as the port's `pictures` and `measure`."""
        # Read before the pictures: a newer one may come in between, never an older one.
        times = self.picture_times().values()
        pictures = self.port.pictures()
        made, clock_s = time.monotonic(), self.port.clock()
        raw: dict[str, Any] = {"task": self.task}
        state = self.state()
        if self._policy.state_names:
            raw["observation.state"] = state
        raw |= {name: self._fitted(picture) for name, picture in pictures.items()}
        known = [t for t in times if t is not None]
        oldest = min(known) if known and len(known) == len(times) else None
        return Seen(raw, made, oldest, clock_s)

    def wait_until(self, due_s: float, stop: StopRequest) -> bool:
        """Sleeps until `due_s` of the robot's clock, or until a stop is wanted: True then.

        A robot that has stopped is not waited for: its next use says why.
        """
        while (left := due_s - self.port.clock()) > 0 and self.port.stopped is None:
            if stop.wait_until(time.monotonic() + max(left, _SHORTEST_WAIT_S)):
                return True
        return stop.is_set

    def picture_times(self) -> dict[str, float | None]:
        """Returns when (time.monotonic) each camera's newest picture came; None where untold."""
        return {n: getattr(c, "latest_timestamp", None) for n, c in self.port.cameras.items()}

    def state(self) -> NDArray[np.float32]:
        """Returns the state [S] in the policy's order and units. Raises StaleStateError."""
        return self.port.measure().astype(np.float32)

    def _fitted(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = self._policy.image_size
        if not self._resize or picture.shape[:2] == (height, width):
            return picture
        return resized(picture, height, width)

    def send(
        self, action: NDArray[np.float32], upcoming: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Moves; returns the action [A] as far as it was taken over. Raises as the port's
        `send`."""
        return self.port.send(_actions(action, upcoming)).astype(np.float32)

    def hold_position(self) -> None:
        """Keeps the arm, which has come to rest; no action is due for LONGEST_THOUGHT_S."""
        self.port.hold_position(LONGEST_THOUGHT_S)

    def check(
        self,
        action: NDArray[np.float32],
        upcoming: NDArray[np.float32],
        start: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Returns to which joints [J] (rad) the action would lead from `start` [J] (rad; None: from
        where the arm was told to go). Raises as `send`, and moves nothing."""
        return self.port.check(_actions(action, upcoming), start)


def _actions(action: NDArray[np.float32], upcoming: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns [1 + m, A]: an action [A] and those that follow [m, A]."""
    return np.concatenate([action[None], upcoming]).astype(np.float64)


def make_robot(settings: DeploySettings, policy: TimedPolicy) -> Robot:
    """Makes the robot of `settings`, not connected.

    Raises DeployError listing everything that policy and robot lack of each other, or that the
    driver is not installed.
    """
    cameras: dict[str, CameraSpec] = {}
    port: RobotPort | None = None
    wrong: list[str] = []
    try:
        cameras = parse_cameras(settings.cameras)
        wrong += _camera_problems(policy, cameras)
    except DeployError as error:
        wrong.append(str(error))
    try:
        port = make_port(settings, policy, cameras)
    except DeployError as error:
        wrong.append(str(error))
    if port is None or wrong:
        raise DeployError("\n".join(wrong))
    return Robot(port, policy, settings.task, settings.resize)


def _camera_problems(policy: TimedPolicy, cameras: Mapping[str, Any]) -> list[str]:
    problems = []
    missing = missing_cameras(policy, list(cameras))
    if len(missing) > policy.optional_cameras:
        problems += [f"the policy looks through {name}; add --camera {name}=…" for name in missing]
    for name in cameras:
        if name not in policy.cameras:
            close = max(missing, key=lambda other: likeness(name, other), default="")
            proposal = f"; name it as the policy does, such as --camera {close}=…" if close else ""
            problems.append(
                f"--camera {name}: the policy has no such camera; it has "
                f"{', '.join(policy.cameras)}{proposal}"
            )
    return problems


def missing_cameras(policy: TimedPolicy, cameras: Sequence[str]) -> list[str]:
    """Returns the cameras that the policy has and the robot has not."""
    return [name for name in policy.cameras if name not in cameras]
