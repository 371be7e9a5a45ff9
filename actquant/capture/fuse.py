"""Patterns become one operator: norms, RoPE, eager attention, gated MLP, folded convolutions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actquant.capture.fuse_attention import attention, grouped_heads, trivial_mask
from actquant.capture.fuse_norm import layer_norm, rms_norm
from actquant.capture.fuse_products import (
    channel_constants,
    constant_factor,
    patches,
    transposed,
)
from actquant.capture.ir import Graph, Node, const, node, permute, reshape
from actquant.capture.match import orders, strip
from actquant.capture.rank import limit_rank
from actquant.capture.rewrite import Uses, to_fixpoint
from actquant.capture.simplify import simplify_rule

GATES = frozenset(("silu", "gelu", "relu", "sigmoid"))


def fuse(graph: Graph) -> None:
    """Fuse all known patterns, in the order in which they depend on each other."""
    rules = (layer_norm, rms_norm, rope, attention, grouped_heads, gate, trivial_mask)
    for rule in (*rules, channel_constants, patches, transposed, constant_factor):
        to_fixpoint(graph, [simplify_rule, rule])
    limit_rank(graph)


def fusion_report(graph: Graph) -> dict[str, int]:
    """Fused operators, and what should have been fused: the `unfused_*` counts ought to be zero."""
    operations = graph.operations()
    counts = {op: 0 for op in ("rms_norm", "layer_norm", "rope", "sdpa", "glu", "linear")}
    for n in operations:
        if n.op in counts:
            counts[n.op] += 1
    return {
        **counts,
        "unfused_rms_norm": sum(_is_reciprocal_root(n) for n in operations),
        "unfused_rope": sum(_is_rotated_half(n) or _is_split_rotation(n) for n in operations),
        "unfused_sdpa": sum(_is_attention(n) for n in operations),
        "unfused_glu": sum(
            n.op == "mul" and any(x.op in GATES and x.shape == n.shape for x in n.inputs)
            for n in operations
        ),
    }


def _is_attention(n: Node) -> bool:
    """softmax(…)·v; with a tensor of the file in the place of v it is a mean over fixed points."""
    if n.op != "matmul" or strip(n.inputs[0]).op != "softmax":
        return False
    return not strip(n.inputs[1], ("cast", "reshape", "expand", "permute")).is_tensor


def _is_reciprocal_root(n: Node) -> bool:
    """1 / sqrt(x), as it is before and after it is spelled out for the runtime."""
    return n.op == "rsqrt" or (n.op == "div" and n.inputs[1].op == "sqrt")


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


def _is_rotated_half(n: Node) -> bool:
    return _rotated_half(n) is not None


def _is_split_rotation(n: Node) -> bool:
    if not _joins_last(n) or n.inputs[0].op != "sub" or n.inputs[1].op != "add":
        return False
    return all(x.op == "mul" for part in n.inputs for x in part.inputs)


def rope(n: Node, uses: Uses) -> Node | None:
    """Both spellings of a rotary embedding whose angles are positions × frequencies."""
    if n.op == "add" and all(x.op == "mul" for x in n.inputs):
        matched = _match_rotate_half(n)
    elif _is_split_rotation(n):
        matched = _match_split(n)
    else:
        return None
    if matched is None:
        return None
    x, cos, sin = matched
    angles = _angles(cos, sin)
    found = angles and _positions_and_frequencies(angles, x.shape[-1] // 2)
    if not found:
        return None
    positions, frequencies = found
    operands = [reshape(positions, (math.prod(positions.shape),)), const(frequencies)]
    if cos.shape[-2] == 1:
        return node("rope", [x, *operands], n.shape, n.dtype)
    heads_last = permute(x, (0, 2, 1, 3))
    rotated = node("rope", [heads_last, *operands], heads_last.shape, n.dtype)
    return permute(rotated, (0, 2, 1, 3))


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


def _angles(cos: Node, sin: Node) -> Node | None:
    """The common argument of cosine and sine; a doubled one is halved."""
    cos, sin = strip(cos), strip(sin)
    if cos.op != "cos" or sin.op != "sin" or cos.inputs[0] is not sin.inputs[0]:
        return None
    angle = strip(cos.inputs[0])
    if angle.op == "concat" and len(angle.inputs) == 2 and angle.inputs[0] is angle.inputs[1]:
        angle = angle.inputs[0]
    return angle


def _positions_and_frequencies(angles: Node, size: int) -> tuple[Node, Tensor] | None:
    """Integer positions and the constant they are multiplied with (or divided by)."""
    angles = strip(angles, ("cast", "reshape", "expand", "permute"))
    if angles.op not in ("mul", "div", "matmul"):
        return None
    pairs = [tuple(angles.inputs)] if angles.op == "div" else list(orders(angles))
    for x, factor in pairs:
        factor = strip(factor)
        positions = strip(x, ("cast", "reshape", "expand", "permute"))
        if not factor.is_tensor or factor.size != size or positions.dtype != "i64":
            continue
        frequencies = factor.tensor.reshape(-1).double()
        if angles.op == "div":
            frequencies = 1.0 / frequencies
        return positions, frequencies.to(torch.float32)
    return None


def gate(n: Node, uses: Uses) -> Node | None:
    """act(a) · b."""
    if n.op != "mul" or n.inputs[0].shape != n.inputs[1].shape:
        return None
    for a, b in orders(n):
        if a.op in GATES and uses.get(a, 1) == 1 and not b.is_tensor:
            operands = [a.inputs[0], b]
            return node("glu", operands, n.shape, n.dtype, act=a.op, **a.attrs)
    return None
