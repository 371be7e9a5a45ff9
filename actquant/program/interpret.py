"""A reference executor in PyTorch: slow, short, and what every other executor is compared with.

Host operators run in double precision, as docs/format.md says; device operators in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actquant.common.errors import CaptureError
from actquant.program.ir import DTYPE_TO_TORCH, Graph, Node

MAX = 2**63 - 1
"""An open end of a slice."""


def interpret(
    graph: Graph,
    inputs: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Runs a graph. inputs: by name; tensors: parameters to replace, by name (e.g. dequantized).

    Raises CaptureError for a missing input or one of the wrong shape.
    """
    values: dict[Node, Tensor] = {}
    remaining = {n: len(users) for n, users in graph.users().items()}
    kept = set(graph.outputs.values())
    for n in graph.nodes():
        if n.op == "input":
            values[n] = _input(graph, n, inputs)
        elif n.is_tensor:
            values[n] = tensors[n.name] if tensors and n.name in tensors else n.tensor
        else:
            operands = [values[x] for x in n.inputs]
            if n.host:
                operands = [x.double() if x.is_floating_point() else x for x in operands]
            values[n] = evaluate(n, operands)
            for x in n.inputs:
                remaining[x] -= 1
                if not remaining[x] and x not in kept:
                    del values[x]
    return {name: _rounded(values[n]) for name, n in graph.outputs.items()}


def _input(graph: Graph, n: Node, inputs: Mapping[str, Tensor]) -> Tensor:
    if n.name not in inputs:
        raise CaptureError(f"stage {graph.name}: input {n.name} is missing")
    value = inputs[n.name].to(DTYPE_TO_TORCH[n.dtype])
    if tuple(value.shape) != n.shape:
        raise CaptureError(
            f"stage {graph.name}: input {n.name} is {list(value.shape)}, wanted {list(n.shape)}"
        )
    return value


def _rounded(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float64 else value


def evaluate(n: Node, operands: Sequence[Tensor]) -> Tensor:
    """Computes one operator on concrete operands; the result has the node's shape and dtype."""
    function = FUNCTIONS.get(n.op)
    if function is None:
        raise CaptureError(f"the interpreter has no operator {n.op} ({n.source})")
    if not n.host and n.dtype == "f32":
        operands = [_rounded(x) for x in operands]
    result = function(n, *operands)
    if tuple(result.shape) != n.shape:
        raise CaptureError(f"{n!r} gave {list(result.shape)} ({n.source})")
    dtype = DTYPE_TO_TORCH[n.dtype]
    if n.host and dtype == torch.float32:
        dtype = torch.float64
    return result.to(dtype)


def _attention(n: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) * n.attrs["scale"]
    lowest = torch.finfo(scores.dtype).min
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, lowest)
        else:
            scores = (scores + mask).clamp_min(lowest)
    if n.attrs["causal"]:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, lowest)
    return scores.softmax(-1) @ v


