"""The scene: table, trays, zones, objects, gripper and cameras, as one MJCF.

All lengths in m, in the robot's base frame: the arm reaches towards -x, +y is "left" and
-y is "right" in the scene camera's image. The table top is z = 0.

All six objects are always in the model, so that one MjModel serves every task and start;
a start uses three and parks the others (see `PARKING`). What only perturbed scenes have, a
texture of the table and `DISTRACTORS`, is in the model if it is asked for.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from ur_motion.control import TOOL_OFFSET

from .arm import body_chain, element, servos

Array = NDArray[np.float64]

PHYSICS_STEP = 0.005  # s
COLOURS = ("red", "green", "blue")
SHAPES = ("cube", "cylinder")
#: Object i has colour COLOURS[i % 3] and shape SHAPES[i // 3].
OBJECTS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
HALF = 0.02  # half the edge of a cube, half the height and the radius of a cylinder
OBJECT_MASS = 0.04  # kg
#: Absent objects float here, behind and above the scene camera, where nothing sees or touches
#: them. (Below the table is no place for them: a plane collides with all that is under it.)
PARKING = tuple((-2.0, 0.3 * i, 2.0) for i in range(6))

#: What lies about beside the objects, of no colour or shape that a task names: shape, half sizes
#: (m, as MuJoCo has them) and colour. None reaches further than DISTRACTOR_REACH from its centre.
DISTRACTORS = (
    ("box", (0.016, 0.008, 0.012), "0.95 0.5 0.1 1"),
    ("ellipsoid", (0.018, 0.013, 0.01), "0.1 0.75 0.75 1"),
    ("capsule", (0.009, 0.011), "0.45 0.3 0.2 1"),
    ("box", (0.012, 0.014, 0.004), "0.9 0.55 0.75 1"),
    ("ellipsoid", (0.016, 0.016, 0.011), "0.35 0.35 0.38 1"),
    ("capsule", (0.012, 0.006), "0.93 0.9 0.82 1"),
)
DISTRACTOR_REACH = 0.02
DISTRACTOR_PARKING = tuple((-2.0, 0.3 * i, 2.5) for i in range(len(DISTRACTORS)))

#: Where the scene camera stands, and what it looks at.
SCENE_EYE, SCENE_TARGET = np.array([-0.63, 0.0, 0.72]), np.array([-0.25, 0.0, 0.01])
TABLE_TEXELS = 128

SIDES = ("left", "right")
TRAY = {"left": np.array([-0.185, 0.155]), "right": np.array([-0.185, -0.155])}
TRAY_HALF = 0.045
TRAY_LIP = 0.008  # lower than the finger pads ever come, so fingers may open over it
ZONE = {"left": np.array([-0.315, 0.155]), "right": np.array([-0.315, -0.155])}
ZONE_HALF = np.array([0.065, 0.045])

FINGER_STROKE = 0.0427  # per finger; both together open 0.085 m
PAD_HALF = (0.011, 0.004, 0.01875)
GRIP_FORCE = 25.0  # N

_COLOUR_RGBA = {
    "red": "0.85 0.1 0.1 1", "green": "0.1 0.65 0.15 1", "blue": "0.12 0.2 0.9 1",
}  # fmt: skip
# The arm (bit 1) meets the world (bit 2) but not itself: self-collision is ruled out by the
# workspace box, and testing for it would cost time in every step.
_WORLD = {"contype": 2, "conaffinity": 3}
_GHOST = {"contype": 0, "conaffinity": 0}


def look_at(eye: Array, at: Array) -> Array:
    """Returns camera axes (x then y, [6]) for a camera at `eye` looking at `at`, z up."""
    z = (eye - at) / np.linalg.norm(eye - at)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    return np.asarray(np.concatenate([x, np.cross(z, x)]), np.float64)


def _finger(name: str, side: int) -> str:
    """Returns one sliding finger; `side` +1 or -1 is its direction of opening along the tool's
    y."""
    y = side * PAD_HALF[1]
    return element(
        "body",
        element("inertial", mass=0.05, pos=(0, 0, 0.12), diaginertia=(2e-5, 2e-5, 2e-5)),
        element(
            "joint",
            name=name,
            type="slide",
            axis=(0, side, 0),
            range=(0, FINGER_STROKE),
            armature=0.05,
            # Damping against GRIP_FORCE limits the speed to about 0.15 m/s of opening, which is
            # the 2F-85's fastest.
            damping=160,
        ),
        element(
            "geom", type="box", pos=(0, y, TOOL_OFFSET), size=PAD_HALF, condim=4,
            friction=(1.5, 0.02, 0.001), solref=(0.01, 1), rgba="0.1 0.1 0.1 1",
        ),
        element("geom", type="box", pos=(0, 2 * y, 0.1), size=(0.009, 0.008, 0.024),
                rgba="0.2 0.2 0.22 1"),
        name=name,
        gravcomp=1,
    )  # fmt: skip


def gripper() -> str:
    """Returns a two-finger gripper of the 2F-85's measures, the tool point and the wrist camera."""
    tilt = math.radians(22)
    return (
        element("geom", type="box", pos=(0, 0, 0.038), size=(0.028, 0.05, 0.038),
                rgba="0.28 0.28 0.32 1", mass=0.8)
        + _finger("finger_left", 1)
        + _finger("finger_right", -1)
        + element("site", name="tool", pos=(0, 0, TOOL_OFFSET), group=5)
        # On the outer side of the gripper, looking along it and a little inwards; turned so that
        # left, right and the robot's side are where the scene camera's picture has them.
        + element("camera", name="wrist", pos=(0.08, 0, 0.03), fovy=72,
                  xyaxes=(0, -1, 0, -math.cos(tilt), 0, -math.sin(tilt)))
    )  # fmt: skip


