"""Forward kinematics: where the tool and the outside of every link are.

The outside of the arm is a set of capsules (`shapes`). They are generous: housings are about 5 mm
thicker than drawn, and the gripper has the outside of all its openings at once. Everything takes
one set of joint positions or many, with numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ur_motion import rotations
from ur_motion.control import TOOL_POINT

from .calibration import Calibration, published
from .errors import ConfigError
from .models import RobotModel
from .shapes import shape_of

Array = NDArray[np.float64]

#: Pose of the tool point in the flange frame (m, rad): between the pads of the Robotiq 2F-85.
DEFAULT_TCP = TOOL_POINT
#: What capsules belong to, from the base on; `base` does not move.
LINKS = ("base", "shoulder", "upper arm", "forearm", "wrist 1", "wrist 2", "wrist 3", "gripper")
_FRAME_OF_LINK = (0, 1, 2, 3, 4, 5, 6, 6)  # index into `Kinematics.frames`

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of the line from `start` to `end` (m, in its link's frame)."""

    start: Point
    end: Point
    radius: float


@dataclass(frozen=True)
class GripperShape:
    """Outside of a gripper with two parallel fingers, over all of its openings.

    Lengths in m from the flange's centre: z along the tool, y along the opening, x across.

    Attributes:
        palm: length, half width along x and half width along y of its body.
        fingers: where the fingers end, and half widths of the space they move in.
        knuckles: where the widest part begins and ends, and its half widths; where it is no
            wider than the fingers, the palm's end, and the fingers' half widths.
    """

    palm: tuple[float, float, float]
    fingers: tuple[float, float, float]
    knuckles: tuple[float, float, float, float]

    def capsules(self) -> list[Capsule]:
        """Returns thin rods along the edges, so that the lowest point is exact, and a filled
        middle."""
        palm, palm_x, palm_y = self.palm
        tip, tip_x, tip_y = self.fingers
        begin, end, knuckle_x, knuckle_y = self.knuckles
        rods = [
            Capsule((sx * x, sy * y, low), (sx * x, sy * y, high), _ROD)
            for x, y, low, high in (
                (palm_x, palm_y, 0.0, palm),
                (knuckle_x, knuckle_y, begin, end),
                (tip_x, tip_y, end, tip),
            )
            for sx in (-1, 1)
            for sy in (-1, 1)
        ]
        inside = max(palm_x, palm_y)
        middle = Capsule((0.0, 0.0, 0.0), (0.0, 0.0, palm - inside / 2), inside)
        across = [
            Capsule((0.0, -y, z), (0.0, y, z), x)
            for x, y, z in (
                (knuckle_x, knuckle_y - knuckle_x, (begin + end) / 2),
                (tip_x, tip_y - tip_x, (end + tip) / 2),
                (tip_x, tip_y - tip_x, tip - tip_x),
            )
        ]
        return [*rods, middle, *across]


_ROD = 0.001  # m, radius of the rods along a gripper's edges

# Fingers of the 2F-85 as in lerobot_env_ur3e: pads of 22 x 37.5 mm around 141 mm, 101.4 mm outside
# to outside. Its knuckles (149 mm over both when open) and the OnRobot shapes are estimates from
# above, not taken from a drawing: to be measured on the gripper before it is used near things.
GRIPPERS: dict[str, GripperShape | None] = {
    "none": None,
    "robotiq_2f85": GripperShape(
        (0.076, 0.0375, 0.05), (0.15975, 0.011, 0.0507), (0.055, 0.11, 0.0135, 0.0745)
    ),
    "rg2": GripperShape((0.09, 0.038, 0.05), (0.215, 0.013, 0.075), (0.09, 0.15, 0.02, 0.075)),
    "rg6": GripperShape((0.11, 0.045, 0.06), (0.275, 0.016, 0.105), (0.11, 0.19, 0.025, 0.105)),
    "2fg7": GripperShape((0.1, 0.045, 0.072), (0.16, 0.015, 0.06), (0.06, 0.1, 0.045, 0.072)),
}


def _arm_capsules(model: RobotModel) -> dict[str, list[Capsule]]:
    """Returns capsules of each link in its frame."""
    return {
        link: [Capsule((r[0], r[1], r[2]), (r[3], r[4], r[5]), r[6]) for r in rows]
        for link, rows in shape_of(model).items()
    }


