"""Which operators run on the host, and the check that the runtime knows all of them."""

from __future__ import annotations

import torch

from actquant.common.errors import CaptureError, UnsupportedOperatorError
from actquant.program.ir import Graph, Node, node

LAYOUT = frozenset(("concat", "slice", "reshape", "permute", "expand", "cast"))
ARITHMETIC = frozenset(("add", "sub", "mul", "div", "affine", "sin", "cos", "exp"))
ACTIVATIONS = frozenset(
    ("glu", "gelu", "silu", "relu", "tanh", "sigmoid", "mish", "softplus", "elu", "leaky_relu")
    + ("clamp", "log", "sqr", "sqrt")
)
CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv_transpose1d", "max_pool2d", "avg_pool2d"))
PRODUCTS = frozenset(("linear", "matmul", "embedding", "sdpa", "rope")) | CONVOLUTIONS
NORMS = frozenset(("rms_norm", "layer_norm", "group_norm", "softmax", "sum", "mean"))
LOGIC = frozenset(("and", "or", "not", "le", "lt", "eq", "select", "select_s"))
DEVICE_OPERATORS = PRODUCTS | NORMS | ACTIVATIONS | ARITHMETIC | LAYOUT | {"pad"}
HOST_OPERATORS = LAYOUT | ARITHMETIC | LOGIC | {"full", "cumsum", "sum", "min", "max"}
MAX_RANK = 4


def partition(graph: Graph) -> None:
    """Sets `host` on every operator that depends on integers, booleans and single numbers only.

    Those are masks, positions and the embedding of a time: little arithmetic that wants exact
    integers and double precision. Everything else runs on the device.
    """
    host: set[Node] = set()
    for n in graph.nodes():
        if n.op == "input":
            single = all(d == 1 for d in n.shape)
            n.host = n.dtype in ("i64", "b8") or single
        elif n.is_tensor:
            n.host = False
        else:
            operands = [x for x in n.inputs if not x.is_tensor]
            n.host = n.op in HOST_OPERATORS and all(x in host for x in operands)
        if n.host:
            host.add(n)


def lower_doubles(graph: Graph) -> None:
    """Makes doubles singles on the host, whose arithmetic is double anyway.

    A double constant becomes the sum of two single ones, added on the host.
    Raises CaptureError if a device operator needs double precision.
    """
    partition(graph)
    for n in graph.nodes():
        if n.dtype == "f64" and not n.host and not n.is_tensor:
            raise CaptureError(
                f"stage {graph.name}: {n.op} in double precision depends on more than a single "
                f"number ({n.source})"
            )
    replaced: dict[Node, Node] = {}
    for n in graph.nodes():
        n.inputs = [replaced.get(x, x) for x in n.inputs]
        if n.op == "const" and n.dtype == "f64":
            replaced[n] = _split(n)
        elif n.dtype == "f64":
            n.dtype = "f32"
        if n.op == "cast" and n.inputs[0].dtype == n.dtype:
            replaced[n] = n.inputs[0]
    graph.outputs = {name: replaced.get(n, n) for name, n in graph.outputs.items()}
    partition(graph)


def _split(n: Node) -> Node:
    high = n.tensor.float()
    low = (n.tensor - high.double()).float()
    parts = [
        Node("const", [], {}, n.shape, "f32", data=part, origin=n.origin)
        for part in (high, low)
        if part is high or bool(torch.any(part != 0))
    ]
    return node("add", parts, n.shape) if len(parts) == 2 else parts[0]


def check_operators(graph: Graph) -> None:
    """Raises UnsupportedOperatorError, listing every operator that the runtime does not have."""
    wrong = []
    for n in graph.operations():
        known = HOST_OPERATORS if n.host else DEVICE_OPERATORS
        if n.op not in known:
            wrong.append(f"operator {n.op} ({n.source or 'no source location'})")
        elif not n.host and sum(d != 1 for d in n.shape) > MAX_RANK:
            wrong.append(f"{n.op} on {list(n.shape)}: more than {MAX_RANK} dimensions ({n.source})")
        elif not n.host and n.dtype != "f32":
            wrong.append(f"{n.op} {n.dtype}{list(n.shape)} on the device ({n.source})")
    if wrong:
        listed = "\n  ".join(wrong)
        raise UnsupportedOperatorError(f"stage {graph.name} cannot be run:\n  {listed}")
