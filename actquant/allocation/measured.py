"""Types by measured error: always the upgrade that takes most error per byte."""

import heapq
from collections.abc import Sequence

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.choices import Choices, require_feasible
from actquant.format.tensor_types import Format, menu

BASE = "IQ1_S"
MAXIMUM = "Q8_0"


def types_of(tensor: TensorSize) -> list[Format]:
    """Returns the types that a tensor's errors must be known for, from fewest to most bytes."""
    return Choices([tensor], menu(BASE, MAXIMUM, importance=True)).ladders[0]


def allocate_measured(tensors: Sequence[TensorSize], budget: Budget) -> Allocation:
    """Minimises the sum of the tensors' errors within the budget.

    tensors: with their `errors` by type; none has any where only the budget is to be judged. Each
    tensor's types are those on the lower convex hull of (bytes, error), on which upgrades in the
    order of error per byte are optimal up to the last one that fits.

    Raises BudgetError when not even the smallest types fit.
    """
    choices = Choices(tensors, menu(BASE, MAXIMUM, importance=True))
    require_feasible(choices, budget, MAXIMUM, tensors)
    left = budget.tensor_bytes - choices.bounds()[0]
    curves = [_hull(choices, row, tensor) for row, tensor in enumerate(tensors)]
    place = [0] * len(tensors)
    upgrades: list[tuple[float, int]] = []

    def offer(row: int) -> None:
        if place[row] + 1 < len(curves[row]):
            (_, size, error), (_, larger, smaller) = curves[row][place[row] : place[row] + 2]
            heapq.heappush(upgrades, ((smaller - error) / (larger - size), row))

    for row in range(len(tensors)):
        offer(row)
    while upgrades:
        _, row = heapq.heappop(upgrades)
        added = curves[row][place[row] + 1][1] - curves[row][place[row]][1]
        if added <= left:
            left -= added
            place[row] += 1
            offer(row)
    chosen = [curve[at] for curve, at in zip(curves, place, strict=True)]
    names = [choices.ladders[row][level].name for row, (level, _, _) in enumerate(chosen)]
    return Allocation.of_types(tensors, names, float(sum(error for _, _, error in chosen)))


def _hull(choices: Choices, row: int, tensor: TensorSize) -> list[tuple[int, int, float]]:
    """Returns (level, bytes, error) on the lower convex hull, bytes ascending, errors falling."""
    if not tensor.errors:
        return [(0, int(choices.bytes[row, 0]), 0.0)]
    hull: list[tuple[int, int, float]] = []
    for level, entry in enumerate(choices.ladders[row]):
        size, error = int(choices.bytes[row, level]), tensor.errors[entry.name]
        if hull and error >= hull[-1][2]:
            continue
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], (level, size, error)):
            hull.pop()
        hull.append((level, size, error))
    return hull


def _is_above(
    first: tuple[int, int, float], middle: tuple[int, int, float], last: tuple[int, int, float]
) -> bool:
    """Returns whether the middle point lies on or above the line between the others."""
    slope = (last[2] - first[2]) / (last[1] - first[1])
    return middle[2] >= first[2] + slope * (middle[1] - first[1])
