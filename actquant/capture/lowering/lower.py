"""What only the capture knows becomes operators of docs/format.md."""

from __future__ import annotations

import torch

from actquant.capture.lowering.partition import partition
from actquant.capture.rewrite.rewrite import Uses, sweep
from actquant.capture.rewrite.simplify import simplify
from actquant.program.ir import Graph, Node, affine, cast, const, node


def lower(graph: Graph) -> None:
    """Lowers what fusion left: choices between tensors, and the reciprocal of a square root."""
    sweep(graph, _spelled_out)
    partition(graph)
    sweep(graph, _choice_on_device)
    simplify(graph)


def _spelled_out(n: Node, _: Uses) -> Node | None:
    if n.op == "rsqrt":
        root = node("sqrt", n.inputs, n.shape, n.dtype)
        return node("div", [const(torch.tensor(1.0)), root], n.shape, n.dtype)
    if n.op == "where_s":
        condition, x = n.inputs
        value = n.attrs["v"] if x.dtype != "i64" else int(n.attrs["v"])
        other = const(torch.tensor(value, dtype=torch.int64 if x.dtype == "i64" else torch.float32))
        return node("select", [condition, x, other], n.shape, n.dtype)
    return None


def _choice_on_device(n: Node, _: Uses) -> Node | None:
    """A choice by a mask m of the host: m·x + (1 − m)·y, the host choosing what it knows.

    Exact for finite x and y on the device; what the host knows may be infinite.
    """
    if n.op != "select" or n.host:
        return None
    condition, x, y = n.inputs
    chosen = cast(condition, "f32")
    zero = const(torch.tensor(0.0))

    def combined(op: str, a: Node, b: Node) -> Node:
        return node(op, [a, b], torch.broadcast_shapes(a.shape, b.shape), n.dtype)

    def on_host(a: Node, b: Node) -> Node:
        shape = torch.broadcast_shapes(condition.shape, a.shape, b.shape)
        return node("select", [condition, a, b], shape, n.dtype)

    if y.is_tensor or y.host:
        return combined("add", combined("mul", x, chosen), on_host(zero, y))
    other = affine(chosen, -1, 1)
    if x.is_tensor or x.host:
        return combined("add", combined("mul", y, other), on_host(x, zero))
    return combined("add", combined("mul", x, chosen), combined("mul", y, other))
