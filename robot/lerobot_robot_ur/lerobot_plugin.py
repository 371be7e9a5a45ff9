"""LeRobot plugin: `--robot.type=ur3e`, `ur5e` and so on, one for each of `models.MODELS`.

Nothing else in the package needs LeRobot.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lerobot.cameras import CameraConfig, make_cameras_from_configs
from lerobot.robots import Robot, RobotConfig

from .arm import Arm
from .config import ArmConfig
from .errors import ConfigError, Refused
from .limits import Limits, limits_for
from .robot import ArmWithCameras

logger = logging.getLogger(__name__)

#: The newest robot of each address, for a teleoperator that works with the arm itself.
CONNECTED: weakref.WeakValueDictionary[str, UR] = weakref.WeakValueDictionary()

_ROUTINE = ("connected", "disconnected", "realtime", "recovered")  # events of no concern


@dataclass(kw_only=True)
class URConfig(RobotConfig):
    """What LeRobot's command lines can set of an arm, as `--robot.<name>=`.

    `layout` is one of `layout.LAYOUTS`, `extra_state` some of `layout.OPTIONAL`; `limits` holds
    those that differ from the arm's defaults, by their names in `Limits`; the rest is as in
    `ArmConfig`.
    """

    model: ClassVar[str]

    ip: str
    layout: str = "joints"
    extra_state: list[str] = field(default_factory=list)
    control_rate_hz: float = 10.0  # of joint targets: the fps of the loop that sends them
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    tcp: tuple[float, ...] = ArmConfig.tcp
    payload_kg: float = ArmConfig.payload_kg
    payload_cog_m: tuple[float, ...] = ArmConfig.payload_cog_m
    gripper: str = ArmConfig.gripper
    gripper_ip: str | None = ArmConfig.gripper_ip
    extra_shapes: dict[str, list[list[float]]] = field(default_factory=dict)
    speed: float = ArmConfig.speed
    servo_lookahead_s: float = ArmConfig.servo_lookahead_s
    servo_gain: float = ArmConfig.servo_gain
    servo_cpu: int | None = ArmConfig.servo_cpu
    watchdog_s: float = ArmConfig.watchdog_s
    limits: dict[str, Any] = field(default_factory=dict)
    # The arm holds soon after the last action; this ends the session. LeRobot's loops fall silent
    # between episodes, for as long as it takes to save one.
    stop_after_s: float = 60.0
    max_refusals: int = 10  # actions in a row that may be refused, the arm holding meanwhile

    def __post_init__(self) -> None:
        super().__post_init__()
        self.arm_config()  # reports all that is wrong before anything is connected

    def arm_config(self) -> ArmConfig:
        """Returns the arm's part; ConfigError lists what cannot be."""
        own = {f.name for f in dataclasses.fields(self)} - {"limits"}
        shared = [f.name for f in dataclasses.fields(ArmConfig) if f.name in own]
        values = {name: getattr(self, name) for name in shared}
        values |= {name: tuple(values[name]) for name in ("tcp", "payload_cog_m")}
        return ArmConfig(model=self.model, limits=self._limits(), **values)

    def _limits(self) -> Limits:
        names = [f.name for f in dataclasses.fields(Limits) if f.name != "model"]
        if unknown := [name for name in self.limits if name not in names]:
            raise ConfigError(f"no limits {', '.join(unknown)}; there are {', '.join(names)}")
        own = {n: tuple(v) if isinstance(v, list) else v for n, v in self.limits.items()}
        return dataclasses.replace(
            limits_for(self.model), **{"stop_after_s": self.stop_after_s, **own}
        )


@RobotConfig.register_subclass("ur3e")
@dataclass(kw_only=True)
class UR3eConfig(URConfig):
    """A UR3e (e-Series)."""

    model = "ur3e"


@RobotConfig.register_subclass("ur5e")
@dataclass(kw_only=True)
class UR5eConfig(URConfig):
    """A UR5e (e-Series)."""

    model = "ur5e"


@RobotConfig.register_subclass("ur10e")
@dataclass(kw_only=True)
class UR10eConfig(URConfig):
    """A UR10e (e-Series)."""

    model = "ur10e"


