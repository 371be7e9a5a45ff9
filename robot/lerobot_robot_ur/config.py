"""How an arm is set up: everything `Arm` needs to know, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .calibration import Calibration
from .errors import ConfigError
from .gripper import KINDS
from .kinematics import extra_capsules
from .limits import Limits, limits_for
from .models import MODELS

LOOKAHEAD_S, GAIN = (0.03, 0.2), (100.0, 2000.0)  # what servoJ takes
WATCHDOG_S = (0.02, 1.0)  # some cycles of a CB3; what a lost servo process may be unnoticed for


@dataclass(frozen=True)
class ArmConfig:
    """An arm, its gripper and what it may do.

    Attributes:
        ip: address of the controller.
        model: a name in `models.MODELS`.
        tcp: tool centre point [6] in the flange's frame (m, rotation vector in rad).
        payload_kg, payload_cog_m: of the gripper; centre of gravity [3] in the flange's frame.
        gripper: one of `gripper.KINDS`.
        extra_shapes: what is mounted on links, as cameras and cables are: by the link's name in
            `kinematics.LINKS` rows of a capsule or a box (`kinematics.extra_capsules`).
        gripper_ip: of OnRobot's Compute Box; by default the controller's.
        calibration: the arm's own lengths; by default the controller is asked for them.
        limits: by default those of the model.
        speed: 0 to 1, by which the limits of motion are scaled.
        servo_lookahead_s, servo_gain: of servoJ; the arm lags by about the lookahead.
        servo_cpu: processor to which the servo process is bound; None for any.
        watchdog_s: the controller ends the program where it hears nothing from the servo process
            for so long; more only for a computer that cannot keep that.

    Raises:
        ConfigError: all that cannot be, at once.
    """

    ip: str
    model: str = "ur3e"
    tcp: tuple[float, ...] = (0.0, 0.0, 0.141, 0.0, 0.0, 0.0)
    payload_kg: float = 0.9
    payload_cog_m: tuple[float, ...] = (0.0, 0.0, 0.058)
    gripper: str = "robotiq_2f85"
    gripper_ip: str | None = None
    extra_shapes: dict[str, list[list[float]]] = field(default_factory=dict)
    calibration: Calibration | None = None
    limits: Limits | None = None
    speed: float = 1.0
    servo_lookahead_s: float = 0.1
    servo_gain: float = 300.0
    servo_cpu: int | None = None
    watchdog_s: float = 0.1

    def __post_init__(self) -> None:
        problems = []
        if not self.ip:
            problems.append("ip is empty")
        if self.model not in MODELS:
            problems.append(f"model is {self.model!r}; there are {', '.join(MODELS)}")
        elif self.limits is not None and self.limits.model != self.model:
            problems.append(f"limits are those of a {self.limits.model}, model is {self.model!r}")
        if self.gripper not in KINDS:
            problems.append(f"gripper is {self.gripper!r}; there are {', '.join(KINDS)}")
        for name, length in (("tcp", 6), ("payload_cog_m", 3)):
            values = getattr(self, name)
            if len(values) != length or not all(map(math.isfinite, values)):
                problems.append(f"{name} is {values}; it has {length} finite numbers")
        for name, low, high in (
            (
                "payload_kg",
                0.0,
                MODELS[self.model].payload_kg if self.model in MODELS else math.inf,
            ),
            ("servo_lookahead_s", *LOOKAHEAD_S),
            ("servo_gain", *GAIN),
            ("watchdog_s", *WATCHDOG_S),
        ):
            if not low <= getattr(self, name) <= high:
                problems.append(f"{name} is {getattr(self, name)}; it is from {low} to {high}")
        try:
            extra_capsules(self.extra_shapes)
        except ConfigError as error:
            problems += error.problems
        if not 0 < self.speed <= 1:
            problems.append(f"speed is {self.speed}; it is above 0 and up to 1")
        if problems:
            raise ConfigError(problems)

    @property
    def effective_limits(self) -> Limits:
        """The limits of motion in force, scaled by the speed."""
        limits = limits_for(self.model) if self.limits is None else self.limits
        return limits.scaled(self.speed)
