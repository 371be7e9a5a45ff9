"""The arms of `lerobot_robot_ur` behind a RobotPort."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import (
    DeployError,
    RefusedError,
    RobotError,
    StaleStateError,
    StoppedError,
)
from actquant.common.extras import explain_missing
from actquant.deploy.adapters.ur_facts import controller_facts, limit_facts
from actquant.deploy.cameras import CameraSpec
from actquant.deploy.policy import TimedPolicy
from actquant.deploy.port import Array, Fact, RobotEvent, RobotState
from actquant.deploy.settings import DeploySettings

if TYPE_CHECKING:
    from lerobot_robot_ur.cameras import GrabbingCamera
    from lerobot_robot_ur.config import ArmConfig
    from lerobot_robot_ur.robot import ArmWithCameras

_TOLERANCE = 1e-6
_HOLD_PERIODS, _STOP_PERIODS = 2.0, 10.0
"""A slowed-down policy sends actions less often: the arm holds and stops after so many periods if
that is later than its limits say."""


def make_port(
    settings: DeploySettings, policy: TimedPolicy, cameras: Mapping[str, CameraSpec]
) -> "URPort":
    """Makes the port; see `adapters.make_port`."""
    try:
        from lerobot_robot_ur.arm import Arm
        from lerobot_robot_ur.errors import ConfigError
        from lerobot_robot_ur.layout import MEASURED, lerobot_names, optional_names
        from lerobot_robot_ur.robot import ArmWithCameras
    except ImportError as error:
        raise DeployError(
            f"the driver is not installed: {explain_missing(error, 'lerobot_robot_ur')}"
        ) from error
    wrong: list[str] = []
    config = _collect(wrong, "", _arm_config, settings, policy)
    layout = _collect(wrong, "", find_layout, policy)
    measured = (*MEASURED, *optional_names())
    _collect(wrong, "the policy's state: ", lerobot_names, policy.state_names, measured)
    made = {
        name: _collect(wrong, f"--camera {name}: ", _camera, spec) for name, spec in cameras.items()
    }
    if config is None or layout is None or wrong:
        raise DeployError("\n".join(wrong))
    try:
        driver = ArmWithCameras(Arm(config), made, layout=layout, control_rate_hz=policy.rate_hz)
        port = URPort(driver, policy)
    except ConfigError as error:
        raise DeployError(str(error)) from error
    wanted = 1.0 / (policy.rate_hz * settings.speed)
    if abs(driver.period_s - wanted) > _TOLERANCE:
        raise DeployError(
            f"the policy acts {policy.rate_hz:g} times a second, its actions ({layout}) are "
            f"defined for {1.0 / (driver.period_s * settings.speed):g}"
        )
    return port


def _collect(wrong: list[str], prefix: str, make: Any, *arguments: Any) -> Any:
    """Returns what `make` does, or None and its complaint in `wrong`."""
    from lerobot_robot_ur.errors import ConfigError

    try:
        return make(*arguments)
    except (DeployError, ConfigError) as error:
        wrong.append(f"{prefix}{error}")
        return None


def _camera(spec: CameraSpec) -> "GrabbingCamera":
    from lerobot_robot_ur.cameras import make_camera

    try:
        return make_camera(spec.kind, spec.address, **spec.settings)
    except ImportError as error:
        raise DeployError(explain_missing(error)) from error


def _arm_config(settings: DeploySettings, policy: TimedPolicy) -> "ArmConfig":
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


def find_layout(policy: TimedPolicy) -> str:
    """Returns the layout whose actions are the policy's.

    Raises DeployError with those there are.
    """
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


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raises the driver's errors as those of the port."""
    from lerobot_robot_ur import errors

    try:
        yield
    except errors.Stopped as stopped:
        raise StoppedError(str(stopped)) from stopped
    except errors.StaleState as stale:
        raise StaleStateError(str(stale)) from stale
    except errors.Refused as refused:
        raise RefusedError(refused.reasons) from refused
    except errors.RobotError as error:
        raise RobotError(f"{type(error).__name__}: {error}") from error


class URPort:
    """See RobotPort.

    Attributes:
        driver, arm: of `lerobot_robot_ur`.
    """

    def __init__(self, driver: "ArmWithCameras", policy: TimedPolicy) -> None:
        """Raises lerobot_robot_ur's ConfigError for names that the driver does not have."""
        from lerobot_robot_ur.layout import indices

        self.driver, self.arm = driver, driver.arm
        self.period_s = driver.period_s
        limits = driver.arm.limits
        self.max_action_age_s = limits.max_action_age_s
        self.max_joint_step_rad = limits.max_joint_step_rad
        self.stop_after_s = limits.stop_after_s
        self.cameras = driver.cameras
        self._state_order = indices(policy.state_names, driver.measured)
        # Where each action of the driver stands in the policy's, and the other way round.
        self._policy_order = indices(policy.action_names, driver.layout.action)
        self._driver_order = np.argsort(self._policy_order)

    def gripper_lacks(self) -> str:
        from lerobot_robot_ur.gripper import GripperError, make_gripper

        config = self.arm.config
        gripper = make_gripper(config.gripper, config.gripper_ip or config.ip)
        if gripper is None:
            return ""
        try:
            gripper.connect()
            gripper.read()
            return ""
        except GripperError as error:
            return str(error)
        finally:
            gripper.close()

    @_translated()
    def clock(self) -> float:
        return self.arm.clock()

    @_translated()
    def connect(self) -> None:
        self.driver.connect()

    @_translated()
    def bring_back(self) -> None:
        from lerobot_robot_ur.dashboard import bring_back

        bring_back(self.arm.config.ip)

    @_translated()
    def disconnect(self) -> None:
        self.driver.disconnect()

    @_translated()
    def recover(self, operator: str) -> None:
        self.driver.recover(operator)

    @property
    def stopped(self) -> StoppedError | None:
        stopped = self.arm.stopped
        return None if stopped is None else StoppedError(str(stopped))

    def identity(self) -> str:
        return str(self.arm.controller)

    @_translated()
    def facts(self) -> list[Fact]:
        return controller_facts(self.arm) + limit_facts(self.arm, self.period_s)

    @_translated()
    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        return self.driver.pictures()

    @_translated()
    def measure(self) -> Array:
        return self.driver.measure_all()[self._state_order]

    @_translated()
    def state(self) -> RobotState:
        state = self.arm.state()
        return RobotState(
            time_s=state.time_s,
            joints=state.joints,
            joint_speeds=state.joint_speeds,
            commanded=state.commanded,
            gripper_opening_m=state.gripper_opening_m,
            is_moving=state.is_moving,
        )

    @_translated()
    def send(self, actions: Array) -> Array:
        return self.driver.send_actions(actions[:, self._driver_order])[self._policy_order]

    @_translated()
    def check(self, actions: Array, start: Array | None = None) -> Array:
        return self.driver.check_actions(actions[:, self._driver_order], start=start)

    @_translated()
    def hold(self) -> None:
        self.driver.hold()

    @_translated()
    def interrupt(self) -> None:
        self.arm.hold()

    @_translated()
    def hold_position(self, duration_s: float) -> None:
        commanded = self.arm.state().commanded
        self.arm.move_through(commanded[None], [self.arm.clock() + duration_s])

    @_translated()
    def stop(self, reason: str) -> None:
        self.arm.stop(reason)

    def events(self) -> list[RobotEvent]:
        return [RobotEvent(e.time_s, str(e.kind), e.detail) for e in self.arm.events()]

    def jitter(self) -> dict[str, float]:
        return dataclasses.asdict(self.arm.jitter())
