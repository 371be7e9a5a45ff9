"""ATen operators over windows and channels: convolutions, pooling, norms of channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actquant.capture.export.aten_registry import dtype_of, handles, shape_of
from actquant.common.errors import UnsupportedOperatorError
from actquant.program.ir import Node, const, expand, node, reshape, slice_


def pair(value: Any, count: int = 2) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values if len(values) == count else values * count


def pad(x: Node, pads: list[int], value: float = 0.0) -> Node:
    """Pads x; pads: before and after, for each dimension."""
    shape = [d + pads[2 * i] + pads[2 * i + 1] for i, d in enumerate(x.shape)]
    return node("pad", [x], shape, x.dtype, pads=tuple(pads), value=float(value))


def _pad_same(x: Node, window: tuple[int, ...], dilation: tuple[int, ...]) -> Node:
    pads = [0] * 2 * (len(x.shape) - len(window))
    for size, step in zip(window, dilation, strict=True):
        missing = step * (size - 1)
        pads += [missing // 2, missing - missing // 2]
    return pad(x, pads)


def _convolution(
    meta: Tensor,
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Node:
    rank = len(weight.shape) - 2
    if rank not in (1, 2) or len(x.shape) != rank + 2:
        raise UnsupportedOperatorError(f"a convolution of {list(x.shape)}")
    step, spread = pair(stride, rank), pair(dilation, rank)
    if padding == "same":
        x = _pad_same(x, weight.shape[2:], spread)
    border = pair(0 if isinstance(padding, str) else padding, rank)
    operands = [x, weight] if bias is None else [x, weight, bias]
    attrs: dict[str, Any] = {"stride": step, "pad": border, "dil": spread}
    if rank == 1:
        attrs = {key: value[0] for key, value in attrs.items()}
    return node(f"conv{rank}d", operands, shape_of(meta), dtype_of(meta), **attrs, groups=groups)


handles(*(f"aten.conv{rank}d.{form}" for rank in (1, 2) for form in ("default", "padding")))(
    _convolution
)


def _conv_transpose1d(
    meta: Tensor,
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Node:
    if groups != 1 or pair(dilation, 1) != (1,) or len(weight.shape) != 3:
        raise UnsupportedOperatorError("a transposed convolution with groups or dilation, or in 2D")
    operands = [x, weight] if bias is None else [x, weight, bias]
    return node(
        "conv_transpose1d",
        operands,
        shape_of(meta),
        dtype_of(meta),
        stride=pair(stride, 1)[0],
        pad=pair(padding, 1)[0],
        output_pad=pair(output_padding, 1)[0],
    )


handles("aten.conv_transpose1d.default")(_conv_transpose1d)


@handles("aten.convolution.default")
def _any_convolution(
    meta: Tensor,
    x: Node,
    weight: Node,
    bias: Node | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Node:
    if transposed:
        return _conv_transpose1d(
            meta, x, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return _convolution(meta, x, weight, bias, stride, padding, dilation, groups)


def _check_windows(x: Node, result: tuple[int, ...], kernel: Any, stride: Any, border: Any) -> None:
    """Windows that reach over the border (ceil_mode) have no operator."""
    for i in range(2):
        length = (x.shape[2 + i] + 2 * border[i] - kernel[i]) // stride[i] + 1
        if length != result[2 + i]:
            raise UnsupportedOperatorError("pooling with ceil_mode")


@handles("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
def _max_pool2d(
    meta: Any,
    x: Node,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    result = meta[0] if isinstance(meta, (tuple, list)) else meta
    size, step, border = pair(kernel), pair(stride or kernel), pair(padding)
    if pair(dilation) != (1, 1):
        raise UnsupportedOperatorError("max_pool2d with dilation")
    _check_windows(x, shape_of(result), size, step, border)
    value = node(
        "max_pool2d", [x], shape_of(result), dtype_of(result), kernel=size, stride=step, pad=border
    )
    return value if result is meta else (value, None)


@handles("aten.avg_pool2d.default")
def _avg_pool2d(
    meta: Tensor,
    x: Node,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Node:
    size, step, border = pair(kernel), pair(stride or kernel), pair(padding)
    if divisor is not None or (any(border) and not count_include_pad):
        raise UnsupportedOperatorError("avg_pool2d with a divisor of its own")
    if any(border):
        x = pad(x, [0, 0, 0, 0, border[0], border[0], border[1], border[1]])
    _check_windows(x, shape_of(meta), size, step, (0, 0))
    return node("avg_pool2d", [x], shape_of(meta), dtype_of(meta), kernel=size, stride=step)


@handles(
    "aten.adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool1d.default",
)
def _adaptive_avg_pool(meta: Tensor, x: Node, output: Any) -> Node:
    shape, dtype = shape_of(meta), dtype_of(meta)
    windows = list(zip(x.shape[2:], shape[2:], strict=True))
    if all(size == 1 for _, size in windows):
        dims = tuple(range(2, len(shape)))
        return node("mean", [x], shape, dtype, dims=dims, keep=True)
    if len(shape) != 4 or any(length % size for length, size in windows):
        raise UnsupportedOperatorError(f"adaptive pooling of {list(x.shape)} to {list(shape)}")
    step = tuple(length // size for length, size in windows)
    return node("avg_pool2d", [x], shape, dtype, kernel=step, stride=step)


@handles("aten.group_norm.default")
def _group_norm(
    meta: Tensor,
    x: Node,
    groups: int,
    weight: Node | None = None,
    bias: Node | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Node:
    operands = [t for t in (x, weight, bias) if t is not None]
    has = {"w": weight is not None, "b": bias is not None}
    return node(
        "group_norm", operands, shape_of(meta), dtype_of(meta), groups=groups, eps=float(eps), **has
    )


@handles("aten.native_group_norm.default")
def _native_group_norm(
    meta: Any,
    x: Node,
    weight: Node | None,
    bias: Node | None,
    batch: int,
    channels: int,
    size: int,
    groups: int,
    eps: float,
) -> tuple[Node, None, None]:
    return _group_norm(meta[0], x, groups, weight, bias, eps), None, None


@handles("aten.batch_norm.default")
def _batch_norm(
    meta: Tensor,
    x: Node,
    weight: Node | None,
    bias: Node | None,
    mean: Node | None,
    variance: Node | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Node:
    """With running statistics it is a scale and a shift per channel."""
    statistics = [t for t in (weight, bias, mean, variance) if t is not None]
    if training or mean is None or variance is None or any(not t.is_tensor for t in statistics):
        raise UnsupportedOperatorError("batch_norm with statistics of the batch")
    origin = frozenset().union(*(t.origin or {t.name} - {""} for t in statistics))
    scale = torch.rsqrt(variance.tensor.double() + eps)
    scale = scale if weight is None else scale * weight.tensor.double()
    shift = -mean.tensor.double() * scale
    shift = shift if bias is None else shift + bias.tensor.double()
    y = x
    for op, values in (("mul", scale), ("add", shift)):
        channels = values.float().reshape(1, -1, *(1,) * (len(x.shape) - 2))
        y = node(op, [y, const(channels, origin)], shape_of(meta), dtype_of(meta))
    return y


@handles("aten._native_batch_norm_legit_no_training.default")
def _native_batch_norm(
    meta: Any, x: Node, weight: Any, bias: Any, mean: Any, variance: Any, momentum: Any, eps: float
) -> tuple[Node, None, None]:
    y = _batch_norm(meta[0], x, weight, bias, mean, variance, False, momentum, eps)
    return y, None, None


@handles("aten.constant_pad_nd.default")
def _constant_pad(meta: Tensor, x: Node, pads: list[int], value: float = 0) -> Node:
    """`pads` starts with the last dimension; negative ones cut."""
    wanted = [0] * 2 * len(x.shape)
    for i, amount in enumerate(pads):
        dim = len(x.shape) - 1 - i // 2
        if amount < 0 and i % 2 == 0:
            x = slice_(x, dim, -amount, x.shape[dim])
        elif amount < 0:
            x = slice_(x, dim, 0, x.shape[dim] + amount)
        else:
            wanted[2 * dim + i % 2] = amount
    return pad(x, wanted, value) if any(wanted) else x


@handles("aten.pad.default")
def _pad(
    meta: Tensor, x: Node, pads: list[int], mode: str = "constant", value: float | None = None
) -> Node:
    if mode != "constant":
        raise UnsupportedOperatorError(f"padding by {mode}")
    return _constant_pad(meta, x, pads, value or 0.0)


@handles("aten.upsample_nearest2d.vec", "aten.upsample_nearest2d.default")
def _upsample_nearest(meta: Tensor, x: Node, *_: Any) -> Node:
    batch, channels, height, width = x.shape
    factors = [new / old for new, old in zip(shape_of(meta)[2:], (height, width), strict=True)]
    if any(factor != int(factor) for factor in factors):
        raise UnsupportedOperatorError(f"nearest upsampling by {factors}")
    rows, columns = (int(factor) for factor in factors)
    planes = batch * channels
    tall = expand(reshape(x, (planes, height, 1, width)), (planes, height, rows, width))
    wide = reshape(tall, (planes, height * rows, width, 1))
    wide = expand(wide, (planes, height * rows, width, columns))
    return reshape(wide, shape_of(meta))


@handles("aten.instance_norm.default")
def _instance_norm(
    meta: Tensor,
    x: Node,
    weight: Node | None,
    bias: Node | None,
    mean: Any,
    variance: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Node:
    if not use_input_stats:
        return _batch_norm(meta, x, weight, bias, mean, variance, False, momentum, eps)
    return _group_norm(meta, x, x.shape[1], weight, bias, eps)
