"""Numbered starts: start k of a task is the same on every machine.

Only `uniform` and `integers` of one PCG64 generator are drawn, whose streams NumPy keeps.
Change anything here and STARTS_VERSION must change, because results name their starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scene import COLOURS, OBJECTS, SHAPES, SIDES, ZONE
from .tasks import TASKS, Start, Task

Array = NDArray[np.float64]

STARTS_VERSION = 1
#: Numbers below this are for evaluation: `reset()` without a seed or number never draws them.
FIRST_TRAINING_START = 1_000_000

OBJECT_LOW = np.array([-0.375, -0.085])  # m, where object centres start
OBJECT_HIGH = np.array([-0.2, 0.085])
TOOL_LOW = np.array([-0.34, -0.09, 0.11])  # m, where the tool starts
TOOL_HIGH = np.array([-0.22, 0.09, 0.16])
SPACING = 0.085  # m between centres: space for a finger between any two objects
MAX_YAW = 0.15  # rad


def _index(colour: int, shape: int) -> int:
    return len(COLOURS) * shape + colour


def _distractors(rng: np.random.Generator, target: int) -> list[int]:
    """Returns two objects beside the target, the first of its colour or of its shape.

    So neither the colour alone nor the shape alone names the target in all starts.
    """
    colour, shape = target % 3, target // 3
    if rng.integers(2):
        near = _index(colour, 1 - shape)
    else:
        near = _index((colour + 1 + int(rng.integers(2))) % 3, shape)
    rest = [i for i in range(len(OBJECTS)) if i not in (target, near)]
    return [near, rest[int(rng.integers(len(rest)))]]


def _choose(rng: np.random.Generator, task: Task) -> tuple[list[int], int | None, str | None]:
    """Returns objects on the table (the target first), the support and the side."""
    colour, shape = int(rng.integers(3)), int(rng.integers(2))
    side = SIDES[int(rng.integers(2))]
    if task.name == "pick_side":
        other = (colour + 1 + int(rng.integers(2))) % 3
        odd = _index(int(rng.integers(3)), 1 - shape)
        return [_index(colour, shape), _index(other, shape), odd], None, side
    if task.name == "stack":
        target, support = _index(colour, 0), _index((colour + 1 + int(rng.integers(2))) % 3, 0)
        third_cube = ({0, 1, 2} - {target, support}).pop()
        third = third_cube if rng.integers(2) else _index(int(rng.integers(3)), 1)
        return [target, support, third], support, None
    if task.kind == "pick":
        target = _index(colour, 0 if task.name == "pick_cube" else 1)
        return [target, *_distractors(rng, target)], None, None
    target = _index(colour, shape)
    return [target, *_distractors(rng, target)], None, side


def _layout_is_good(positions: Array, task: Task, side: str | None) -> bool:
    """Returns whether object positions [3, 2] (the target first) suit the task."""
    gaps = positions[:, None] - positions[None]
    distances = np.sqrt((gaps**2).sum(-1))
    if min(distances[0, 1], distances[0, 2], distances[1, 2]) < SPACING:
        return False
    if task.name == "pick_side":  # which of the two is on the left must be plain to see
        gap = positions[0, 1] - positions[1, 1]
        return bool(gap > 0.05) if side == "left" else bool(gap < -0.05)
    if task.kind == "push":
        zone = ZONE[side or ""]
        if abs(positions[0, 0] - zone[0]) > 0.035:
            return False
        ahead = (positions[1:, 1] - positions[0, 1]) * np.sign(zone[1]) > 0
        in_path = np.abs(positions[1:, 0] - positions[0, 0]) < 0.06
        return not bool(np.any(ahead & in_path))
    return True


def make_start(task: Task, number: int) -> Start:
    """Starts `number` (>= 0) of a task."""
    if number < 0:
        raise ValueError(f"start number must be 0 or more, got {number}")
    seed = np.random.SeedSequence([TASKS.index(task), number])
    rng = np.random.Generator(np.random.PCG64(seed))
    present, support, side = _choose(rng, task)
    while True:
        positions = rng.uniform(OBJECT_LOW, OBJECT_HIGH, (3, 2))
        if _layout_is_good(positions, task, side):
            break
    words = {
        "object": OBJECTS[present[0]],
        "support": OBJECTS[support] if support is not None else "",
        "side": side or "",
        "shape": SHAPES[present[0] // 3],
    }
    return Start(
        task=task,
        number=number,
        instruction=task.template.format(**words),
        present=(present[0], present[1], present[2]),
        target=present[0],
        support=support,
        side=side,
        positions=positions,
        yaws=rng.uniform(-MAX_YAW, MAX_YAW, 3),
        tool=rng.uniform(TOOL_LOW, TOOL_HIGH),
    )
