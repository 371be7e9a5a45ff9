"""The UR3e as an MJCF body chain.

Lengths, limits and masses are those of `ur_motion.arms`; torques and inertias are from the same
description (UniversalRobots ROS 2, config/ur3e).
"""

from __future__ import annotations

import math

import numpy as np
from ur_motion.arms import (
    JOINT_LIMIT,
    JOINT_NAMES,
    JOINT_ROTATIONS,
    LINK_CENTRES,
    LINK_MASSES,
    UR3E,
)

MAX_TORQUE = (54.0, 54.0, 28.0, 9.0, 9.0, 9.0)  # Nm

# Reflected motor inertia, viscous friction and servo gains are ours: they make the position
# servo follow a command within a few milliseconds, as the real controller does.
ARMATURE = (0.1, 0.1, 0.05, 0.02, 0.02, 0.02)  # kg m^2
DAMPING = (1.0, 1.0, 0.6, 0.2, 0.2, 0.2)  # Nm s/rad
SERVO_STIFFNESS = (4000, 4000, 3000, 600, 600, 600)  # Nm/rad
SERVO_DAMPING = (90, 90, 70, 14, 14, 14)  # Nm s/rad

_H = math.sqrt(0.5)
_LINK_COLOUR = "0.7 0.75 0.8 1"
# Principal moments of inertia of each link (kg m^2), and their axes as a quaternion.
_INERTIAS = (
    ((0.0080931666, 0.0080931666, 0.005625), (1, 0, 0, 0)),
    ((0.0217284919, 0.0217284919, 0.00961875), (_H, 0, _H, 0)),
    ((0.0065445702, 0.0065445702, 0.00354375), (_H, 0, _H, 0)),
    ((0.002085, 0.002085, 0.00225), (1, 0, 0, 0)),
    ((0.002085, 0.002085, 0.00225), (1, 0, 0, 0)),
    ((0.0001362667, 0.0001362667, 0.0001792), (1, 0, 0, 0)),
)
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


#: The bodies that turn with the joints, in joint order.
BODIES = tuple(f"{link}_link" for link in _CAPSULES)


def element(tag: str, *children: str, **attributes: object) -> str:
    """Returns one XML element; numbers keep all 17 digits so that the model is the numbers."""

    def text(value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, (tuple, list, np.ndarray)):
            return " ".join(text(v) for v in value)
        return f"{value:.17g}" if isinstance(value, (int, float, np.floating)) else str(value)

    head = " ".join([tag, *(f'{k.rstrip("_")}="{text(v)}"' for k, v in attributes.items())])
    return f"<{head}>{''.join(children)}</{tag}>" if children else f"<{head}/>"


def body_chain(tool: str) -> str:
    """Returns the MJCF of the arm from its base, with the `tool` elements inside the flange
    body."""
    inner = element("site", name="flange", group=5) + tool
    for i in reversed(range(6)):
        name = tuple(_CAPSULES)[i]
        inertia, axes = _INERTIAS[i]
        capsules = (
            element("geom", type="capsule", fromto=(*a, *b), size=r, rgba=_LINK_COLOUR)
            for a, b, r in _CAPSULES[name]
        )
        inner = element(
            "body",
            element(
                "inertial", mass=LINK_MASSES[i], pos=LINK_CENTRES[i], diaginertia=inertia, quat=axes
            ),
            element(
                "joint",
                name=JOINT_NAMES[i],
                axis=(0, 0, 1),
                range=(-JOINT_LIMIT[i], JOINT_LIMIT[i]),
                armature=ARMATURE[i],
                damping=DAMPING[i],
                actuatorfrcrange=(-MAX_TORQUE[i], MAX_TORQUE[i]),
            ),
            *capsules,
            inner,
            name=f"{name}_link",
            pos=UR3E.joint_offsets[i],
            quat=JOINT_ROTATIONS[i],
            gravcomp=1,
        )
    base = element(
        "geom", type="cylinder", pos=(0, 0, 0.045), size=(0.064, 0.045), rgba=_LINK_COLOUR
    )
    return element("body", base, inner, name="base")


def servos() -> str:
    """Returns MJCF position actuators of the six joints, in joint order."""
    return "".join(
        element("position", name=j, joint=j, kp=kp, kv=kv)
        for j, kp, kv in zip(JOINT_NAMES, SERVO_STIFFNESS, SERVO_DAMPING, strict=True)
    )
