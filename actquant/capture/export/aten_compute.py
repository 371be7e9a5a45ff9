"""ATen operators that compute: arithmetic, reductions, products, norms, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from actquant.capture.export.aten_registry import (
    HANDLERS,
    PASS_THROUGH,
    Handler,
    dtype_of,
    handles,
    number,
    shape_of,
)
from actquant.common.errors import UnsupportedOperatorError
from actquant.program.ir import Node, affine, cast, node, reshape

MAX_POWER = 8


def _same(op: str) -> Handler:
    return lambda meta, x, *_, **__: node(op, [x], shape_of(meta), dtype_of(meta))


for _name in PASS_THROUGH:
    HANDLERS[_name] = lambda meta, x, *_, **__: x
UNARY = ("sin", "cos", "exp", "log", "rsqrt", "sqrt", "silu", "relu", "tanh", "sigmoid", "mish")
for _name in UNARY:
    HANDLERS[f"aten.{_name}.default"] = _same(_name)
HANDLERS["aten.square.default"] = _same("sqr")
HANDLERS["aten.neg.default"] = lambda meta, x: affine(x, -1, 0)
HANDLERS["aten.rsub.Scalar"] = lambda meta, x, y, alpha=1: affine(x, -alpha, y)
HANDLERS["aten.reciprocal.default"] = lambda meta, x: _reciprocal(cast(x, dtype_of(meta)))


def _reciprocal(x: Node, numerator: float = 1.0) -> Node:
    return node("div", [number(float(numerator)), x], x.shape, x.dtype)


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
    return _reciprocal(x, y) if reverse else affine(x, 1.0 / y, 0)


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


@handles("aten.pow.Tensor_Scalar")
def _power(meta: Tensor, x: Node, exponent: float) -> Node:
    roots = {0.5: "sqrt", -0.5: "rsqrt"}
    x = cast(x, dtype_of(meta))
    if exponent in roots:
        return node(roots[exponent], [x], shape_of(meta), dtype_of(meta))
    if exponent != int(exponent) or not 1 <= abs(exponent) <= MAX_POWER:
        raise UnsupportedOperatorError(f"pow with exponent {exponent}")
    result = _whole_power(x, int(abs(exponent)))
    return result if exponent > 0 else _reciprocal(result)


def _whole_power(x: Node, exponent: int) -> Node:
    """x to a positive integer, by squaring."""
    if exponent == 1:
        return x
    half = _whole_power(x, exponent // 2)
    square = node("sqr", [half], x.shape, x.dtype)
    return node("mul", [square, x], x.shape, x.dtype) if exponent % 2 else square


@handles("aten.gelu.default")
def _gelu(meta: Tensor, x: Node, approximate: str = "none") -> Node:
    return node("gelu", [x], shape_of(meta), dtype_of(meta), approx=approximate)


@handles("aten.softplus.default")
def _softplus(meta: Tensor, x: Node, beta: float = 1, *_: Any) -> Node:
    x = x if beta == 1 else affine(x, beta, 0)
    y = node("softplus", [x], shape_of(meta), dtype_of(meta))
    return y if beta == 1 else affine(y, 1 / beta, 0)


@handles("aten.elu.default")
def _elu(meta: Tensor, x: Node, *factors: float) -> Node:
    if any(factor != 1 for factor in factors):
        raise UnsupportedOperatorError(f"elu with the factors {factors}")
    return node("elu", [x], shape_of(meta), dtype_of(meta))


@handles("aten.leaky_relu.default")
def _leaky_relu(meta: Tensor, x: Node, slope: float = 0.01) -> Node:
    return node("leaky_relu", [x], shape_of(meta), dtype_of(meta), slope=float(slope))


@handles("aten.clamp.default", "aten.hardtanh.default")
def _clamp(meta: Tensor, x: Node, low: float | None = None, high: float | None = None) -> Node:
    is_hardtanh = low is None and high is None
    low = -1.0 if is_hardtanh else -math.inf if low is None else float(low)
    high = 1.0 if is_hardtanh else math.inf if high is None else float(high)
    if dtype_of(meta) == "f32":
        return node("clamp", [x], shape_of(meta), dtype_of(meta), min=low, max=high)
    # Integers are clamped on the host.
    for bound, below in ((low, True), (high, False)):
        if math.isfinite(bound):
            limit = number(int(bound))
            pair = [x, limit] if below else [limit, x]
            outside = node("lt", pair, x.shape, "b8")
            x = node("select", [outside, limit, x], x.shape, x.dtype)
    return x


HANDLERS["aten.clamp_min.default"] = lambda meta, x, low: _clamp(meta, x, low)
HANDLERS["aten.clamp_max.default"] = lambda meta, x, high: _clamp(meta, x, None, high)
HANDLERS["aten.relu6.default"] = lambda meta, x: _clamp(meta, x, 0, 6)


@handles("aten.abs.default")
def _absolute(meta: Tensor, x: Node) -> Node:
    sides = [node("relu", [side], x.shape, x.dtype) for side in (x, affine(x, -1, 0))]
    return node("add", sides, x.shape, x.dtype)


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
HANDLERS["aten.max.dim"] = _reduction("max")
for _name in ("sum", "mean", "min", "max"):
    HANDLERS[f"aten.{_name}.default"] = lambda meta, x, op=_name, **_: _reduction(op)(meta, x)
for _name in ("min", "max"):
    HANDLERS[f"aten.a{_name}.default"] = _reduction(_name)


@handles("aten.var.correction")
def _variance(
    meta: Tensor, x: Node, dims: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> Node:
    rank = len(x.shape)
    dims = tuple(d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank)))
    count = math.prod(x.shape[d] for d in dims)
    kept = [1 if d in dims else size for d, size in enumerate(x.shape)]
    mean = node("mean", [x], kept, x.dtype, dims=dims, keep=True)
    square = node("sqr", [node("sub", [x, mean], x.shape, x.dtype)], x.shape, x.dtype)
    y = node("mean", [square], shape_of(meta), x.dtype, dims=dims, keep=bool(keepdim))
    divisor = count - (1 if correction is None else correction)
    return y if divisor == count else affine(y, count / divisor, 0)


@handles("aten.linalg_vector_norm.default")
def _vector_norm(
    meta: Tensor, x: Node, order: float = 2, dims: Any = None, keepdim: bool = False, **_: Any
) -> Node:
    if order != 2:
        raise UnsupportedOperatorError(f"vector norm of order {order}")
    square = node("sqr", [x], x.shape, x.dtype)
    return node("sqrt", [_reduction("sum")(meta, square, dims, keepdim)], shape_of(meta), x.dtype)


@handles("aten.cumsum.default")
def _cumsum(meta: Tensor, x: Node, dim: int, dtype: Any = None) -> Node:
    return node("cumsum", [x], shape_of(meta), dtype_of(meta), dim=dim % len(x.shape))


@handles("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default")
def _softmax(meta: Tensor, x: Node, dim: int, *_: Any) -> Node:
    x = cast(x, dtype_of(meta))
    return node("softmax", [x], shape_of(meta), dtype_of(meta), dim=dim % len(x.shape))


@handles("aten.matmul.default", "aten.bmm.default", "aten.mm.default")
def _matmul(meta: Tensor, x: Node, y: Node) -> Node:
    return node("matmul", [x, y], shape_of(meta), dtype_of(meta))


@handles("aten.addmm.default", "aten.baddbmm.default")
def _addmm(meta: Tensor, c: Node, x: Node, y: Node, *, beta: float = 1, alpha: float = 1) -> Node:
    product = _matmul(meta, x, y)
    if alpha != 1:
        product = affine(product, alpha, 0)
    if beta == 0:
        return product
    c = c if beta == 1 else affine(c, beta, 0)
    return node("add", [product, c], shape_of(meta), dtype_of(meta))


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
    shape = x.shape
    if len(normalized_shape) != 1:  # the last dimensions as one
        size = (math.prod(normalized_shape),)
        x = reshape(x, shape[: -len(normalized_shape)] + size)
        weight, bias = (t if t is None else reshape(t, size) for t in (weight, bias))
    operands = [t for t in (x, weight, bias) if t is not None]
    has = {"w": weight is not None, "b": bias is not None}
    y = node("layer_norm", operands, x.shape, dtype_of(meta), eps=float(eps), **has)
    return reshape(y, shape)


@handles("aten.native_layer_norm.default")
def _native_layer_norm(meta: Any, *arguments: Any) -> tuple[Node, None, None]:
    return _layer_norm(meta[0], *arguments), None, None


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
