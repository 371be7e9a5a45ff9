"""ATen operators that compute: arithmetic, reductions, products, norms, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from actquant.capture.aten_registry import (
    HANDLERS,
    PASS_THROUGH,
    Handler,
    dtype_of,
    handles,
    shape_of,
)
from actquant.capture.ir import Node, affine, cast, node
from actquant.errors import UnsupportedOperatorError


def _same(op: str) -> Handler:
    return lambda meta, x, *_, **__: node(op, [x], shape_of(meta), dtype_of(meta))


for _name in PASS_THROUGH:
    HANDLERS[_name] = lambda meta, x, *_, **__: x
for _name in ("sin", "cos", "exp", "rsqrt", "sqrt", "silu", "relu", "tanh", "sigmoid"):
    HANDLERS[f"aten.{_name}.default"] = _same(_name)
HANDLERS["aten.square.default"] = _same("sqr")
HANDLERS["aten.neg.default"] = lambda meta, x: affine(x, -1, 0)
HANDLERS["aten.rsub.Scalar"] = lambda meta, x, y, alpha=1: affine(x, -alpha, y)


@handles("aten._to_copy.default", "aten.to.dtype", "aten.type_as.default", "aten.to.dtype_layout")
def _cast(meta: Tensor, x: Node, *_: Any, **__: Any) -> Node:
    return cast(x, dtype_of(meta))


def _scalar_binary(op: str, x: Node, y: float, reverse: bool) -> Node:
    if op == "add":
        return affine(x, 1, y)
    if op == "mul":
        return affine(x, y, 0)
    if op == "sub":
        return affine(x, -1, y) if reverse else affine(x, 1, -y)
    if op == "div" and not reverse:
        return affine(x, 1.0 / y, 0)
    raise UnsupportedOperatorError(f"scalar {op} tensor")


def _binary(op: str) -> Handler:
    def handler(meta: Tensor, x: Any, y: Any, alpha: float = 1, **_: Any) -> Node:
        dtype = dtype_of(meta)
        if not isinstance(x, Node):
            return _scalar_binary(op, cast(y, dtype), x, True)
        if not isinstance(y, Node):
            return _scalar_binary(op, cast(x, dtype), y * alpha, False)
        if alpha != 1:
            y = affine(y, alpha, 0)
        if dtype == "b8":
            if op != "mul":
                raise UnsupportedOperatorError(f"{op} of booleans")
            return node("and", [x, y], shape_of(meta), dtype)
        return node(op, [cast(x, dtype), cast(y, dtype)], shape_of(meta), dtype)

    return handler


for _name in ("add", "sub", "mul", "div"):
    HANDLERS[f"aten.{_name}.Tensor"] = _binary(_name)


def _compare(op: str) -> Handler:
    return lambda meta, x, y: node(op, [x, y], shape_of(meta), dtype_of(meta))


HANDLERS["aten.le.Tensor"] = _compare("le")
HANDLERS["aten.ge.Tensor"] = lambda meta, x, y: node("le", [y, x], shape_of(meta), "b8")
for _name in ("__and__.Tensor", "bitwise_and.Tensor", "logical_and.default"):
    HANDLERS[f"aten.{_name}"] = _compare("and")


@handles("aten.pow.Tensor_Scalar")
def _power(meta: Tensor, x: Node, exponent: float) -> Node:
    ops = {2: "sqr", 0.5: "sqrt", -0.5: "rsqrt"}
    if exponent not in ops:
        raise UnsupportedOperatorError(f"pow with exponent {exponent}")
    return node(ops[exponent], [x], shape_of(meta), dtype_of(meta))


@handles("aten.gelu.default")
def _gelu(meta: Tensor, x: Node, approximate: str = "none") -> Node:
    return node("gelu", [x], shape_of(meta), dtype_of(meta), approx=approximate)


def _reduction(op: str) -> Handler:
    def handler(
        meta: Any, x: Node, dims: Any = None, keepdim: bool = False, dtype: Any = None
    ) -> Any:
        result = meta[0] if isinstance(meta, (tuple, list)) else meta
        if dims is None:
            dims = range(len(x.shape))
        dims = [dims] if isinstance(dims, int) else dims
        value = node(
            op,
            [x],
            shape_of(result),
            dtype_of(result),
            dims=tuple(d % len(x.shape) for d in dims),
            keep=bool(keepdim),
        )
        return (value, None) if isinstance(meta, (tuple, list)) else value

    return handler


HANDLERS["aten.mean.dim"] = _reduction("mean")
HANDLERS["aten.sum.dim_IntList"] = _reduction("sum")
HANDLERS["aten.min.dim"] = _reduction("min")


@handles("aten.cumsum.default")
def _cumsum(meta: Tensor, x: Node, dim: int, dtype: Any = None) -> Node:
    return node("cumsum", [x], shape_of(meta), dtype_of(meta), dim=dim % len(x.shape))


@handles("aten.softmax.int", "aten._softmax.default")
def _softmax(meta: Tensor, x: Node, dim: int, *_: Any) -> Node:
    x = cast(x, dtype_of(meta))
    return node("softmax", [x], shape_of(meta), dtype_of(meta), dim=dim % len(x.shape))


@handles("aten.where.ScalarOther")
def _where_scalar(meta: Tensor, condition: Node, x: Node, value: float) -> Node:
    return node("where_s", [condition, x], shape_of(meta), dtype_of(meta), v=float(value))


@handles("aten.where.Scalar")
def _select_scalars(meta: Tensor, condition: Node, a: float, b: float) -> Node:
    return node("select_s", [condition], shape_of(meta), dtype_of(meta), a=float(a), b=float(b))


@handles("aten.where.self")
def _where(meta: Tensor, condition: Node, x: Node, y: Node) -> Node:
    if y.op == "const" and y.tensor.numel() == 1:
        return _where_scalar(meta, condition, x, float(y.tensor))
    return node("where", [condition, x, y], shape_of(meta), dtype_of(meta))


@handles("aten.matmul.default", "aten.bmm.default", "aten.mm.default")
def _matmul(meta: Tensor, x: Node, y: Node) -> Node:
    return node("matmul", [x, y], shape_of(meta), dtype_of(meta))


@handles("aten.addmm.default", "aten.baddbmm.default")
def _addmm(meta: Tensor, c: Node, x: Node, y: Node, *, beta: float = 1, alpha: float = 1) -> Node:
    if beta != 1 or alpha != 1:
        raise UnsupportedOperatorError("addmm with factors")
    return node("add", [_matmul(meta, x, y), c], shape_of(meta), dtype_of(meta))


@handles("aten.linear.default")
def _linear(meta: Tensor, x: Node, weight: Node, bias: Node | None = None) -> Node:
    operands = [x, weight] if bias is None else [x, weight, bias]
    return node("linear", operands, shape_of(meta), dtype_of(meta))


@handles("aten.embedding.default")
def _embedding(meta: Tensor, weight: Node, ids: Node, *_: Any, **__: Any) -> Node:
    return node("embedding", [weight, ids], shape_of(meta), dtype_of(meta))


@handles("aten.layer_norm.default")
def _layer_norm(
    meta: Tensor,
    x: Node,
    normalized_shape: list[int],
    weight: Node | None = None,
    bias: Node | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Node:
    if len(normalized_shape) != 1:
        raise UnsupportedOperatorError("layer_norm over more than the last dimension")
    operands = [t for t in (x, weight, bias) if t is not None]
    return node(
        "layer_norm",
        operands,
        shape_of(meta),
        dtype_of(meta),
        eps=float(eps),
        w=weight is not None,
        b=bias is not None,
    )


@handles("aten.rms_norm.default")
def _rms_norm(
    meta: Tensor, x: Node, _: list[int], weight: Node | None = None, eps: float | None = None
) -> Node:
    eps = torch.finfo(meta.dtype).eps if eps is None else eps
    operands = [x] if weight is None else [x, weight]
    return node("rms_norm", operands, shape_of(meta), dtype_of(meta), eps=float(eps))


@handles("aten.scaled_dot_product_attention.default")
def _attention(
    meta: Tensor,
    q: Node,
    k: Node,
    v: Node,
    mask: Node | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Node:
    operands = [q, k, v] if mask is None else [q, k, v, mask]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return node(
        "sdpa", operands, shape_of(meta), dtype_of(meta), scale=float(scale), causal=is_causal
    )


@handles("aten.conv2d.default", "aten.conv2d.padding")
def _conv2d(
    meta: Tensor,
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Node:
    def pair(value: Any) -> tuple[int, int]:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
        return values if len(values) == 2 else values * 2

    if isinstance(padding, str):
        if padding != "valid":
            raise UnsupportedOperatorError(f"conv2d with padding {padding!r}")
        padding = 0
    operands = [x, weight] if bias is None else [x, weight, bias]
    return node(
        "conv2d",
        operands,
        shape_of(meta),
        dtype_of(meta),
        stride=pair(stride),
        pad=pair(padding),
        dil=pair(dilation),
        groups=groups,
    )