def extra_capsules(extra: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[Capsule]]:
    """Returns capsules of what is mounted on links: cameras, cables.

    Args:
        extra: for a link in LINKS rows of 7 numbers, a capsule's ends and radius, or of 6, a box's
            lowest and highest corner; m, in the link's frame (of the gripper the flange's).

    Raises:
        ConfigError: names every row that is neither.
    """
    problems, shapes = [], {}
    for link, rows in extra.items():
        if link not in LINKS:
            problems.append(f"extra_shapes: no link {link!r}; there are {', '.join(LINKS)}")
            continue
        shapes[link] = []
        for row in rows:
            values = np.array(row, np.float64) if _are_numbers(row) else np.empty(0)
            if len(values) == 7 and values[6] > 0.0:
                shapes[link].append(_capsule(values[:3], values[3:6], values[6]))
            elif len(values) == 6 and (values[3:] > values[:3]).all():
                shapes[link] += _box(values[:3], values[3:])
            else:
                problems.append(
                    f"extra_shapes: {link}: {row!r} is neither a capsule (7 numbers, the last one "
                    "a radius above 0) nor a box (6, the lowest corner first)"
                )
    if problems:
        raise ConfigError(problems)
    return shapes


def _are_numbers(row: object) -> bool:
    if not isinstance(row, Sequence) or isinstance(row, str):
        return False
    return all(isinstance(v, (int, float)) and math.isfinite(v) for v in row)


def _capsule(start: Array, end: Array, radius: float) -> Capsule:
    (a, b, c), (d, e, f) = start.tolist(), end.tolist()
    return Capsule((a, b, c), (d, e, f), float(radius))


def _box(low: Array, high: Array) -> list[Capsule]:
    """Returns capsules side by side, along the longest edge, in which a box lies."""
    size = high - low
    thin, wide, long = np.argsort(size)
    count = math.ceil(size[wide] / size[thin])
    strip = size[wide] / count
    capsules = []
    for i in range(count):
        start = (low + high) / 2
        start[wide] = low[wide] + (i + 0.5) * strip
        end = start.copy()
        start[long], end[long] = low[long], high[long]
        capsules.append(_capsule(start, end, float(np.hypot(size[thin], strip)) / 2))
    return capsules


