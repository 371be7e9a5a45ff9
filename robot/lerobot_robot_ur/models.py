"""The arms that can be driven: lengths, limits, masses and control box."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ur_motion import arms
from ur_motion.arms import Arm


@dataclass(frozen=True)
class RobotModel:
    """An arm with its control box.

    Attributes:
        name: as in `--robot.type`.
        type: what the dashboard calls it.
        arm: its lengths.
        reach_m: from the base's axis, as its data sheet has it.
        payload_kg: the most that it carries.
        speed_limits: of each joint [6] (rad/s).
        lift_torque_nm: the most of the shoulder's joints.
        link_masses: kg, of all six links.
        arm_centres: x (m) of the centres of mass of upper arm and forearm in their frames.
        version: PolyScope's major, minor, bugfix and build number, of the fake controller.
        position_limits: plus and minus, of each joint [6] (rad).
    """

    name: str
    type: str
    arm: Arm
    reach_m: float
    payload_kg: float
    speed_limits: tuple[float, ...]
    lift_torque_nm: float
    link_masses: tuple[float, ...]
    arm_centres: tuple[float, float]
    version: tuple[int, int, int, int]
    serial: str
    # The joints turn two full circles; the elbow too, but planning keeps it within half of that.
    position_limits: tuple[float, ...] = (2 * math.pi,) * 6

    @property
    def is_e_series(self) -> bool:
        """Whether its controller is an e-Series one, as those of UR20 and UR30 are too."""
        return self.version[0] > 3

    @property
    def rate_hz(self) -> int:
        return 500 if self.is_e_series else 125

    @property
    def is_small(self) -> bool:
        """Whether it is one of the arms that lerobot_env_ur3e's table is made for."""
        return self.type == "UR3"

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def _speeds(base: float, shoulder: float, elbow: float, wrists: float) -> tuple[float, ...]:
    return tuple(math.radians(v) for v in (base, shoulder, elbow, wrists, wrists, wrists))


_E, _CB3 = (5, 17, 3, 0), (3, 15, 8, 0)
_SERIAL, _CB3_SERIAL = "20205301234", "20173301234"

# Lengths, speeds, torques and masses: the UniversalRobots ROS 2 description (config/<arm>/
# default_kinematics.yaml, joint_limits.yaml, physical_parameters.yaml). Reach and payload: the data
# sheets.
_ROWS = (
    RobotModel(
        "ur3e", "UR3", arms.UR3E, 0.5, 3.0, _speeds(180, 180, 180, 360), 54.0,
        (1.98, 3.4445, 1.437, 0.871, 0.805, 0.261), (-0.11355, -0.1632), _E, _SERIAL,
    ),
    RobotModel(
        "ur5e", "UR5", arms.UR5E, 0.85, 5.0, _speeds(180, 180, 180, 180), 150.0,
        (3.761, 8.058, 2.846, 1.37, 1.3, 0.365), (-0.2125, -0.2422), _E, _SERIAL,
    ),
    RobotModel(
        "ur10e", "UR10", arms.UR10E, 1.3, 12.5, _speeds(120, 120, 180, 180), 330.0,
        (7.369, 13.051, 3.989, 2.1, 1.98, 0.615), (-0.2327, -0.33155), _E, _SERIAL,
    ),
    RobotModel(
        "ur16e", "UR16", arms.UR16E, 0.9, 16.0, _speeds(120, 120, 180, 180), 330.0,
        (7.369, 10.45, 4.321, 2.18, 2.033, 0.907), (-0.1764, -0.166), _E, _SERIAL,
    ),
    RobotModel(
        "ur20", "UR20", arms.UR20, 1.75, 25.0, _speeds(120, 120, 150, 210), 738.0,
        (16.343, 29.632, 7.879, 3.054, 3.126, 0.926), (-0.3394, -0.4053), _E, _SERIAL,
    ),
    RobotModel(
        "ur30", "UR30", arms.UR30, 1.3, 35.0, _speeds(120, 120, 150, 210), 738.0,
        (16.343, 28.542, 7.156, 3.054, 3.126, 0.926), (-0.2476, -0.278), _E, _SERIAL,
    ),
    RobotModel(
        "ur3", "UR3", arms.UR3, 0.5, 3.0, _speeds(180, 180, 180, 360), 56.0,
        (2.0, 3.42, 1.26, 0.8, 0.8, 0.35), (-0.11365, -0.16325), _CB3, _CB3_SERIAL,
    ),
    RobotModel(
        "ur5", "UR5", arms.UR5, 0.85, 5.0, _speeds(180, 180, 180, 180), 150.0,
        (3.7, 8.393, 2.33, 1.219, 1.219, 0.1879), (-0.2125, -0.24225), _CB3, _CB3_SERIAL,
    ),
    RobotModel(
        "ur10", "UR10", arms.UR10, 1.3, 10.0, _speeds(120, 120, 180, 180), 330.0,
        (7.1, 12.7, 4.27, 2.0, 2.0, 0.365), (-0.232, -0.3323), _CB3, _CB3_SERIAL,
    ),
)  # fmt: skip

MODELS = {row.name: row for row in _ROWS}
