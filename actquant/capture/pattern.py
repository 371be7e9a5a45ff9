"""Constants whose shape follows the prompt length, as host operators that make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actquant.program.ir import TORCH_TO_DTYPE, Node
from actquant.program.size import Size, fit_size

MAX_PARTS = 32
"""A constant of more different parts along a dimension is no pattern."""


@dataclass(frozen=True)
class Pattern:
    """Finds what a constant is at any length from its values at two lengths.

    Known are a single value, an arithmetic progression along one dimension, a lower triangle of
    `true`, and any concatenation of these.
    """

    lengths: tuple[int, int]

    def node(self, a: Tensor, b: Tensor) -> Node | None:
        """Returns the constant that is `a` at the first and `b` at the second length, on the
        host."""
        if a.dtype != b.dtype or a.ndim != b.ndim or a.dtype == torch.float64:
            return None
        shape = self._shape(a, b)
        if shape is None or 0 in shape:
            return None
        found = self._uniform(a, b, shape) or self._progression(a, b, shape)
        return found or self._triangle(a, b, shape) or self._parts(a, b)

    def _shape(self, a: Tensor, b: Tensor) -> tuple[int, ...] | None:
        sizes = [fit_size(pair, self.lengths) for pair in zip(a.shape, b.shape, strict=True)]
        return None if None in sizes else tuple(size for size in sizes if size is not None)

    def _value(self, a: Tensor, b: Tensor) -> float | None:
        """One number at both lengths; an integer may follow the length."""
        if a.dtype.is_floating_point:
            return float(a) if bool(a == b) else None
        return fit_size((int(a), int(b)), self.lengths)

    def _uniform(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Node | None:
        firsts = [x.reshape(-1)[0] for x in (a, b)]
        if not all(bool((x == first).all()) for x, first in zip((a, b), firsts, strict=True)):
            return None
        value = self._value(*firsts)
        return None if value is None else _full(shape, TORCH_TO_DTYPE[a.dtype], value)

    def _progression(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Node | None:
        dtype = TORCH_TO_DTYPE[a.dtype]
        for dim in range(a.ndim):
            first, second = _progression_along(a, dim), _progression_along(b, dim)
            if first is None or second is None:
                continue
            (start_a, step_a), (start_b, step_b) = first, second
            offset = self._value(start_a - step_a, start_b - step_b)
            if not bool(step_a == step_b) or offset is None:
                return None
            values = _count(_line(shape, dim), dim, dtype, step_a.item())
            if isinstance(offset, Size):
                start = _full((1,) * len(shape), dtype, offset)
                values = _host("add", [values, start], values.shape, dtype)
            elif offset:
                values = _host("affine", [values], values.shape, dtype, a=1.0, b=float(offset))
            return _spread(values, shape)
        return None

    def _triangle(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Node | None:
        """`true` where column <= row, in the last two dimensions."""
        if a.dtype != torch.bool or a.ndim < 2:
            return None
        if any(not torch.equal(x, torch.ones_like(x).tril()) for x in (a, b)):
            return None
        row, column = (_count(_line(shape, d), d, "i64", 1) for d in (a.ndim - 2, a.ndim - 1))
        square = (1,) * (a.ndim - 2) + shape[-2:]
        return _spread(_host("le", [column, row], square, "b8"), shape)

    def _parts(self, a: Tensor, b: Tensor) -> Node | None:
        """Runs of equal slices along the first dimension in which slices differ, concatenated."""
        dim = next((d for d in range(a.ndim) if len(_runs(a, d)) > 1), None)
        if dim is None:
            return None
        runs = [_runs(x, dim) for x in (a, b)]
        if len(runs[0]) != len(runs[1]) or len(runs[0]) > MAX_PARTS:
            return None
        parts: list[Node] = []
        for (start_a, end_a), (start_b, end_b) in zip(*runs, strict=True):
            part = self.node(a.narrow(dim, start_a, 1), b.narrow(dim, start_b, 1))
            width = fit_size((end_a - start_a, end_b - start_b), self.lengths)
            if part is None or width is None:
                return None
            shape = tuple(width if i == dim else size for i, size in enumerate(part.shape))
            parts.append(_spread(part, shape))
        shape = self._shape(a, b)
        return None if shape is None else _host("concat", parts, shape, parts[0].dtype, dim=dim)


def _progression_along(x: Tensor, dim: int) -> tuple[Tensor, Tensor] | None:
    """(first value, step) if x is start + step * index along `dim` and constant otherwise."""
    if x.dtype == torch.bool or x.shape[dim] < 3:
        return None
    line = x.movedim(dim, -1).reshape(-1, x.shape[dim])[0]
    start, step = line[0], line[1] - line[0]
    index = torch.arange(len(line)).to(x.dtype)
    shape = [len(line) if i == dim else 1 for i in range(x.ndim)]
    return (start, step) if bool((x == (start + step * index).reshape(shape)).all()) else None


def _runs(x: Tensor, dim: int) -> list[tuple[int, int]]:
    """(start, end) of the runs of equal slices along a dimension."""
    rows = x.movedim(dim, 0).reshape(x.shape[dim], -1)
    changes = (rows[1:] != rows[:-1]).any(dim=1).nonzero().reshape(-1) + 1
    bounds = [0, *changes.tolist(), len(rows)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _line(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(size if i == dim else 1 for i, size in enumerate(shape))


def _host(op: str, inputs: list[Node], shape: tuple[int, ...], dtype: str, /, **attrs: Any) -> Node:
    return Node(op, inputs, attrs, shape, dtype, host=True)


def _full(shape: tuple[int, ...], dtype: str, value: float) -> Node:
    return _host("full", [], shape, dtype, shape=shape, value=value)


def _count(shape: tuple[int, ...], dim: int, dtype: str, step: float) -> Node:
    """step, 2 * step, 3 * step, … along a dimension."""
    return _host("cumsum", [_full(shape, dtype, step)], shape, dtype, dim=dim)


def _spread(x: Node, shape: tuple[int, ...]) -> Node:
    """x repeated along its dimensions of size 1."""
    same = all(type(a) is type(b) and a == b for a, b in zip(x.shape, shape, strict=True))
    return x if same else _host("expand", [x], shape, x.dtype, shape=shape)
