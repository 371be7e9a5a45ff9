"""The UR3e: its published numbers, its forward kinematics, and its MJCF body chain.

Numbers are those of the UniversalRobots ROS 2 description (config/ur3e). The base frame
is Universal Robots' own: at q = 0 the arm points along -x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
DH_A = (0.0, -0.24355, -0.2132, 0.0, 0.0, 0.0)  # m
DH_D = (0.15185, 0.0, 0.0, 0.13105, 0.08535, 0.0921)  # m
DH_ALPHA = (math.pi / 2, 0.0, 0.0, math.pi / 2, -math.pi / 2, 0.0)  # rad
JOINT_LIMIT = (2 * math.pi, 2 * math.pi, math.pi, 2 * math.pi, 2 * math.pi, 2 * math.pi)  # rad
MAX_SPEED = tuple(math.radians(v) for v in (180, 180, 180, 360, 360, 360))  # rad/s
MAX_TORQUE = (54.0, 54.0, 28.0, 9.0, 9.0, 9.0)  # Nm

# Reflected motor inertia, viscous friction and servo gains are ours: they make the position
# servo follow a command within a few milliseconds, as the real controller does.
ARMATURE = (0.1, 0.1, 0.05, 0.02, 0.02, 0.02)  # kg m^2
DAMPING = (1.0, 1.0, 0.6, 0.2, 0.2, 0.2)  # Nm s/rad
SERVO_STIFFNESS = (4000, 4000, 3000, 600, 600, 600)  # Nm/rad
SERVO_DAMPING = (90, 90, 70, 14, 14, 14)  # Nm s/rad

_H = math.sqrt(0.5)
_LINK_COLOUR = "0.7 0.75 0.8 1"
# name, position (m), quaternion, mass (kg), centre of mass (m), inertia (kg m^2), its quaternion
_LINKS = (
    ("shoulder", (0, 0, 0.15185), (1, 0, 0, 0), 1.98, (0, 0, -0.02),
     (0.0080931666, 0.0080931666, 0.005625), (1, 0, 0, 0)),
    ("upper_arm", (0, 0, 0), (_H, _H, 0, 0), 3.4445, (-0.11355, 0, 0.1157),
     (0.0217284919, 0.0217284919, 0.00961875), (_H, 0, _H, 0)),
    ("forearm", (-0.24355, 0, 0), (1, 0, 0, 0), 1.437, (-0.1632, 0, 0.0238),
     (0.0065445702, 0.0065445702, 0.00354375), (_H, 0, _H, 0)),
    ("wrist_1", (-0.2132, 0, 0.13105), (1, 0, 0, 0), 0.871, (0, -0.01, 0),
     (0.002085, 0.002085, 0.00225), (1, 0, 0, 0)),
    ("wrist_2", (0, -0.08535, 0), (_H, _H, 0, 0), 0.805, (0, 0.01, 0),
     (0.002085, 0.002085, 0.00225), (1, 0, 0, 0)),
    ("wrist_3", (0, 0.0921, 0), (_H, -_H, 0, 0), 0.261, (0, 0, -0.02),
     (0.0001362667, 0.0001362667, 0.0001792), (1, 0, 0, 0)),
)  # fmt: skip
# Capsules (from, to, radius in m) drawn and collided for each link.
_CAPSULES = {
    "shoulder": (((0, 0, -0.06), (0, 0, 0), 0.058), ((0, 0, 0), (0, -0.06, 0), 0.055)),
    "upper_arm": (((0, 0, 0.12), (-0.24355, 0, 0.12), 0.045),
                  ((-0.24355, 0, 0.06), (-0.24355, 0, 0.12), 0.05)),
    "forearm": (((0, 0, 0.027), (-0.2132, 0, 0.027), 0.036),
                ((-0.2132, 0, 0.027), (-0.2132, 0, 0.06), 0.036)),
    "wrist_1": (((0, 0, -0.06), (0, 0, 0), 0.034), ((0, 0, 0), (0, -0.04, 0), 0.034)),
    "wrist_2": (((0, 0, -0.01), (0, 0, 0), 0.034), ((0, 0, 0), (0, 0.04, 0), 0.034)),
    "wrist_3": (((0, 0, -0.026), (0, 0, -0.01), 0.032),),
}  # fmt: skip


def forward_kinematics(q: Sequence[float] | Array) -> Array:
    """Flange pose [4, 4] in the base frame (m) for joint positions [6] (rad), by DH."""
    pose = np.eye(4)
    for angle, a, d, alpha in zip(q, DH_A, DH_D, DH_ALPHA, strict=True):
        c, s, ca, sa = math.cos(angle), math.sin(angle), math.cos(alpha), math.sin(alpha)
        pose = pose @ np.array(
            [
                [c, -s * ca, s * sa, a * c],
                [s, c * ca, -c * sa, a * s],
                [0.0, sa, ca, d],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )
    return pose


def element(tag: str, *children: str, **attributes: object) -> str:
    """One XML element; numbers keep all 17 digits so that the model is the numbers."""

    def text(value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, (tuple, list, np.ndarray)):
            return " ".join(text(v) for v in value)
        return f"{value:.17g}" if isinstance(value, (int, float, np.floating)) else str(value)

    head = " ".join([tag, *(f'{k.rstrip("_")}="{text(v)}"' for k, v in attributes.items())])
    return f"<{head}>{''.join(children)}</{tag}>" if children else f"<{head}/>"


def body_chain(tool: str) -> str:
    """MJCF of the arm from its base, with the `tool` elements inside the flange body."""
    inner = element("site", name="flange", group=5) + tool
    for i in reversed(range(6)):
        name, position, quat, mass, com, inertia, inertia_quat = _LINKS[i]
        capsules = (
            element("geom", type="capsule", fromto=(*a, *b), size=r, rgba=_LINK_COLOUR)
            for a, b, r in _CAPSULES[name]
        )
        inner = element(
            "body",
            element("inertial", mass=mass, pos=com, diaginertia=inertia, quat=inertia_quat),
            element(
                "joint",
                name=JOINTS[i],
                axis=(0, 0, 1),
                range=(-JOINT_LIMIT[i], JOINT_LIMIT[i]),
                armature=ARMATURE[i],
                damping=DAMPING[i],
                actuatorfrcrange=(-MAX_TORQUE[i], MAX_TORQUE[i]),
            ),
            *capsules,
            inner,
            name=f"{name}_link",
            pos=position,
            quat=quat,
            gravcomp=1,
        )
    base = element(
        "geom", type="cylinder", pos=(0, 0, 0.045), size=(0.064, 0.045), rgba=_LINK_COLOUR
    )
    return element("body", base, inner, name="base")


def servos() -> str:
    """MJCF position actuators of the six joints, in joint order."""
    return "".join(
        element("position", name=j, joint=j, kp=kp, kv=kv)
        for j, kp, kv in zip(JOINTS, SERVO_STIFFNESS, SERVO_DAMPING, strict=True)
    )
