"""Norms that are spelled out, and the weights that follow a norm."""

from __future__ import annotations

from actquant.capture.rewrite.match import orders, strip
from actquant.capture.rewrite.rewrite import Uses
from actquant.program.ir import Node, const, node


def rms_norm(n: Node, uses: Uses) -> Node | None:
    """Fuses x · rsqrt(mean(x²) + eps), and the weight that follows."""
    if n.op != "mul":
        return None
    for x, r in orders(n):
        if r.op == "rsqrt" and r.inputs[0].op == "affine" and r.inputs[0].attrs["a"] == 1:
            mean = r.inputs[0].inputs[0]
            square = mean.inputs[0] if mean.op == "mean" else mean
            last = (len(x.shape) - 1,)
            if mean.op == "mean" and mean.attrs["dims"] == last and square.op == "sqr":
                if strip(square.inputs[0], ("cast",)) is not strip(x, ("cast",)):
                    continue
                eps = r.inputs[0].attrs["b"]
                return node("rms_norm", [x], n.shape, n.dtype, eps=eps)
    for x, w in orders(n):
        unweighted = x.op == "rms_norm" and len(x.inputs) == 1 and uses.get(x, 1) == 1
        if unweighted and w.is_tensor and w.size == x.shape[-1]:
            if len(w.shape) != 1:
                w = const(w.tensor.reshape(-1), w.origin or frozenset((w.name,)))
            return node("rms_norm", [x.inputs[0], w], n.shape, n.dtype, **x.attrs)
    return None


def layer_norm(n: Node, uses: Uses) -> Node | None:
    """Fuses d · rsqrt(mean(d²) + eps) or d / sqrt(mean(d²) + eps), d = x − mean(x)."""
    if n.op == "div":
        candidates = [(n.inputs[0], n.inputs[1], "sqrt")]
    elif n.op == "mul":
        candidates = [(d, r, "rsqrt") for d, r in orders(n)]
    else:
        return _weighted_layer_norm(n, uses)
    for d, root, op in candidates:
        eps = _root_of_variance(root, d) if root.op == op and _is_centred(d) else None
        if eps is not None:
            attrs = {"eps": eps, "w": False, "b": False}
            return node("layer_norm", [d.inputs[0]], n.shape, n.dtype, **attrs)
    return _weighted_layer_norm(n, uses)


def _root_of_variance(root: Node, d: Node) -> float | None:
    """eps, if the root is of mean(d²) + eps."""
    shifted = root.inputs[0]
    if shifted.op != "affine" or shifted.attrs["a"] != 1 or not _is_mean_of_rows(shifted.inputs[0]):
        return None
    squares = shifted.inputs[0].inputs[0]
    return shifted.attrs["b"] if squares.op == "sqr" and squares.inputs[0] is d else None


def _is_mean_of_rows(n: Node) -> bool:
    return n.op == "mean" and n.attrs["dims"] == (len(n.inputs[0].shape) - 1,) and n.attrs["keep"]


def _is_centred(n: Node) -> bool:
    if n.op != "sub":
        return False
    x, mean = n.inputs
    return _is_mean_of_rows(mean) and mean.inputs[0] is x


def _weighted_layer_norm(n: Node, uses: Uses) -> Node | None:
    """A constant factor per element of the last dimension, then a constant shift."""
    if n.op not in ("mul", "add"):
        return None
    for x, w in orders(n):
        if x.op != "layer_norm" or uses.get(x, 1) != 1 or x.attrs["b"] or not w.is_tensor:
            continue
        if w.size != x.shape[-1] or w.shape[-1:] != x.shape[-1:] or x.shape != n.shape:
            continue
        if n.op == "mul" and x.attrs["w"]:
            continue
        operands = [*x.inputs, w if len(w.shape) == 1 else _flat(w)]
        has = {"w": n.op == "mul" or x.attrs["w"], "b": n.op == "add"}
        return node("layer_norm", operands, n.shape, n.dtype, **{**x.attrs, **has})
    return None


def _flat(w: Node) -> Node:
    return const(w.tensor.reshape(-1), w.origin or frozenset((w.name,)))
