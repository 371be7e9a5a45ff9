"""How far an arm is from where it must not be: its ranges, the box, the table, itself."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from ur_motion.arms import JOINT_NAMES

from .kinematics import LINKS, Kinematics
from .limits import Limits

Array = NDArray[np.float64]

_TABLE_LINKS = LINKS[2:]  # the base stands on it, and the shoulder turns at one height
# Links that can touch; neighbours cannot, nor can the hand and the wrist.
_CAN_TOUCH = (
    *itertools.product(("base", "shoulder"), LINKS[3:]),
    *itertools.product(("upper arm",), LINKS[4:]),
    ("forearm", "gripper"),
)
_TINY = 1e-30


class Clearances:
    """One number for each place where an arm can be outside: by how much it is.

    They are joint ranges (rad), the tool point's box (m), the height of each link above the table
    (m) and the overlap of links that can touch (m). Negative means inside.
    """

    def __init__(self, kinematics: Kinematics, limits: Limits):
        self._kinematics, self._limits = kinematics, limits
        self._position = np.array([limits.position_low_rad, limits.position_high_rad])
        self._box = np.array([limits.box_low_m, limits.box_high_m])
        self._floor = limits.table_height_m + limits.clearance_m
        present = [name for name in _TABLE_LINKS if LINKS.index(name) in kinematics.link]
        self._first = np.array([np.argmax(kinematics.link == LINKS.index(n)) for n in present])
        self._pairs, self._one, self._other = _capsule_pairs(kinematics)
        self._pair_first = np.unique(self._pairs, return_index=True)[1]
        self._radii = kinematics.radius[self._one] + kinematics.radius[self._other]
        self._places = (
            *(("range", i, side) for side in (0, 1) for i in range(6)),
            *(("box", i, side) for side in (0, 1) for i in range(3)),
            *(("table", LINKS.index(name), 0) for name in present),
            *(("pair", int(i), 0) for i in self._pairs[self._pair_first]),
        )

    def excess(self, joints: Array, frames: Array) -> Array:
        """Returns how far outside [m, places] of each configuration.

        Args:
            joints: [m, 6] (rad).
            frames: their `Kinematics.frames`.
        """
        low, high = self._position
        tool = self._kinematics.tool_position(frames)
        ends = self._kinematics.capsule_ends(frames)
        heights = np.minimum(ends[:, :, 2, 0], ends[:, :, 2, 1]) - self._kinematics.radius
        lowest = np.minimum.reduceat(heights, self._first, axis=1)
        distances = _distances(ends[:, self._one], ends[:, self._other]) - self._radii
        nearest = np.minimum.reduceat(distances, self._pair_first, axis=1)
        return np.concatenate(
            [
                low - joints,
                joints - high,
                self._box[0] - tool,
                tool - self._box[1],
                self._floor - lowest,
                -nearest,
            ],
            axis=1,
        )

    def describe(self, place: int, excess: float) -> str:
        """Returns a place that is outside by `excess`, in words."""
        kind, i, side = self._places[place]
        sign = 1 if side else -1
        if kind == "range":
            low, high = self._position[:, i]
            value = self._position[side, i] + sign * excess
            return f"{JOINT_NAMES[i]} at {value:.4f} rad, range {low:.4f} to {high:.4f}"
        if kind == "box":
            low, high = self._box[:, i]
            value = self._box[side, i] + sign * excess
            return f"tool at {'xyz'[i]} {value:.4f} m, box {low:.4f} to {high:.4f}"
        if kind == "table":
            return (
                f"{LINKS[i]} at height {self._floor - excess:.4f} m, at least {self._floor:.4f} "
                f"(table {self._limits.table_height_m:.4f}, "
                f"clearance {self._limits.clearance_m:.4f})"
            )
        one, other = _CAN_TOUCH[i]
        return f"{other} {1e3 * excess:.1f} mm inside {one}, limit 0"


def _capsule_pairs(
    kinematics: Kinematics,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Returns indices [p] into _CAN_TOUCH, rising, and of both capsules."""
    pairs = [
        (i, a, b)
        for i, (one, other) in enumerate(_CAN_TOUCH)
        for a in np.flatnonzero((kinematics.link == LINKS.index(one)) & kinematics.is_solid)
        for b in np.flatnonzero((kinematics.link == LINKS.index(other)) & kinematics.is_solid)
    ]
    index, one, other = np.array(pairs).T
    return index, one, other


def _distances(one: Array, other: Array) -> Array:
    """Returns distances [...] between lines given by their ends [..., 3, 2].

    Closest points as in Ericson, Real-Time Collision Detection (2005), section 5.1.9.
    """
    start, path = one[..., 0], one[..., 1] - one[..., 0]
    start2, path2 = other[..., 0], other[..., 1] - other[..., 0]
    gap = start - start2
    a, e = _dot(path, path), _dot(path2, path2)
    b, c, f = _dot(path, path2), _dot(path, gap), _dot(path2, gap)
    a, e = np.maximum(a, _TINY), np.maximum(e, _TINY)  # a line can be a point
    s = _clip((b * f - c * e) / np.maximum(a * e - b * b, _TINY))
    t = _clip((b * s + f) / e)
    s = _clip((b * t - c) / a)
    between = gap + s[..., None] * path - t[..., None] * path2
    return np.sqrt(_dot(between, between))


def _dot(a: Array, b: Array) -> Array:
    return np.einsum("...i,...i->...", a, b)


def _clip(values: Array) -> Array:
    return np.minimum(np.maximum(values, 0.0), 1.0)
