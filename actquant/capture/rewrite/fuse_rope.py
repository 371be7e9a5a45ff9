"""Rotary embeddings: angles computed from positions, or tables that capture folded to constants."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actquant.capture.rewrite.match import orders, strip
from actquant.capture.rewrite.rewrite import Uses
from actquant.program.ir import Node, const, node, permute, reshape

FORM = ("cast", "reshape", "expand", "permute")
ROUNDING = 2.0**-24
"""Half a unit in the last place of a float32 near 1."""


def rope(n: Node, uses: Uses) -> Node | None:
    """Fuses both spellings of a rotary embedding whose angles are positions × frequencies."""
    if n.op == "add" and all(x.op == "mul" for x in n.inputs):
        matched = _match_rotate_half(n)
    elif is_split_rotation(n):
        matched = _match_split(n)
    else:
        return None
    if matched is None:
        return None
    x, cos, sin = matched
    if len(x.shape) != 4 or len(cos.shape) < 2:
        return None
    heads_last = cos.shape[-2] == 1
    if not heads_last:
        x = permute(x, (0, 2, 1, 3))
    found = _computed(cos, sin, x.shape[-1] // 2) or _tabulated(cos, sin, x.shape)
    if found is None:
        return None
    positions, frequencies = found
    operands = [x, reshape(positions, (math.prod(positions.shape),)), const(frequencies)]
    rotated = node("rope", operands, x.shape, n.dtype)
    return rotated if heads_last else permute(rotated, (0, 2, 1, 3))


def is_rotated_half(n: Node) -> bool:
    return _rotated_half(n) is not None


def is_split_rotation(n: Node) -> bool:
    if not _joins_last(n) or n.inputs[0].op != "sub" or n.inputs[1].op != "add":
        return False
    return all(x.op == "mul" for part in n.inputs for x in part.inputs)


def _half(n: Node, first: bool) -> Node | None:
    """The node of which n is the first or second half of the last dimension."""
    if n.op != "slice" or n.attrs["dim"] != len(n.shape) - 1:
        return None
    x = n.inputs[0]
    width = x.shape[-1]
    wanted = (0, width // 2) if first else (width // 2, width)
    return x if (n.attrs["start"], n.attrs["end"]) == wanted else None


def _joins_last(n: Node) -> bool:
    return n.op == "concat" and len(n.inputs) == 2 and n.attrs["dim"] == len(n.shape) - 1


def _rotated_half(n: Node) -> Node | None:
    """x, if n is concat(−x₂, x₁)."""
    if not _joins_last(n):
        return None
    minus, first = n.inputs
    if minus.op != "affine" or (minus.attrs["a"], minus.attrs["b"]) != (-1.0, 0.0):
        return None
    x = _half(first, True)
    return x if x is not None and _half(minus.inputs[0], False) is x else None


def _match_rotate_half(n: Node) -> tuple[Node, Node, Node] | None:
    """x·cos + concat(−x₂, x₁)·sin."""
    for straight, rotated in orders(n):
        for half, sin in orders(rotated):
            x = _rotated_half(half)
            for other, cos in orders(straight):
                if x is not None and other is x:
                    return x, cos, sin
    return None


def _match_split(n: Node) -> tuple[Node, Node, Node] | None:
    """concat(x₁·cos − x₂·sin, x₂·cos + x₁·sin)."""
    difference, total = n.inputs
    for x1, cos in orders(difference.inputs[0]):
        x = _half(x1, True)
        for x2, sin in orders(difference.inputs[1]):
            if x is None or _half(x2, False) is not x:
                continue
            wanted = {frozenset((x2, cos)), frozenset((x1, sin))}
            if {frozenset(m.inputs) for m in total.inputs} == wanted:
                return x, cos, sin
    return None


def _computed(cos: Node, sin: Node, size: int) -> tuple[Node, Tensor] | None:
    """(integer positions, `size` frequencies) whose products cosine and sine are of."""
    angles = _angles(cos, sin)
    angles = angles and strip(angles, FORM)
    if not angles or angles.op not in ("mul", "div", "matmul"):
        return None
    pairs = [tuple(angles.inputs)] if angles.op == "div" else list(orders(angles))
    for x, factor in pairs:
        factor, positions = strip(factor), strip(x, FORM)
        if not factor.is_tensor or factor.size != size or positions.dtype != "i64":
            continue
        frequencies = factor.tensor.reshape(-1).double()
        if angles.op == "div":
            frequencies = 1.0 / frequencies
        return positions, frequencies.to(torch.float32)
    return None


def _angles(cos: Node, sin: Node) -> Node | None:
    """The common argument of cosine and sine; a doubled one is halved."""
    cos, sin = strip(cos), strip(sin)
    if cos.op != "cos" or sin.op != "sin" or cos.inputs[0] is not sin.inputs[0]:
        return None
    angle = strip(cos.inputs[0])
    if angle.op == "concat" and len(angle.inputs) == 2 and angle.inputs[0] is angle.inputs[1]:
        angle = angle.inputs[0]
    return angle


def _tabulated(cos: Node, sin: Node, shape: tuple[int, ...]) -> tuple[Node, Tensor] | None:
    """The positions 0, 1, 2, … and the frequencies [D/2] of which two constants [L, D] or [L, D/2]
    are cosine and sine. shape: [B, L, H, D] of what is rotated."""
    length, half = shape[1], shape[3] // 2
    cosines, sines = (_table(n, length, half) for n in (cos, sin))
    if length < 2 or cosines is None or sines is None:
        return None
    phases = torch.atan2(sines, cosines)
    frequencies = phases[1].clone()
    row = 2
    while row < length:  # each row twice as far away says a frequency twice as exactly
        missing = phases[row] - row * frequencies
        frequencies += torch.remainder(missing + math.pi, 2 * math.pi).sub(math.pi) / row
        row *= 2
    frequencies = frequencies.float()
    angles = torch.arange(length)[:, None] * frequencies.double()
    # The tables were rounded, and so were the angles that they were computed from.
    tolerance = ROUNDING * (4 + 2 * float(angles.abs().max()))
    for table, exact in ((cosines, angles.cos()), (sines, angles.sin())):
        if not float((table - exact).abs().max()) <= tolerance:
            return None
    return const(torch.arange(length)), frequencies


def _table(n: Node, length: int, half: int) -> Tensor | None:
    """A constant that is the same for every head, both of its halves alike, as [length, half]."""
    n = strip(n, ("expand",))
    if not n.is_tensor or n.dtype != "f32" or n.size not in (length * half, 2 * length * half):
        return None
    if n.shape[-1] not in (half, 2 * half):
        return None
    first, *second = n.tensor.double().reshape(length, -1).split(half, dim=1)
    return first if all(torch.equal(first, other) for other in second) else None