class Kinematics:
    """One arm with its tool centre point and gripper.

    Args:
        model: the arm.
        tcp: pose [6] of the tool point in the flange frame: m, and a rotation vector in rad.
        gripper: a name in GRIPPERS.
        extra: what else is mounted on it; see `extra_capsules`.
        calibration: its own lengths; by default the published ones.

    Attributes:
        link: index into LINKS of each capsule, int [C].
        radius: radius of each capsule [C] (m).
        is_solid: whether it is more than an edge of the gripper, bool [C].
        point_names: what each of `points` belongs to: "tool", or one of LINKS.

    Raises:
        ConfigError: the tool point or the gripper's name is no good.
    """

    def __init__(
        self, model: RobotModel, tcp: ArrayLike = DEFAULT_TCP, gripper: str = "robotiq_2f85",
        extra: Mapping[str, Sequence[Sequence[float]]] | None = None,
        calibration: Calibration | None = None,
    ):  # fmt: skip
        pose = np.asarray(tcp, np.float64)
        problems = []
        if pose.shape != (6,) or not np.isfinite(pose).all():
            problems.append(f"tcp must be 6 numbers (m, m, m, rad, rad, rad), got {tcp!r}")
        if gripper not in GRIPPERS:
            problems.append(f"no gripper {gripper!r}; there are {', '.join(GRIPPERS)}")
        if problems:
            raise ConfigError(problems)
        self._tcp = np.eye(4)
        self._tcp[:3, :3], self._tcp[:3, 3] = rotations.exp(pose[3:]), pose[:3]
        self._joints, to_flange = published(model).steps()
        if calibration is not None:
            self._joints, to_flange = calibration.steps_near(self._joints)
        self._tcp = to_flange @ self._tcp
        shapes = _arm_capsules(model)
        shape = GRIPPERS[gripper]
        shapes["gripper"] = [] if shape is None else shape.capsules()
        for link, capsules in extra_capsules(extra or {}).items():
            shapes[link] = shapes[link] + capsules
        capsules = [(LINKS.index(name), c) for name in LINKS for c in shapes[name]]
        self.link = np.array([link for link, _ in capsules])
        self.radius = np.array([c.radius for _, c in capsules])
        self.is_solid = self.radius > _ROD
        self._frame = np.array(_FRAME_OF_LINK)[self.link]
        self._ends = np.ones((len(capsules), 4, 2))
        for i, (_, c) in enumerate(capsules):
            self._ends[i, :3, 0], self._ends[i, :3, 1] = c.start, c.end
        self._points, self.point_names = self._moving_points()

    def _moving_points(self) -> tuple[list[tuple[int, Array]], list[str]]:
        """Returns points [4, n] of each frame that moves, the tool point first, and their names."""
        points, names = [(6, np.append(self._tcp[:3, 3], 1.0)[:, None])], ["tool"]
        for link in range(1, len(LINKS)):
            own = self._ends[self.link == link].transpose(1, 0, 2).reshape(4, -1)
            own = np.unique(own, axis=1)
            points.append((_FRAME_OF_LINK[link], own))
            names += [LINKS[link]] * own.shape[1]
        return points, names

    def frames(self, joints: ArrayLike) -> Array:
        """Returns frames [..., 7, 4, 4] of the base and the six links (m) at joints [..., 6] (rad).

        The frame of link i has its origin on the axis of joint i and z along that axis, and
        turns with it; the last is the flange, but for what a calibration has between the two. It
        follows the DH frame of the joint before by d along z and the joint's angle about z.
        """
        q = np.asarray(joints, np.float64)
        c, s = np.cos(q)[..., None], np.sin(q)[..., None]
        fixed = self._joints
        steps = np.empty((*q.shape, 4, 4))
        steps[..., 0] = c * fixed[:, :, 0] + s * fixed[:, :, 1]
        steps[..., 1] = c * fixed[:, :, 1] - s * fixed[:, :, 0]
        steps[..., 2:] = fixed[:, :, 2:]
        frames = np.empty((*q.shape[:-1], 7, 4, 4))
        frames[..., 0, :, :] = np.eye(4)
        frames[..., 1, :, :] = steps[..., 0, :, :]
        for i in range(1, 6):
            np.matmul(frames[..., i, :, :], steps[..., i, :, :], out=frames[..., i + 1, :, :])
        return frames

    def tool(self, joints: ArrayLike) -> tuple[Array, Array]:
        """Returns position [..., 3] (m) and rotation [..., 3, 3] of the tool in the base frame."""
        frame = self.frames(joints)[..., 6, :, :] @ self._tcp
        return frame[..., :3, 3], frame[..., :3, :3]

    def tool_position(self, frames: Array) -> Array:
        """Returns position [..., 3] (m) of the tool point, from `frames`."""
        flange = frames[..., 6, :3, :]
        point = np.append(self._tcp[:3, 3], 1.0)
        return np.einsum("...ij,j->...i", flange, point)

    def points(self, frames: Array) -> Array:
        """Returns the tool point and all capsules' ends [..., P, 3] (m, base frame), from `frames`.

        `point_names` [P] are what they belong to. No part of arm or gripper moves faster than the
        fastest of them, but for the thickness of a housing that turns.
        """
        parts = [frames[..., i, :3, :] @ points for i, points in self._points]
        return np.swapaxes(np.concatenate(parts, axis=-1), -1, -2)

    def jacobian(self, joints: ArrayLike) -> Array:
        """Returns [..., 6, 6] from joint speeds (rad/s) to the tool's velocity (m/s, then
        rad/s)."""
        frames = self.frames(joints)
        axes, origins = frames[..., 1:, :3, 2], frames[..., 1:, :3, 3]
        arms = self.tool_position(frames)[..., None, :] - origins
        columns = np.concatenate([np.cross(axes, arms), axes], axis=-1, dtype=np.float64)
        return np.swapaxes(columns, -1, -2)

    def capsule_ends(self, frames: Array) -> Array:
        """Returns both ends [..., C, 3, 2] (m, base frame) of all capsules, from `frames`."""
        return frames[..., self._frame, :3, :] @ self._ends


def calibration_offset_m(model: RobotModel, calibration: Calibration) -> float:
    """Returns how far (m) the flange is from where published lengths have it, at most over some
    hundred joint positions."""
    joints = np.random.default_rng(0).uniform(-np.pi, np.pi, (500, 6))
    own, nominal = (Kinematics(model, np.zeros(6), "none", None, c) for c in (calibration, None))
    return float(np.linalg.norm(own.tool(joints)[0] - nominal.tool(joints)[0], axis=-1).max())
