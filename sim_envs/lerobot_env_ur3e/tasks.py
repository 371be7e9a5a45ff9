"""The six tasks: what they ask for, and when the physical state fulfils them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scene import HALF, TRAY, ZONE

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """A task: its place in TASKS numbers its starts; `limit` is in control steps."""

    name: str
    kind: str  # pick, place, push or stack: which predicate and expert it uses
    template: str
    limit: int


TASKS: tuple[Task, ...] = (
    Task("pick_cube", "pick", "pick up the {object}", 50),
    Task("pick_cylinder", "pick", "pick up the {object}", 50),
    Task("place_tray", "place", "put the {object} in the {side} tray", 80),
    Task("push_zone", "push", "push the {object} to the {side} zone", 60),
    Task("stack", "stack", "stack the {object} on the {support}", 80),
    Task("pick_side", "pick", "pick up the {side} {shape}", 50),
)
TASK_NAMES = tuple(task.name for task in TASKS)

PICK_HEIGHT = 0.08  # m the object must be lifted
OPEN = 0.06  # m of opening above which an object of 0.04 m is certainly released
TRAY_TOLERANCE = 0.03  # m from the tray's centre, along x and along y
ZONE_TOLERANCE = np.array([0.05, 0.035])  # m from the zone's centre, along x and y
STACK_TOLERANCE = 0.0175  # m between the centres, horizontally
ON_TABLE = HALF + 0.01  # m: the centre of an object on the table is below this
PUSH_CEILING = HALF + 0.03  # m: a push that lifts the object's centre this high is no push


def find_task(name: str) -> Task:
    """Returns the task of a name; ValueError lists the names there are."""
    for task in TASKS:
        if task.name == name:
            return task
    raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASK_NAMES)}")


@dataclass(frozen=True)
class Start:
    """Start number `number` of a task: what is where, and what is asked."""

    task: Task
    number: int
    instruction: str
    present: tuple[int, int, int]  # objects on the table (indices into scene.OBJECTS)
    target: int  # the object asked for
    support: int | None  # the object to stack it on
    side: str | None  # the tray or zone asked for
    positions: Array  # [3, 2] m, of `present`
    yaws: Array  # [3] rad, of `present`
    tool: Array  # [3] m


@dataclass(frozen=True)
class State:
    """The physical state as predicates and the expert see it (m, rad, base frame)."""

    tool: Array  # [3] measured tool point
    opening: float  # between the pads
    objects: Array  # [6, 3] centres
    command: Array  # [3] commanded tool point
    command_rotation: Array  # [3] commanded rotation vector from straight down
    lifted: bool  # whether the target has been lifted above PUSH_CEILING since the start


def goal_position(start: Start, state: State) -> Array:
    """Returns where the target object's centre [3] (m) has to go."""
    if start.task.kind == "place":
        return np.array([*TRAY[start.side or ""], HALF])
    if start.task.kind == "push":
        return np.array([*ZONE[start.side or ""], HALF])
    if start.support is not None:
        return state.objects[start.support] + np.array([0.0, 0.0, 2 * HALF])
    target = state.objects[start.target]
    return np.array([target[0], target[1], HALF + PICK_HEIGHT + 0.02])


def is_success(start: Start, state: State) -> bool:
    """Returns whether the state fulfils the task of `start`."""
    kind = start.task.kind
    target = state.objects[start.target]
    if kind == "pick":
        held = np.linalg.norm(target - state.tool) < 0.04 and state.opening < OPEN
        return bool(held and target[2] > HALF + PICK_HEIGHT)
    offset = np.abs(target - goal_position(start, state))
    if kind == "place":
        inside = bool(np.all(offset[:2] < TRAY_TOLERANCE))
        return bool(inside and target[2] < ON_TABLE and state.opening > OPEN)
    if kind == "push":
        inside = bool(np.all(offset[:2] < ZONE_TOLERANCE))
        return bool(inside and target[2] < ON_TABLE and not state.lifted)
    on_top = float(np.hypot(offset[0], offset[1])) < STACK_TOLERANCE and offset[2] < 0.006
    return bool(on_top and state.opening > OPEN)
