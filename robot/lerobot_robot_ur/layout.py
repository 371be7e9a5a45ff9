"""What is measured and what is commanded, by name.

Every quantity has two names: LeRobot's (`shoulder_pan.pos`), whose tools pass on only what ends in
`.pos` or `.vel`, and that of datasets recorded in lerobot_env_ur3e (`joint_1_rad`). Either is taken
wherever a name is.

Units, under both names: joints in rad, lengths and the gripper's opening (between its pads) in m,
the tool's rotation as a rotation vector in rad from straight down. Positions are those of the tool
point in the arm's base frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ur_motion import rotations
from ur_motion.arms import JOINT_NAMES
from ur_motion.control import STRAIGHT_DOWN

from .errors import ConfigError, Refused

Array = NDArray[np.float64]

JOINT_POSITIONS = tuple(f"{joint}.pos" for joint in JOINT_NAMES)
GRIPPER_OPENING = "gripper.pos"
TOOL_POSE = tuple(f"tool_{kind}{axis}.pos" for kind in ("", "rotation_") for axis in "xyz")
#: Motion of the commanded tool pose, in parts of the largest step, and the gripper: above 0 closes.
TOOL_MOTION = tuple(f"{kind}_{axis}.vel" for kind in ("move", "turn") for axis in "xyz")
TOOL_MOTION = (*TOOL_MOTION, "gripper.vel")
MEASURED = (*JOINT_POSITIONS, GRIPPER_OPENING, *TOOL_POSE)

#: What is measured besides, by the names of groups that can be added to the state.
OPTIONAL = {
    "tool_force": tuple(
        f"tool_{kind}_{axis}.pos" for kind in ("force", "torque") for axis in "xyz"
    ),
    "digital_inputs": tuple(f"digital_input_{i}.pos" for i in range(8)),
    "digital_outputs": tuple(f"digital_output_{i}.pos" for i in range(8)),
}

_DATASET_NAMES = {
    **{f"joint_{i}_rad": name for i, name in enumerate(JOINT_POSITIONS, 1)},
    "gripper_opening_m": GRIPPER_OPENING,
    **{f"tool_{axis}_m": f"tool_{axis}.pos" for axis in "xyz"},
    **{f"tool_rotation_{axis}_rad": f"tool_rotation_{axis}.pos" for axis in "xyz"},
    **{name.removesuffix(".vel"): name for name in TOOL_MOTION},
    **{f"tool_force_{axis}_n": f"tool_force_{axis}.pos" for axis in "xyz"},
    **{f"tool_torque_{axis}_nm": f"tool_torque_{axis}.pos" for axis in "xyz"},
    **{
        name.removesuffix(".pos"): name
        for group in ("digital_inputs", "digital_outputs")
        for name in OPTIONAL[group]
    },
}
_OTHER_NAME = {name: other for other, name in _DATASET_NAMES.items()}


@dataclass(frozen=True)
class Layout:
    """Which quantities an observation holds and which an action, both in their order."""

    name: str
    state: tuple[str, ...]
    action: tuple[str, ...]


LAYOUTS = {
    "joints": Layout(
        "joints", (*JOINT_POSITIONS, GRIPPER_OPENING), (*JOINT_POSITIONS, GRIPPER_OPENING)
    ),
    "tool_motion": Layout("tool_motion", MEASURED, TOOL_MOTION),
}


def find_layout(name: str) -> Layout:
    """Returns the layout of that name; ConfigError with the valid ones."""
    if name not in LAYOUTS:
        raise ConfigError(f"there is no layout {name!r}; valid are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def lerobot_names(names: Iterable[str], valid: Sequence[str]) -> list[str]:
    """Returns LeRobot's names of quantities; ConfigError names all that are not among `valid`."""
    translated = {name: _DATASET_NAMES.get(name, name) for name in names}
    if unknown := [name for name, own in translated.items() if own not in valid]:
        both = ", ".join(f"{name} ({_OTHER_NAME[name]})" for name in valid)
        raise ConfigError(f"unknown: {', '.join(unknown)}; valid are {both}")
    return list(translated.values())


def measured_names(has_gripper: bool) -> tuple[str, ...]:
    """Returns what is measured of an arm, with or without a gripper."""
    return MEASURED if has_gripper else tuple(n for n in MEASURED if n != GRIPPER_OPENING)


