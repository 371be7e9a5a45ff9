"""The scripted expert: a pure function of the physical state.

It keeps no memory of what it did before, so that it can label any state that a learned
policy gets itself into, and so that what it does can be learnt from what is observed.
Motion follows funnels: the height it aims for falls smoothly with the horizontal distance
to the goal. Lengths in m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ur_motion.control import ROTATION_STEP, TRANSLATION_STEP, WORKSPACE_LOW

from .scene import HALF
from .tasks import OPEN, Start, State, goal_position

Array = NDArray[np.float64]

CLOSE, RELEASE = 1.0, -1.0
GRASP_HEIGHT = 0.01  # tool point above the object's centre when grasping it
CLEAR = 0.065  # extra height while not above the object
HELD = 0.0445  # openings between EMPTY and HELD with the object between the pads: it is held
EMPTY = 0.03  # an opening below this has nothing between the pads
SWEEPABLE = 0.042  # further than this along x from its zone's centre, an object is dragged instead
SAFE_TOOL = 0.064  # tool height at which the fingertips clear an object on the table


def expert_action(start: Start, state: State) -> NDArray[np.float32]:
    """Returns action float32 [7] that the expert takes in `state` on the task of `start`."""
    kind = start.task.kind
    if kind == "push":
        motion, grip = _push(start, state)
    elif kind == "pick":
        motion, grip = _lift(state) if _holding(start, state) else _grasp(start, state)
    else:
        motion, grip = _place(start, state)
    turn = np.clip(-state.command_rotation / ROTATION_STEP, -1.0, 1.0)
    return np.array([*motion, *turn, grip], np.float32)


def _ramp(value: float, low: float, high: float) -> float:
    """Returns 0 below `low`, 1 above `high`, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _towards(state: State, goal: Array, sideways: float = 1.0) -> Array:
    """Returns translation [3] in [-1, 1] straight to a tool position [3], in one step if it can.

    `sideways` below 1 limits the horizontal components.
    """
    motion = (goal - state.command) / TRANSLATION_STEP
    flat = float(np.abs(motion[:2]).max())
    if flat > sideways:
        motion[:2] *= sideways / flat
    return motion / max(1.0, float(np.abs(motion).max()))


def _holding(start: Start, state: State) -> bool:
    offset = state.objects[start.target] - state.tool
    between = bool(np.all(np.abs(offset[:2]) < 0.016)) and -0.032 < offset[2] < 0.014
    return between and EMPTY < state.opening < HELD


def _lift(state: State) -> tuple[Array, float]:
    return _towards(state, np.array([*state.command[:2], 0.16])), CLOSE


def _back_off(state: State) -> tuple[Array, float]:
    """Opens the gripper, going up meanwhile if it is low."""
    return np.array([0.0, 0.0, 1.0 if state.command[2] < SAFE_TOOL + 0.02 else 0.0]), RELEASE


def _reach(target: Array, state: State) -> Array:
    """Returns translation of the open gripper to around an object, down a funnel above it."""
    distance = float(np.linalg.norm(target[:2] - state.command[:2]))
    height = max(target[2] + GRASP_HEIGHT, WORKSPACE_LOW[2])
    if distance > 0.03 and state.command[2] < target[2] - HALF + SAFE_TOOL - 0.02:
        return np.array([0.0, 0.0, 1.0])  # low beside it: up first, not through things
    height += CLEAR * _ramp(distance, 0.008, 0.03)
    return _towards(state, np.array([target[0], target[1], height]))


def _grasp(start: Start, state: State) -> tuple[Array, float]:
    """Goes to the target and closes around it; opens again where nothing was caught."""
    target = state.objects[start.target]
    offset = target - state.tool
    aligned = bool(np.all(np.abs(offset[:2]) < 0.012)) and -0.022 < offset[2] < 0.014
    if aligned and state.opening >= EMPTY:
        goal = np.array([target[0], target[1], max(target[2] + GRASP_HEIGHT, WORKSPACE_LOW[2])])
        return 0.5 * _towards(state, goal), CLOSE
    if state.opening < OPEN:  # closed on nothing, or on something else
        return _back_off(state)
    return _reach(target, state), RELEASE


def _place(start: Start, state: State) -> tuple[Array, float]:
    """Carries the target to its goal (a tray or the top of a cube) and lets go of it there."""
    target, goal = state.objects[start.target], goal_position(start, state)
    stack = start.task.kind == "stack"
    close_by, slack = (0.008, 0.0045) if stack else (0.025, 0.012)
    error = goal - target
    distance = float(np.linalg.norm(error[:2]))
    if distance < close_by and abs(error[2]) < slack:
        up = 1.0 if state.opening > OPEN else 0.0
        return np.array([0.0, 0.0, up]), RELEASE
    if not _holding(start, state):
        return _grasp(start, state)
    # The carried object stays off the table's things until it is above its goal.
    inner, outer = (0.004, 0.03) if stack else (0.015, 0.05)
    clear = 0.045 if stack else 0.055
    height = goal[2] + 0.002 + clear * _ramp(distance, inner, outer)
    # Held low, it first goes up: the sideways speed grows with the height it has gained.
    sideways = _ramp(target[2], HALF - 0.004, HALF + 0.036) if distance > outer else 1.0
    lift = np.array([error[0], error[1], height - target[2]])
    return _towards(state, state.command + lift, sideways), CLOSE


def _push(start: Start, state: State) -> tuple[Array, float]:
    """Straddles the target with the open gripper and sweeps it sideways with one finger."""
    target, goal = state.objects[start.target], goal_position(start, state)
    height = HALF + GRASP_HEIGHT
    error = goal - target
    if _holding(start, state):  # drag it along the table
        return _towards(state, np.array([*(state.command + error)[:2], height])), CLOSE
    if abs(error[0]) > SWEEPABLE:
        return _grasp(start, state)
    if state.opening < OPEN:
        return _back_off(state)
    offset = target - state.tool
    straddled = abs(offset[0]) < 0.014 and abs(offset[1]) < 0.03 and state.tool[2] < 0.042
    if not straddled:
        return _reach(target, state), RELEASE
    gap = 0.5 * state.opening - HALF  # between the object and a finger when it is in the middle
    aim = np.array([target[0], goal[1] + np.sign(error[1]) * gap, height])
    return _towards(state, aim), RELEASE