def _tray(centre: Array) -> str:
    """Returns a tray: its floor is only drawn (things rest on the table), its lips collide."""
    colour = "0.95 0.8 0.2 1"
    x, y, half, lip = *centre, TRAY_HALF, TRAY_LIP / 2
    walls = [((x + s * half, y, lip), (0.003, half + 0.003, lip)) for s in (-1, 1)]
    walls += [((x, y + s * half, lip), (half + 0.003, 0.003, lip)) for s in (-1, 1)]
    floor = element("geom", type="box", pos=(x, y, 0.0005), size=(half, half, 0.0005),
                    rgba="0.8 0.62 0.1 1", **_GHOST)  # fmt: skip
    return floor + "".join(
        element("geom", type="box", pos=p, size=s, rgba=colour, **_WORLD) for p, s in walls
    )


def _zone(centre: Array) -> str:
    """Returns a zone: a light frame and a purple field, painted on the table."""
    outer = element("geom", type="box", pos=(*centre, 0.0003), size=(*ZONE_HALF, 0.0003),
                    rgba="0.97 0.97 0.97 1", **_GHOST)  # fmt: skip
    inner = element("geom", type="box", pos=(*centre, 0.0007), size=(*(ZONE_HALF - 0.007), 0.0003),
                    rgba="0.5 0.25 0.6 1", **_GHOST)  # fmt: skip
    return outer + inner


def _object(index: int) -> str:
    colour, shape = OBJECTS[index].split()
    kind, size = ("box", (HALF, HALF, HALF)) if shape == "cube" else ("cylinder", (HALF, HALF))
    return element(
        "body",
        # The damping only matters to a toppled cylinder, which would otherwise roll for ever.
        element("joint", name=OBJECTS[index], type="free", damping=2e-4),
        element("geom", type=kind, size=size, mass=OBJECT_MASS, rgba=_COLOUR_RGBA[colour],
                friction=(1.0, 0.02, 0.001), **_WORLD),
        name=OBJECTS[index],
        pos=PARKING[index],
    )  # fmt: skip


def _visual() -> str:
    # Shadows and multisampling cost 140 ms a frame on software rendering; without them, 2 ms.
    return element(
        "visual",
        element("quality", shadowsize=0, offsamples=0),
        element("map", znear=0.01, zfar=4),
        element("headlight", ambient=(0.4,) * 3, diffuse=(0.25,) * 3, specular=(0,) * 3),
    )


def _distractor(index: int) -> str:
    kind, size, colour = DISTRACTORS[index]
    return element(
        "body",
        element("joint", name=f"distractor {index}", type="free", damping=2e-4),
        element("geom", type=kind, size=size, mass=OBJECT_MASS, rgba=colour, **_WORLD),
        name=f"distractor {index}",
        pos=DISTRACTOR_PARKING[index],
    )


def _table_texture() -> str:
    """Returns a white texture, whose texels are for a perturbation to change."""
    return element(
        "asset",
        element("texture", name="table", type="2d", builtin="flat", rgb1=(1, 1, 1),
                width=TABLE_TEXELS, height=TABLE_TEXELS),
        element("material", name="table", texture="table"),
    )  # fmt: skip


def _world(distractors: bool, textured: bool) -> str:
    material = {"material": "table"} if textured else {}
    return "".join(
        [
            element("light", directional="true", pos=(-0.3, 0.6, 1), dir=(0.25, -0.5, -1),
                    diffuse=(0.45, 0.45, 0.45), specular=(0, 0, 0), castshadow="false"),
            element("geom", name="table", type="plane", pos=(-0.25, 0, 0), size=(0.55, 0.6, 0.1),
                    friction=(1, 0.005, 0.0001), rgba="0.78 0.74 0.68 1", **material,
                    **_WORLD),
            element("camera", name="scene", pos=SCENE_EYE,
                    xyaxes=look_at(SCENE_EYE, SCENE_TARGET), fovy=32),
            *(_tray(TRAY[side]) + _zone(ZONE[side]) for side in SIDES),
            *(_object(i) for i in range(len(OBJECTS))),
            *(_distractor(i) for i in range(len(DISTRACTORS) if distractors else 0)),
        ]
    )  # fmt: skip


def scene_xml(*, distractors: bool = False, textured: bool = False) -> str:
    """Returns the MJCF of the whole scene, as it is or with what perturbed scenes have."""
    return element(
        "mujoco",
        element("compiler", angle="radian", autolimits="true"),
        element("option", timestep=PHYSICS_STEP, integrator="implicitfast", cone="elliptic",
                impratio=5, iterations=20),
        element("statistic", extent=1, center=(-0.25, 0, 0.1)),
        _visual(),
        element("default", element("geom", contype=1, conaffinity=0)),
        _table_texture() if textured else "",
        element("worldbody", body_chain(gripper()), _world(distractors, textured)),
        element("equality", element("joint", joint1="finger_right", joint2="finger_left",
                                    polycoef=(0, 1, 0, 0, 0), solref=(0.01, 1))),
        element("actuator", servos(), element(
            "position", name="gripper", joint="finger_left", kp=3000, kv=10,
            forcerange=(-GRIP_FORCE, GRIP_FORCE), ctrlrange=(-0.01, FINGER_STROKE))),
        model="ur3e_tabletop",
    )  # fmt: skip


def kinematics_xml() -> str:
    """Returns the MJCF of the arm alone (6 degrees of freedom), for inverse kinematics."""
    tool = element("site", name="tool", pos=(0, 0, TOOL_OFFSET), group=5)
    return element(
        "mujoco",
        element("compiler", angle="radian", autolimits="true"),
        element("worldbody", body_chain(tool)),
        model="ur3e_kinematics",
    )