def _rope(n: Node, x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    batch, length, _, width = x.shape
    angles = positions.reshape(-1, length, 1, 1).float() * frequencies.float()
    cos, sin = angles.cos(), angles.sin()
    x1, x2 = x[..., : width // 2], x[..., width // 2 :]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


def _rms_norm(n: Node, x: Tensor, weight: Tensor | None = None) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + n.attrs["eps"])
    return y if weight is None else y * weight


def _layer_norm(n: Node, x: Tensor, *parameters: Tensor) -> Tensor:
    remaining = list(parameters)
    weight = remaining.pop(0) if n.attrs["w"] else None
    bias = remaining.pop(0) if n.attrs["b"] else None
    return F.layer_norm(x, x.shape[-1:], weight, bias, n.attrs["eps"])


def _glu(n: Node, a: Tensor, b: Tensor) -> Tensor:
    return FUNCTIONS[n.attrs["act"]](n, a) * b


def _convolution(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def convolve(n: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        a = n.attrs
        return function(x, weight, bias, a["stride"], a["pad"], a["dil"], a.get("groups", 1))

    return convolve


def _conv_transpose1d(n: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    a = n.attrs
    return F.conv_transpose1d(x, w, bias, a["stride"], a["pad"], a["output_pad"])


def _group_norm(n: Node, x: Tensor, *parameters: Tensor) -> Tensor:
    remaining = list(parameters)
    weight = remaining.pop(0) if n.attrs["w"] else None
    bias = remaining.pop(0) if n.attrs["b"] else None
    return F.group_norm(x, n.attrs["groups"], weight, bias, n.attrs["eps"])


def _max_pool2d(n: Node, x: Tensor) -> Tensor:
    return F.max_pool2d(x, n.attrs["kernel"], n.attrs["stride"], n.attrs["pad"])


def _pad(n: Node, x: Tensor) -> Tensor:
    pads = n.attrs["pads"]
    backwards = [p for d in reversed(range(x.ndim)) for p in pads[2 * d : 2 * d + 2]]
    return F.pad(x, backwards, value=n.attrs["value"])


def _slice(n: Node, x: Tensor) -> Tensor:
    a = n.attrs
    index = [slice(None)] * x.ndim
    extent = x.shape[a["dim"]]
    start, end = (max(p + extent, 0) if p < 0 else p for p in (a["start"], a.get("end", MAX)))
    index[a["dim"]] = slice(start, end, a.get("step", 1))
    return x[tuple(index)]


def _padded_linear(n: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    missing = weight.shape[-1] - x.shape[-1]
    return F.linear(F.pad(x, (0, missing)) if missing else x, weight, bias)


def _select(n: Node, condition: Tensor) -> Tensor:
    a = torch.tensor(n.attrs["a"], dtype=torch.float64)
    b = torch.tensor(n.attrs["b"], dtype=torch.float64)
    return torch.where(condition, a, b)


def _full(n: Node) -> Tensor:
    return torch.full(n.attrs["shape"], n.attrs["value"], dtype=DTYPE_TO_TORCH[n.dtype])


def _affine(n: Node, x: Tensor) -> Tensor:
    a, b = n.attrs["a"], n.attrs["b"]
    return x.double() * a + b if n.dtype == "i64" or n.host else x * a + b


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "linear": _padded_linear,
    "matmul": lambda n, x, y: x @ y,
    "embedding": lambda n, w, ids: w[ids],
    "conv2d": _convolution(F.conv2d),
    "conv1d": _convolution(F.conv1d),
    "conv_transpose1d": _conv_transpose1d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": lambda n, x: F.avg_pool2d(x, n.attrs["kernel"], n.attrs["stride"]),
    "sdpa": _attention,
    "rope": _rope,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "softmax": lambda n, x: x.softmax(n.attrs["dim"]),
    "glu": _glu,
    "gelu": lambda n, x: F.gelu(x, approximate=n.attrs["approx"]),
    "silu": lambda n, x: F.silu(x),
    "relu": lambda n, x: x.relu(),
    "tanh": lambda n, x: x.tanh(),
    "sigmoid": lambda n, x: x.sigmoid(),
    "mish": lambda n, x: F.mish(x),
    "softplus": lambda n, x: F.softplus(x),
    "elu": lambda n, x: F.elu(x),
    "leaky_relu": lambda n, x: F.leaky_relu(x, n.attrs["slope"]),
    "clamp": lambda n, x: x.clamp(n.attrs["min"], n.attrs["max"]),
    "exp": lambda n, x: x.exp(),
    "log": lambda n, x: x.log(),
    "sqr": lambda n, x: x.square(),
    "sqrt": lambda n, x: x.sqrt(),
    "rsqrt": lambda n, x: x.rsqrt(),
    "sin": lambda n, x: x.sin(),
    "cos": lambda n, x: x.cos(),
    "add": lambda n, x, y: x + y,
    "sub": lambda n, x, y: x - y,
    "mul": lambda n, x, y: x * y,
    "div": lambda n, x, y: x.double() / y if n.host else x / y,
    "and": lambda n, x, y: x & y,
    "or": lambda n, x, y: x | y,
    "not": lambda n, x: ~x,
    "le": lambda n, x, y: x <= y,
    "lt": lambda n, x, y: x < y,
    "eq": lambda n, x, y: x == y,
    "affine": _affine,
    "concat": lambda n, *parts: torch.cat(parts, n.attrs["dim"]),
    "slice": _slice,
    "reshape": lambda n, x: x.reshape(n.shape),
    "permute": lambda n, x: x.permute(n.attrs["perm"]),
    "expand": lambda n, x: x.expand(n.shape),
    "pad": _pad,
    "cast": lambda n, x: x.float() if n.dtype == "f32" else x,
    "full": _full,
    "cumsum": lambda n, x: x.cumsum(n.attrs["dim"]),
    "sum": lambda n, x: x.sum(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "min": lambda n, x: x.amin(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "max": lambda n, x: x.amax(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "mean": lambda n, x: x.mean(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "select_s": _select,
    "select": lambda n, c, x, y: torch.where(c, x, y),
    "where_s": lambda n, c, x: torch.where(c, x, torch.tensor(n.attrs["v"], dtype=x.dtype)),
    "where": lambda n, c, x, y: torch.where(c, x, y),
}
