"""An arm with cameras that fits a policy, matched by name; what is missing is said at once."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import DeployError
from actquant.deploy.cameras import parse_cameras
from actquant.deploy.policy import Policy, Seen
from actquant.deploy.settings import Settings

if TYPE_CHECKING:
    from lerobot_robot_ur.robot import ArmWithCameras

_TOLERANCE = 1e-6
_HOLD_PERIODS, _STOP_PERIODS = 2.0, 10.0
"""A slowed-down policy sends actions less often: the arm holds and stops after so many periods if
that is later than its limits say."""

_LATE_PERIODS = 2.0  # that an action may always be late
LONGEST_THOUGHT_S = 30.0
"""A policy that takes longer for a chunk is taken for dead, also where the arm stands and waits."""


class Robot:
    """The driver under the policy's names.

    Attributes:
        driver: the arm with its cameras, not yet connected.
        period_s: the time that one action takes, with the speed in it.
        task: what the policy is told to do.
    """

    def __init__(self, driver: "ArmWithCameras", policy: Policy, task: str, resize: bool) -> None:
        self.driver, self.arm = driver, driver.arm
        self.period_s = driver.period_s
        self.task = task
        self._policy, self._resize = policy, resize

    @property
    def oldest_action_s(self) -> float:
        """How long after its time an action may come (s)."""
        return max(self.arm.limits.max_action_age_s, _LATE_PERIODS * self.period_s)

    def observe(self) -> Seen:
        """The newest pictures and state.

        Raises lerobot_robot_ur's Stopped, StaleState and ConfigError.
        """
        # Read before the pictures: a newer one may come in between, never an older one.
        times = self.picture_times().values()
        observation = self.driver.get_observation()
        made = time.monotonic()
        raw: dict[str, Any] = {"task": self.task}
        if self._policy.state_names:
            raw["observation.state"] = self.state()
        for name in self.driver.cameras:
            raw[name] = self._fitted(observation[name])
        known = [t for t in times if t is not None]
        return Seen(raw, made, min(known) if known and len(known) == len(times) else None)

    def picture_times(self) -> dict[str, float | None]:
        """When (time.monotonic) each camera's newest picture came; None where it does not say."""
        return {n: getattr(c, "latest_timestamp", None) for n, c in self.driver.cameras.items()}

    def state(self) -> NDArray[np.float32]:
        """[S] in the policy's order and units. Raises StaleState."""
        return self.driver.measure(self._policy.state_names).astype(np.float32)

    def _fitted(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = self._policy.image_size
        if not self._resize or picture.shape[:2] == (height, width):
            return picture
        import cv2

        shrinks = height <= picture.shape[0] and width <= picture.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)

    def send(
        self, action: NDArray[np.float32], upcoming: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Moves; returns the action [A] as far as it was taken over. Raises as `send_action`."""
        sent = self.driver.send_action(self._named(action), [self._named(a) for a in upcoming])
        return np.array([sent[name] for name in self._policy.action_names], np.float32)

    def stand(self) -> None:
        """Stay where the arm was told to go, and has come to rest; no action is due for
        LONGEST_THOUGHT_S. Raises as `send`."""
        commanded = self.arm.state().commanded
        self.arm.move_through(commanded[None], [time.monotonic() + LONGEST_THOUGHT_S])

    def check(
        self,
        action: NDArray[np.float32],
        upcoming: NDArray[np.float32],
        start: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Where the action would lead from joints `start` [6] (rad; None: from where the arm was
        told to go): joints [6] (rad). Raises as `send`, and moves nothing."""
        named = [self._named(a) for a in upcoming]
        return self.driver.check_action(self._named(action), named, start=start)

    def _named(self, action: NDArray[np.float32]) -> dict[str, float]:
        return dict(zip(self._policy.action_names, map(float, action), strict=True))


def make_robot(settings: Settings, policy: Policy) -> Robot:
    """The robot of `settings`, not connected.

    Raises DeployError listing everything that policy and robot lack of each other, or that the
    driver is not installed.
    """
    try:
        from lerobot.cameras import make_cameras_from_configs
        from lerobot_robot_ur.arm import Arm
        from lerobot_robot_ur.errors import ConfigError
        from lerobot_robot_ur.robot import ArmWithCameras
    except ImportError as error:
        raise DeployError(
            f"the driver is not installed ({error}); pip install ./motion './robot[lerobot]'"
        ) from error
    wrong: list[str] = []
    cameras = _collect(wrong, parse_cameras, settings.cameras)
    config = _collect(wrong, _arm_config, settings, policy)
    layout = _collect(wrong, find_layout, policy)
    wrong += [] if cameras is None else _camera_problems(policy, cameras)
    wrong += _state_problems(policy)
    if wrong:
        raise DeployError("\n".join(wrong))
    try:
        driver = ArmWithCameras(
            Arm(config),
            make_cameras_from_configs(cameras or {}),
            layout=layout,
            control_rate_hz=policy.rate_hz,
        )
    except ConfigError as error:
        raise DeployError(str(error)) from error
    wanted = 1.0 / (policy.rate_hz * settings.speed)
    if abs(driver.period_s - wanted) > _TOLERANCE:
        raise DeployError(
            f"the policy acts {policy.rate_hz:g} times a second, its actions ({layout}) are "
            f"defined for {1.0 / (driver.period_s * settings.speed):g}"
        )
    return Robot(driver, policy, settings.task, settings.resize)


def _collect(wrong: list[str], make: Any, *arguments: Any) -> Any:
    """What `make` returns, or None and its complaint in `wrong`."""
    from lerobot_robot_ur.errors import ConfigError

    try:
        return make(*arguments)
    except (DeployError, ConfigError) as error:
        wrong.append(str(error))
        return None


def _arm_config(settings: Settings, policy: Policy) -> Any:
    from lerobot_robot_ur.config import ArmConfig
    from lerobot_robot_ur.limits import Limits, limits_for

    known = [f.name for f in dataclasses.fields(Limits) if f.name != "model"]
    unknown = [name for name in settings.limits if name not in known]
    if unknown:
        raise DeployError(f"--limit {', '.join(unknown)}; there are {', '.join(known)}")
    own = {n: tuple(v) if isinstance(v, list) else v for n, v in settings.limits.items()}
    limits = limits_for(settings.robot)
    period = 1.0 / (policy.rate_hz * settings.speed)
    patience = {
        "hold_after_s": max(limits.hold_after_s, _HOLD_PERIODS * period),
        "stop_after_s": max(limits.stop_after_s, _STOP_PERIODS * period),
    }
    limits = dataclasses.replace(limits, **(patience | own))
    return ArmConfig(
        ip=settings.ip, model=settings.robot, limits=limits, speed=settings.speed, **settings.arm
    )


def find_layout(policy: Policy) -> str:
    """The layout whose actions are the policy's. Raises DeployError with those there are."""
    from lerobot_robot_ur.errors import ConfigError
    from lerobot_robot_ur.layout import LAYOUTS, lerobot_names

    for name, layout in LAYOUTS.items():
        try:
            own = lerobot_names(policy.action_names, layout.action)
        except ConfigError:
            continue
        if set(own) == set(layout.action) and len(own) == len(layout.action):
            return name
    offered = "; ".join(f"{name}: {', '.join(layout.action)}" for name, layout in LAYOUTS.items())
    raise DeployError(
        f"the policy's actions are {', '.join(policy.action_names)}; the robot takes {offered}"
    )


def _state_problems(policy: Policy) -> list[str]:
    from lerobot_robot_ur.errors import ConfigError
    from lerobot_robot_ur.layout import MEASURED, lerobot_names

    try:
        lerobot_names(policy.state_names, MEASURED)
    except ConfigError as error:
        return [f"the policy's state: {error}"]
    return []


def _camera_problems(policy: Policy, cameras: Mapping[str, Any]) -> list[str]:
    problems = []
    missing = [name for name in policy.cameras if name not in cameras]
    if len(missing) > policy.optional_cameras:
        problems += [f"the policy looks through {name}; add --camera {name}=…" for name in missing]
    problems += [
        f"--camera {name}: the policy has no such camera; it has {', '.join(policy.cameras)}"
        for name in cameras
        if name not in policy.cameras
    ]
    return problems


def missing_cameras(policy: Policy, cameras: Sequence[str]) -> list[str]:
    """Cameras that the policy has and the robot has not."""
    return [name for name in policy.cameras if name not in cameras]
