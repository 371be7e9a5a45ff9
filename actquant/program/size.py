"""Sizes that depend on the number of prompt tokens L: `a + b * L` (docs/format.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from actquant.program.ir import Graph, Node

SYMBOL = "L"


class Size(int):
    """The integer `constant + factor * L`; as an `int`, its value at the length it was made for."""

    constant: int
    factor: int

    def __new__(cls, constant: int, factor: int, length: int) -> Size:
        size = super().__new__(cls, constant + factor * length)
        size.constant, size.factor = constant, factor
        return size

    def __str__(self) -> str:
        term = SYMBOL if self.factor == 1 else f"{self.factor}*{SYMBOL}"
        return f"{self.constant}+{term}" if self.constant else term

    __repr__ = __str__


def fit_size(values: tuple[int, int], lengths: tuple[int, int]) -> int | None:
    """Returns the integer that is `values` at these two lengths, or None if no `a + b * L` is."""
    if values[0] == values[1]:
        return int(values[0])
    factor, rest = divmod(values[1] - values[0], lengths[1] - lengths[0])
    return None if rest else Size(values[0] - factor * lengths[0], factor, lengths[0])


def parse_size(text: str, length: int | None) -> int:
    """Returns an integer as the format writes it, at this length.

    Raises ValueError for anything else, or if the length is needed and not given.
    """
    if not text.endswith(SYMBOL):
        return int(text)
    if length is None:
        raise ValueError(f"{text} depends on the number of prompt tokens, which is not given")
    constant, _, term = text.rpartition("+")
    factor = term.removesuffix(SYMBOL)
    if factor and not factor.endswith("*"):
        raise ValueError(f"{text} is no integer of the form a+b*L")
    return int(constant or 0) + int(factor.removesuffix("*") or 1) * length


def depends_on_length(graph: Graph) -> bool:
    """Returns whether any size in the graph is a `Size`."""
    found = False

    def look(size: int) -> int:
        nonlocal found
        found = found or isinstance(size, Size)
        return size

    for n in graph.nodes():
        map_sizes((n.shape, n.attrs), look)
    return found


def at_length(graph: Graph, length: int) -> Graph:
    """Returns the graph for prompts of `length` tokens: a copy that shares parameters and
    constants."""

    def value(size: int) -> int:
        return size.constant + size.factor * length if isinstance(size, Size) else size

    copies: dict[Node, Node] = {}
    for n in graph.nodes():
        copies[n] = n
        if not n.is_tensor:
            shape, attrs = map_sizes((n.shape, n.attrs), value)
            inputs = [copies[x] for x in n.inputs]
            copies[n] = replace(n, inputs=inputs, shape=shape, attrs=attrs)
    inputs = [copies.get(n) or replace(n, shape=map_sizes(n.shape, value)) for n in graph.inputs]
    return Graph(graph.name, inputs, {name: copies[n] for name, n in graph.outputs.items()})


def map_sizes(value: Any, function: Callable[[int], int]) -> Any:
    """Returns `value` with every integer in its tuples, lists and dicts replaced."""
    if isinstance(value, dict):
        return {key: map_sizes(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(map_sizes(item, function) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return function(value)
    return value
