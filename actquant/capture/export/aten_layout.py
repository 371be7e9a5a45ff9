"""ATen operators that move or select elements."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from actquant.capture.export.aten_registry import dtype_of, handles, shape_of
from actquant.common.errors import UnsupportedOperatorError
from actquant.program.ir import Node, cast, concat, const, expand, permute, reshape, slice_


@handles(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.default",
    "aten.squeeze.dims",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
)
def _reshape(meta: Tensor, x: Node, *_: Any, **__: Any) -> Node:
    return reshape(x, shape_of(meta))


@handles("aten.transpose.int", "aten.t.default")
def _transpose(meta: Tensor, x: Node, i: int = 0, j: int = 1) -> Node:
    perm = list(range(len(x.shape)))
    if perm:
        perm[i], perm[j] = perm[j], perm[i]
    return permute(x, perm)


@handles("aten.permute.default")
def _permute(meta: Tensor, x: Node, perm: list[int]) -> Node:
    return permute(x, [p % len(x.shape) for p in perm])


def broadcast_to(x: Node, shape: tuple[int, ...]) -> Node:
    if len(x.shape) < len(shape):
        x = reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    return x if x.shape == shape else expand(x, shape)


@handles("aten.expand.default", "aten.expand_as.default")
def _expand(meta: Tensor, x: Node, *_: Any, **__: Any) -> Node:
    return broadcast_to(x, shape_of(meta))


def _bounds(length: int, start: int | None, end: int | None) -> tuple[int, int]:
    start = 0 if start is None else start
    end = length if end is None else end
    start = max(0, start + length) if start < 0 else min(start, length)
    end = max(0, end + length) if end < 0 else min(end, length)
    return start, max(start, end)


@handles("aten.slice.Tensor")
def _slice(
    meta: Tensor,
    x: Node,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Node:
    start, end = _bounds(x.shape[dim], start, end)
    return slice_(x, dim % len(x.shape), start, end, step)


@handles("aten.select.int")
def _select(meta: Tensor, x: Node, dim: int, index: int) -> Node:
    dim %= len(x.shape)
    index %= x.shape[dim]
    return reshape(slice_(x, dim, index, index + 1), shape_of(meta))


@handles("aten.slice_scatter.default")
def _slice_scatter(
    meta: Tensor,
    base: Node,
    source: Node,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Node:
    """`base[start:end] = source` as base before, source, base after."""
    if step != 1:
        raise UnsupportedOperatorError("slice_scatter with a step")
    dim %= len(base.shape)
    length = base.shape[dim]
    start, end = _bounds(length, start, end)
    source = cast(source, base.dtype)
    parts = []
    if start > 0:
        parts.append(_part(base, dim, 0, start))
    parts.append(source)
    if end < length:
        parts.append(_part(base, dim, end, length))
    return concat(parts, dim) if len(parts) > 1 else source


def _part(x: Node, dim: int, start: int, end: int) -> Node:
    if x.op == "const":
        return const(x.tensor.narrow(dim, start, end - start), x.origin)
    return slice_(x, dim, start, end)


@handles("aten.copy.default")
def _copy(meta: Tensor, target: Node, source: Node, *_: Any) -> Node:
    return broadcast_to(cast(source, dtype_of(meta)), shape_of(meta))


@handles("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default")
def _split(meta: list[Tensor], x: Node, _: Any, dim: int = 0) -> tuple[Node, ...]:
    dim %= len(x.shape)
    parts, position = [], 0
    for part in meta:
        width = int(part.shape[dim])
        parts.append(slice_(x, dim, position, position + width))
        position += width
    return tuple(parts)


@handles("aten.unbind.int")
def _unbind(meta: list[Tensor], x: Node, dim: int = 0) -> tuple[Node, ...]:
    dim %= len(x.shape)
    return tuple(reshape(slice_(x, dim, i, i + 1), shape_of(part)) for i, part in enumerate(meta))


@handles("<built-in function getitem>")
def _getitem(meta: Tensor, values: tuple[Node, ...], index: int) -> Node:
    return values[index]


@handles("aten.cat.default")
def _cat(meta: Tensor, parts: list[Node], dim: int = 0) -> Node:
    parts = [p for p in parts if 0 not in p.shape] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return concat([cast(p, dtype_of(meta)) for p in parts], dim % len(parts[0].shape))


@handles("aten.stack.default")
def _stack(meta: Tensor, parts: list[Node], dim: int = 0) -> Node:
    dim %= len(parts[0].shape) + 1
    return concat([reshape(p, p.shape[:dim] + (1,) + p.shape[dim:]) for p in parts], dim)
