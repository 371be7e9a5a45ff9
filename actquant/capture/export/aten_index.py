"""ATen operators that pick elements by index, and that repeat them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from actquant.capture.export.aten_logic import positions
from actquant.capture.export.aten_registry import dtype_of, handles, number, shape_of
from actquant.common.errors import UnsupportedOperatorError
from actquant.program.ir import (
    Node,
    affine,
    cast,
    concat,
    const,
    expand,
    node,
    permute,
    reshape,
    slice_,
)

MAX_PIECES = 32
"""Constant indices that fall into more runs than this are a product with a selection matrix."""


def take(x: Node, dim: int, index: list[int]) -> Node:
    """Returns the elements of `x` at constant positions along `dim`."""
    size = x.shape[dim]
    index = [i + size if i < 0 else i for i in index]
    runs = _runs(index)
    if len(runs) > MAX_PIECES and x.dtype == "f32":
        chosen = torch.zeros(len(index), size)
        chosen[torch.arange(len(index)), torch.tensor(index)] = 1
        return _chosen(x, dim, const(chosen))
    pieces = [slice_(x, dim, start, start + (n - 1) * step + 1, step) for start, step, n in runs]
    return concat(pieces, dim) if len(pieces) > 1 else pieces[0]


def _runs(index: list[int]) -> list[tuple[int, int, int]]:
    """Arithmetic progressions that rise: (start, step, count)."""
    runs: list[tuple[int, int, int]] = []
    for i in index:
        if runs:
            start, step, count = runs[-1]
            if count == 1 and i > start:
                runs[-1] = (start, i - start, 2)
                continue
            if count > 1 and i == start + step * count:
                runs[-1] = (start, step, count + 1)
                continue
        runs.append((i, 1, 1))
    return runs


def _chosen(x: Node, dim: int, matrix: Node) -> Node:
    """matrix [n, size of dim] times x along `dim`."""
    order = [dim, *(d for d in range(len(x.shape)) if d != dim)]
    front = permute(x, order)
    rows = reshape(front, (x.shape[dim], math.prod(x.shape) // x.shape[dim]))
    count = matrix.shape[0]
    picked = node("matmul", [matrix, rows], (count, rows.shape[1]), x.dtype)
    back = [order.index(d) for d in range(len(order))]
    return permute(reshape(picked, (count, *front.shape[1:])), back)


def _one_hot(index: Node, size: int) -> Node:
    """[n] of the host -> f32 [n, size]."""
    column = reshape(index, (math.prod(index.shape), 1))
    wrapped = node("lt", [column, number(0)], column.shape, "b8")
    column = node("select", [wrapped, affine(column, 1, size), column], column.shape, "i64")
    shape = (column.shape[0], size)
    return cast(node("eq", [column, positions((1, size), 1)], shape, "b8"), "f32")


def _table_rows(table: Node, index: Node) -> Node:
    """Rows of a tensor of the file."""
    rows = table.shape[0]
    shape = (rows, math.prod(table.shape[1:]))
    if table.shape != shape:
        assert table.data is not None
        data = table.data.reshape(shape)
        table = Node(
            table.op, [], {}, shape, table.dtype, name=table.name, data=data, origin=table.origin
        )
    return node("embedding", [table, index], (*index.shape, shape[1]), table.dtype)


def _is_counting(index: Node, size: int) -> bool:
    return (
        index.op == "const"
        and index.tensor.numel() == size
        and index.tensor.reshape(-1).tolist() == list(range(size))
    )


@handles("aten.index.Tensor")
def _index(meta: Tensor, x: Node, indices: list[Node | None]) -> Node:
    dims = [d for d, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if any(i.dtype == "b8" for i in given):
        raise UnsupportedOperatorError("indexing with a mask")
    shape = shape_of(meta)
    if all(i.op == "const" for i in given):
        return reshape(_take_constant(x, dims, [i.tensor for i in given]), shape)
    if len(given) == 1:
        if x.is_tensor and dims == [0] and x.dtype == "f32":
            return reshape(_table_rows(x, given[0]), shape)
        picked = _chosen(x, dims[0], _one_hot(given[0], x.shape[dims[0]]))
        return reshape(cast(picked, dtype_of(meta)), shape)
    if dims == [0, 1] and _is_counting(given[0], x.shape[0]) and given[1].shape == x.shape[:1]:
        batch, length = x.shape[:2]
        matrix = reshape(_one_hot(given[1], length), (batch, 1, length))
        rows = reshape(x, (batch, length, math.prod(x.shape[2:])))
        return reshape(node("matmul", [matrix, rows], (batch, 1, rows.shape[2])), shape)
    raise UnsupportedOperatorError("indexing with several tensors that are no constants")


def _take_constant(x: Node, dims: list[int], given: list[Tensor]) -> Node:
    """Neighbouring indexed dimensions are picked from as one."""
    first, count = dims[0], len(dims)
    if dims != list(range(first, first + count)):
        raise UnsupportedOperatorError("indexing dimensions that are not neighbours")
    flat = torch.zeros((), dtype=torch.int64)
    for dim, index in zip(dims, given, strict=True):
        size = x.shape[dim]
        flat = flat * size + torch.where(index < 0, index + size, index)
    sizes = math.prod(x.shape[first : first + count])
    merged = reshape(x, (*x.shape[:first], sizes, *x.shape[first + count :]))
    return take(merged, first, flat.reshape(-1).tolist())


@handles("aten.index_select.default")
def _index_select(meta: Tensor, x: Node, dim: int, index: Node) -> Node:
    dim %= len(x.shape)
    return _index(meta, x, [*[None] * dim, index])


@handles("aten.gather.default")
def _gather(meta: Tensor, x: Node, dim: int, index: Node, **_: Any) -> Node:
    dim %= len(x.shape)
    others = [d for d in range(len(x.shape)) if d != dim]
    if index.op != "const" or any(index.shape[d] != x.shape[d] for d in others):
        raise UnsupportedOperatorError("gather with indices that are no constants")
    line = index.tensor.movedim(dim, 0).reshape(index.shape[dim], -1)
    if not bool((line == line[:, :1]).all()):
        raise UnsupportedOperatorError("gather with indices that differ between rows")
    return take(x, dim, line[:, 0].tolist())


@handles("aten.flip.default")
def _flip(meta: Tensor, x: Node, dims: list[int]) -> Node:
    for dim in dims:
        dim %= len(x.shape)
        x = take(x, dim, list(reversed(range(x.shape[dim]))))
    return x


@handles("aten.roll.default")
def _roll(meta: Tensor, x: Node, shifts: Any, dims: Any = ()) -> Node:
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not dims:
        flat = reshape(x, (math.prod(x.shape),))
        return reshape(_roll(meta, flat, shifts, [0]), x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        dim %= len(x.shape)
        size = x.shape[dim]
        cut = -shift % size
        if cut:
            x = concat([slice_(x, dim, cut, size), slice_(x, dim, 0, cut)], dim)
    return x


@handles("aten.repeat.default", "aten.tile.default")
def _repeat(meta: Tensor, x: Node, repeats: list[int]) -> Node:
    shape = shape_of(meta)
    x = reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    counts = [1] * (len(shape) - len(repeats)) + list(repeats)
    for dim, count in enumerate(counts):
        if count > 1 and x.shape[dim] != 1:
            before, after = math.prod(x.shape[:dim]), math.prod(x.shape[dim:])
            copies = expand(reshape(x, (before, 1, after)), (before, count, after))
            x = reshape(copies, (*x.shape[:dim], count * x.shape[dim], *x.shape[dim + 1 :]))
    return x if x.shape == shape else expand(x, shape)


@handles("aten.repeat_interleave.self_int")
def _repeat_interleave(meta: Tensor, x: Node, count: int, dim: int | None = None, **_: Any) -> Node:
    if dim is None:
        x, dim = reshape(x, (math.prod(x.shape),)), 0
    dim %= len(x.shape)
    before, after = x.shape[: dim + 1], x.shape[dim + 1 :]
    wide = expand(reshape(x, (*before, 1, *after)), (*before, count, *after))
    return reshape(wide, shape_of(meta))


@handles("aten.unfold.default")
def _unfold(meta: Tensor, x: Node, dim: int, size: int, step: int) -> Node:
    """Windows along `dim`, which become the last dimension."""
    dim %= len(x.shape)
    count = shape_of(meta)[dim]
    windows = [slice_(x, dim, i, i + (count - 1) * step + 1, step) for i in range(size)]
    return concat([reshape(w, (*w.shape, 1)) for w in windows], len(x.shape))


@handles("aten.full_like.default", "aten.new_full.default")
def _full_like(meta: Tensor, x: Node, *values: Any, **_: Any) -> Node:
    shape = shape_of(meta)
    one = torch.full((1,) * len(shape), values[-1], dtype=meta.dtype)
    return const(one) if one.shape == shape else expand(const(one), shape)