def optional_names(groups: Iterable[str] = OPTIONAL) -> tuple[str, ...]:
    """Returns the names of groups in OPTIONAL; ConfigError with the valid ones."""
    if unknown := [group for group in groups if group not in OPTIONAL]:
        raise ConfigError(f"no state {', '.join(unknown)}; valid are {', '.join(OPTIONAL)}")
    return tuple(name for group in groups for name in OPTIONAL[group])


def optional_values(tool_force: Array, digital_inputs: int, digital_outputs: int) -> Array:
    """Returns all optional quantities: force and torque [6] (N, Nm, base axes), then the bits."""
    bits = [float(word >> i & 1) for word in (digital_inputs, digital_outputs) for i in range(8)]
    return np.array([*tool_force, *bits])


def indices(names: Iterable[str], of: Sequence[str]) -> NDArray[np.intp]:
    """Returns where in `of` (LeRobot's names) each quantity stands, by either of its names.

    Raises:
        ConfigError: names that are not among them.
    """
    return np.array([of.index(name) for name in lerobot_names(names, of)], np.intp)


@dataclass(frozen=True)
class Measurement:
    """Joints [6] (rad), tool point [3] (m) and rotation [3, 3] in the base frame, opening (m).

    The opening is None where there is no gripper.
    """

    joints: Array
    tool_position: Array
    tool_rotation: Array
    gripper_opening_m: float | None

    def values(self, names: Iterable[str]) -> Array:
        """Returns the named quantities [n]; ConfigError for names that measure nothing here."""
        return self.all()[indices(names, measured_names(self.gripper_opening_m is not None))]

    def all(self) -> Array:
        """Returns all quantities [n], in the order of `measured_names`."""
        opening = () if self.gripper_opening_m is None else (self.gripper_opening_m,)
        rotation = rotations.log(self.tool_rotation @ STRAIGHT_DOWN.T)
        return np.array([*self.joints, *opening, *self.tool_position, *rotation], np.float64)


@dataclass(frozen=True)
class Target:
    """Where one action leads: joints [6] (rad), opening (m, None leaves the gripper alone), and
    the action [A] as far as it could be taken over."""

    joints: Array
    gripper_opening_m: float | None
    action: Array


class ActionSpace(Protocol):
    """Turns actions into targets of the joints."""

    names: tuple[str, ...]

    def plan(self, actions: Array, joints: ArrayLike) -> list[Target]:
        """Returns the targets of actions [n, A] in a row, for an arm told to be at `joints`."""
        ...

    def accept(self) -> None:
        """Takes note that the first of the planned targets was sent."""
        ...

    def forget(self) -> None:
        """Takes note that the arm was told something else since: begin where it is."""
        ...


class JointTargets:
    """Actions are positions of the joints (rad) and the gripper's opening (m)."""

    def __init__(self, names: tuple[str, ...] = LAYOUTS["joints"].action):
        self.names = names

    def plan(self, actions: Array, joints: ArrayLike) -> list[Target]:
        has_gripper = GRIPPER_OPENING in self.names
        return [Target(a[:6], float(a[6]) if has_gripper else None, a) for a in actions]

    def accept(self) -> None:
        pass

    def forget(self) -> None:
        pass


def read_action(action: Mapping[str, Any], names: Sequence[str]) -> Array:
    """Returns the action's values [n] in the order of `names` (LeRobot's).

    Raises:
        ConfigError: names that are missing or unknown.
    """
    own = dict(zip(lerobot_names(action, names), action.values(), strict=True))
    if missing := [name for name in names if name not in own]:
        raise ConfigError(f"the action lacks {', '.join(missing)}; it has {', '.join(action)}")
    return np.array([float(own[name]) for name in names], np.float64)


def demand_numbers(actions: Array, names: Sequence[str]) -> None:
    """Checks that all values of actions [n, A] are finite.

    Raises:
        Refused: with the names of those of the first action that are not.
    """
    for action in actions[~np.isfinite(actions).all(axis=1)]:
        pairs = zip(names, action, strict=True)
        raise Refused([f"{name} is {value}" for name, value in pairs if not np.isfinite(value)])
