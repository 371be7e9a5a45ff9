"""A reference executor in PyTorch: slow, short, and what every other executor is compared with.

Host operators run in double precision, as docs/format.md says; device operators in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actquant.capture.ir import DTYPE_TO_TORCH, Graph, Node
from actquant.errors import CaptureError


def interpret(
    graph: Graph,
    inputs: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Run a graph. inputs: by name; tensors: replacements of parameters by name (e.g. dequantized).

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
    """One operator on concrete operands; the result has the node's shape and dtype."""
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
    if n.attrs["act"] == "silu":
        return F.silu(a) * b
    return F.gelu(a, approximate=n.attrs["approx"]) * b


def _conv2d(n: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    a = n.attrs
    return F.conv2d(x, weight, bias, a["stride"], a["pad"], a["dil"], a["groups"])


def _slice(n: Node, x: Tensor) -> Tensor:
    a = n.attrs
    index = [slice(None)] * x.ndim
    index[a["dim"]] = slice(a["start"], a["end"], a["step"])
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
    "conv2d": _conv2d,
    "sdpa": _attention,
    "rope": _rope,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "softmax": lambda n, x: x.softmax(n.attrs["dim"]),
    "glu": _glu,
    "gelu": lambda n, x: F.gelu(x, approximate=n.attrs["approx"]),
    "silu": lambda n, x: F.silu(x),
    "relu": lambda n, x: x.relu(),
    "tanh": lambda n, x: x.tanh(),
    "sigmoid": lambda n, x: x.sigmoid(),
    "exp": lambda n, x: x.exp(),
    "sqr": lambda n, x: x.square(),
    "sqrt": lambda n, x: x.sqrt(),
    "rsqrt": lambda n, x: x.rsqrt(),
    "sin": lambda n, x: x.sin(),
    "cos": lambda n, x: x.cos(),
    "add": lambda n, x, y: x + y,
    "sub": lambda n, x, y: x - y,
    "mul": lambda n, x, y: x * y,
    "div": lambda n, x, y: x / y,
    "and": lambda n, x, y: x & y,
    "le": lambda n, x, y: x <= y,
    "affine": _affine,
    "concat": lambda n, *parts: torch.cat(parts, n.attrs["dim"]),
    "slice": _slice,
    "reshape": lambda n, x: x.reshape(n.attrs["shape"]),
    "permute": lambda n, x: x.permute(n.attrs["perm"]),
    "expand": lambda n, x: x.expand(n.attrs["shape"]),
    "cast": lambda n, x: x,
    "full": _full,
    "cumsum": lambda n, x: x.cumsum(n.attrs["dim"]),
    "sum": lambda n, x: x.sum(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "min": lambda n, x: x.amin(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "mean": lambda n, x: x.mean(n.attrs["dims"], keepdim=bool(n.attrs["keep"])),
    "select_s": _select,
    "where_s": lambda n, c, x: torch.where(c, x, torch.tensor(n.attrs["v"], dtype=x.dtype)),
    "where": lambda n, c, x, y: torch.where(c, x, y),
}
