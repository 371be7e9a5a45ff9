"""Universal Robots' arms and their published lengths; limits and masses of the links of a UR3e.

Numbers are those of the UniversalRobots ROS 2 description (config/<arm>/default_kinematics.yaml and
so on). The base frame is Universal Robots' own: at joint positions of zero the arm points along -x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Point = tuple[float, float, float]

JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
#: Twists of the Denavit-Hartenberg frames, the same in all arms (rad).
DH_ALPHA = (math.pi / 2, 0.0, 0.0, math.pi / 2, -math.pi / 2, 0.0)
#: Plus and minus (rad). The joints turn two full circles; planning keeps the elbow within half.
JOINT_LIMIT = (2 * math.pi, 2 * math.pi, math.pi, 2 * math.pi, 2 * math.pi, 2 * math.pi)
MAX_SPEED = tuple(math.radians(v) for v in (180, 180, 180, 360, 360, 360))  # rad/s

_H = math.sqrt(0.5)
#: Rotation (w, x, y, z) of each joint's frame in that of the joint before, at angle zero.
JOINT_ROTATIONS = (
    (1.0, 0.0, 0.0, 0.0),
    (_H, _H, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.0),
    (_H, _H, 0.0, 0.0),
    (_H, -_H, 0.0, 0.0),
)
#: Masses (kg) of the six links of a UR3e, and centres of mass (m) in their joints' frames.
LINK_MASSES = (1.98, 3.4445, 1.437, 0.871, 0.805, 0.261)
LINK_CENTRES: tuple[Point, ...] = (
    (0.0, 0.0, -0.02),
    (-0.11355, 0.0, 0.1157),
    (-0.1632, 0.0, 0.0238),
    (0.0, -0.01, 0.0),
    (0.0, 0.01, 0.0),
    (0.0, 0.0, -0.02),
)


@dataclass(frozen=True)
class Arm:
    """The lengths of an arm (m), in Denavit and Hartenberg's notation."""

    dh_a: tuple[float, ...]
    dh_d: tuple[float, ...]

    @property
    def joint_offsets(self) -> tuple[Point, ...]:
        """Position of each joint's frame in that of the joint before (m); the base is first."""
        a, d = self.dh_a, self.dh_d
        return (
            (0.0, 0.0, d[0]),
            (0.0, 0.0, 0.0),
            (a[1], 0.0, 0.0),
            (a[2], 0.0, d[3]),
            (0.0, -d[4], 0.0),
            (0.0, d[5], 0.0),
        )


def _arm(a2: float, a3: float, d1: float, d4: float, d5: float, d6: float) -> Arm:
    return Arm((0.0, a2, a3, 0.0, 0.0, 0.0), (d1, 0.0, 0.0, d4, d5, d6))


UR3E = _arm(-0.24355, -0.2132, 0.15185, 0.13105, 0.08535, 0.0921)
UR5E = _arm(-0.425, -0.3922, 0.1625, 0.1333, 0.0997, 0.0996)
UR10E = _arm(-0.6127, -0.57155, 0.1807, 0.17415, 0.11985, 0.11655)
UR16E = _arm(-0.4784, -0.36, 0.1807, 0.17415, 0.11985, 0.11655)
UR20 = _arm(-0.862, -0.7287, 0.2363, 0.201, 0.1593, 0.1543)
UR30 = _arm(-0.637, -0.5037, 0.2363, 0.201, 0.1593, 0.1543)
# CB3
UR3 = _arm(-0.24365, -0.21325, 0.1519, 0.11235, 0.08535, 0.0819)
UR5 = _arm(-0.425, -0.39225, 0.089159, 0.10915, 0.09465, 0.0823)
UR10 = _arm(-0.612, -0.5723, 0.1273, 0.163941, 0.1157, 0.0922)
