"""The two arms that can be driven: lengths, limits and control box."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ur_motion.arms import MAX_SPEED, UR3, UR3E, Arm


@dataclass(frozen=True)
class RobotModel:
    """An arm with its control box.

    `arm` are its lengths; `position_limits` (plus and minus) in rad; `speed_limits` in rad/s;
    `version` is PolyScope's major, minor, bugfix and build number.
    """

    name: str
    type: str  # what the dashboard calls it
    arm: Arm
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

MODELS = {
    "ur3e": RobotModel(
        "ur3e",
        "UR3",
        UR3E,
        _TURNS,
        MAX_SPEED,
        500,
        (5, 17, 3, 0),
        "20205301234",
    ),
    "ur3": RobotModel(
        "ur3",
        "UR3",
        UR3,
        _TURNS,
        MAX_SPEED,
        125,
        (3, 15, 8, 0),
        "20173301234",
    ),
}
