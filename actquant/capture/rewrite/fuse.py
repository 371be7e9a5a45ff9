"""Patterns become one operator: norms, RoPE, eager attention, gated MLP, folded convolutions."""

from __future__ import annotations

from actquant.capture.rewrite.fuse_attention import attention, grouped_heads, trivial_mask
from actquant.capture.rewrite.fuse_norm import layer_norm, rms_norm
from actquant.capture.rewrite.fuse_products import (
    channel_constants,
    constant_factor,
    patches,
    transposed,
)
from actquant.capture.rewrite.fuse_rope import is_rotated_half, is_split_rotation, rope
from actquant.capture.rewrite.match import orders, strip
from actquant.capture.rewrite.rank import limit_rank
from actquant.capture.rewrite.rewrite import Uses, to_fixpoint
from actquant.capture.rewrite.simplify import simplify_rule
from actquant.program.ir import Graph, Node, node

GATES = frozenset(("silu", "gelu", "relu", "sigmoid"))


def fuse(graph: Graph) -> None:
    """Fuses all known patterns, in the order in which they depend on each other."""
    rules = (layer_norm, rms_norm, rope, attention, grouped_heads, gate, trivial_mask)
    for rule in (*rules, channel_constants, patches, transposed, constant_factor):
        to_fixpoint(graph, [simplify_rule, rule])
    limit_rank(graph)


def fusion_report(graph: Graph) -> dict[str, int]:
    """Returns fused operators, and what should have been fused: the `unfused_*` counts ought to be
    zero."""
    operations = graph.operations()
    counts = {op: 0 for op in ("rms_norm", "layer_norm", "rope", "sdpa", "glu", "linear")}
    for n in operations:
        if n.op in counts:
            counts[n.op] += 1
    return {
        **counts,
        "unfused_rms_norm": sum(_is_reciprocal_root(n) for n in operations),
        "unfused_rope": sum(is_rotated_half(n) or is_split_rotation(n) for n in operations),
        "unfused_sdpa": sum(_is_attention(n) for n in operations),
        "unfused_glu": sum(_is_gated(n) for n in operations),
    }


def _is_gated(n: Node) -> bool:
    """act(a)·b; with a tensor of the file in the place of b it is a scale and no gate."""
    return n.op == "mul" and any(
        a.op in GATES and a.shape == n.shape and not b.is_tensor for a, b in orders(n)
    )


def _is_attention(n: Node) -> bool:
    """softmax(…)·v; with a tensor of the file in the place of v it is a mean over fixed points."""
    if n.op != "matmul" or strip(n.inputs[0]).op != "softmax":
        return False
    return not strip(n.inputs[1], ("cast", "reshape", "expand", "permute")).is_tensor


def _is_reciprocal_root(n: Node) -> bool:
    """1 / sqrt(x), as it is before and after it is spelled out for the runtime."""
    return n.op == "rsqrt" or (n.op == "div" and n.inputs[1].op == "sqrt")


def gate(n: Node, uses: Uses) -> Node | None:
    """Fuses act(a) · b into `glu`."""
    if n.op != "mul" or n.inputs[0].shape != n.inputs[1].shape:
        return None
    for a, b in orders(n):
        if a.op in GATES and uses.get(a, 1) == 1 and not b.is_tensor:
            operands = [a.inputs[0], b]
            return node("glu", operands, n.shape, n.dtype, act=a.op, **a.attrs)
    return None
