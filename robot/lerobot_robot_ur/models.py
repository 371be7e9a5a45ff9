"""The two arms that can be driven: geometry, limits and control box.

Numbers are those of the UniversalRobots ROS 2 description (config/ur3e and config/ur3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Twists of the DH frames, the same in both arms (rad).
DH_ALPHA = (math.pi / 2, 0.0, 0.0, math.pi / 2, -math.pi / 2, 0.0)
JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")


@dataclass(frozen=True)
class RobotModel:
    """An arm with its control box.

    `dh_a`, `dh_d` in m; `position_limits` (plus and minus) in rad; `speed_limits` in rad/s;
    `version` is PolyScope's major, minor, bugfix and build number.
    """

    name: str
    type: str  # what the dashboard calls it
    dh_a: tuple[float, ...]
    dh_d: tuple[float, ...]
    position_limits: tuple[float, ...]
    speed_limits: tuple[float, ...]
    rate_hz: int
    version: tuple[int, int, int, int]
    serial: str

    @property
    def is_e_series(self) -> bool:
        return self.version[0] > 3

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


# The joints turn two full circles; the elbow too, but planning keeps it within half of that.
_TURNS = (2 * math.pi,) * 6
_SPEEDS = tuple(math.radians(v) for v in (180, 180, 180, 360, 360, 360))

MODELS = {
    "ur3e": RobotModel(
        "ur3e",
        "UR3",
        (0.0, -0.24355, -0.2132, 0.0, 0.0, 0.0),
        (0.15185, 0.0, 0.0, 0.13105, 0.08535, 0.0921),
        _TURNS,
        _SPEEDS,
        500,
        (5, 17, 3, 0),
        "20205301234",
    ),
    "ur3": RobotModel(
        "ur3",
        "UR3",
        (0.0, -0.24365, -0.21325, 0.0, 0.0, 0.0),
        (0.1519, 0.0, 0.0, 0.11235, 0.08535, 0.0819),
        _TURNS,
        _SPEEDS,
        125,
        (3, 15, 8, 0),
        "20173301234",
    ),
}