@RobotConfig.register_subclass("ur16e")
@dataclass(kw_only=True)
class UR16eConfig(URConfig):
    """A UR16e (e-Series)."""

    model = "ur16e"


@RobotConfig.register_subclass("ur20")
@dataclass(kw_only=True)
class UR20Config(URConfig):
    """A UR20."""

    model = "ur20"


@RobotConfig.register_subclass("ur30")
@dataclass(kw_only=True)
class UR30Config(URConfig):
    """A UR30."""

    model = "ur30"


@RobotConfig.register_subclass("ur3")
@dataclass(kw_only=True)
class UR3Config(URConfig):
    """A UR3 (CB3)."""

    model = "ur3"


@RobotConfig.register_subclass("ur5")
@dataclass(kw_only=True)
class UR5Config(URConfig):
    """A UR5 (CB3)."""

    model = "ur5"


@RobotConfig.register_subclass("ur10")
@dataclass(kw_only=True)
class UR10Config(URConfig):
    """A UR10 (CB3)."""

    model = "ur10"


class UR(Robot):
    """An arm with gripper and cameras as a LeRobot robot.

    Attributes:
        driver: does the work; `driver.arm` is the arm.
    """

    def __init__(self, config: URConfig):
        super().__init__(config)
        self.config = config
        self.driver = ArmWithCameras(
            Arm(config.arm_config()),
            make_cameras_from_configs(config.cameras),
            layout=config.layout,
            control_rate_hz=config.control_rate_hz,
            extra_state=config.extra_state,
        )
        self._refusals = 0
        CONNECTED[config.ip] = self

    @property
    def cameras(self) -> dict[str, Any]:
        return self.driver.cameras

    @property
    def observation_features(self) -> dict[str, Any]:
        cameras = self.config.cameras.items()
        pictures = {name: (camera.height, camera.width, 3) for name, camera in cameras}
        return dict.fromkeys(self.driver.layout.state, float) | pictures

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.driver.layout.action, float)

    @property
    def is_connected(self) -> bool:
        return self.driver.is_connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Does nothing: the arm's encoders are absolute."""

    def configure(self) -> None:
        """Does nothing: tool, payload and limits are set by `connect`."""

    def connect(self, calibrate: bool = True) -> None:
        """Opens cameras, arm and gripper; see `ArmWithCameras.connect`."""
        self.driver.connect()
        self._log_events()

    def disconnect(self) -> None:
        self.driver.disconnect()
        self._log_events()

    def get_observation(self) -> dict[str, Any]:
        """Returns what `ArmWithCameras.get_observation` does."""
        self._log_events()
        return self.driver.get_observation()

    def send_action(self, action: dict[str, Any], upcoming: Any = ()) -> dict[str, Any]:
        """Does what `ArmWithCameras.send_action` does; returns nothing for a refused action.

        Raises:
            Refused: more than `max_refusals` in a row were.
        """
        try:
            sent = self.driver.send_action(action, upcoming)
        except Refused:
            self._refusals += 1
            self._log_events()
            if self._refusals > self.config.max_refusals:
                raise
            return {}
        self._refusals = 0
        return sent

    def _log_events(self) -> None:
        for event in self.driver.arm.events():
            level = logging.INFO if event.kind in _ROUTINE else logging.WARNING
            logger.log(level, "%s: %s", event.kind, event.detail)


class UR3e(UR):
    config_class = UR3eConfig
    name = "ur3e"


class UR5e(UR):
    config_class = UR5eConfig
    name = "ur5e"


class UR10e(UR):
    config_class = UR10eConfig
    name = "ur10e"


class UR16e(UR):
    config_class = UR16eConfig
    name = "ur16e"


class UR20(UR):
    config_class = UR20Config
    name = "ur20"


class UR30(UR):
    config_class = UR30Config
    name = "ur30"


class UR3(UR):
    config_class = UR3Config
    name = "ur3"


class UR5(UR):
    config_class = UR5Config
    name = "ur5"


class UR10(UR):
    config_class = UR10Config
    name = "ur10"
