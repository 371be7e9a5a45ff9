"""One program for every prompt length, from captures at two lengths.

Both captures are compared node by node; an integer that differs becomes `a + b * L`. All else must
be the same in both, but for constants whose shape follows the length: those become host operators.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, NoReturn

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from actquant.capture.pattern import Pattern
from actquant.capture.rewrite.rewrite import substitute
from actquant.common.errors import CaptureError
from actquant.program.interpret import interpret
from actquant.program.ir import DTYPE_TO_TORCH, Graph, Node
from actquant.program.size import at_length, depends_on_length, fit_size


def join_lengths(first: Graph, second: Graph, lengths: tuple[int, int]) -> Graph:
    """Joins the graphs of two prompt lengths into one; changes `first`.

    Raises CaptureError, naming node and source line, where the two differ in more than sizes that
    are `a + b * L`.
    """
    _Join(first, lengths).run(second)
    return first


def check_length(graph: Graph, length: int) -> None:
    """Runs the shapes of a graph, without data, at a length it was not captured at.

    Raises CaptureError if an operator does not give the shape that the graph says: a size of the
    policy coincided with one that depends on the prompt.
    """
    if not depends_on_length(graph):
        return
    concrete = at_length(graph, length)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        inputs = {
            n.name: torch.empty(n.shape, dtype=DTYPE_TO_TORCH[n.dtype]) for n in concrete.inputs
        }
        params = {  # those that are on disk stay unread
            n.name: torch.empty(n.shape, dtype=DTYPE_TO_TORCH[n.dtype])
            for n in concrete.nodes()
            if n.op == "param"
        }
        try:
            interpret(concrete, inputs, params)
        except (CaptureError, RuntimeError) as error:
            raise CaptureError(
                f"stage {graph.name} is not the same for every prompt length: at {length} tokens: "
                f"{error}"
            ) from error


class _Join:
    def __init__(self, graph: Graph, lengths: tuple[int, int]) -> None:
        self.graph = graph
        self.lengths = lengths
        self.partners: dict[Node, Node] = {}

    def run(self, second: Graph) -> None:
        pairs = list(zip_longest(self.graph.inputs, second.inputs))
        pairs += zip_longest(self.graph.nodes(), second.nodes())
        made: dict[Node, Node] = {}
        for n, other in pairs:
            self._pair(n, other)
            if n.op == "const" and not _equal(n, other):
                made[n] = self._pattern(n, other)
            elif not n.is_tensor:
                n.shape = self._join(n, other, n.shape, other.shape)
                n.attrs = self._join(n, other, n.attrs, other.attrs)
        substitute(self.graph, made)

    def _pair(self, n: Node | None, other: Node | None) -> None:
        """Remember the two as the same node. Raises CaptureError if they are not."""
        if n is None or other is None:
            self._fail(n or other, n, other)
        same = (n.op, n.name, n.dtype, n.host) == (other.op, other.name, other.dtype, other.host)
        partners = [self.partners.get(x) for x in n.inputs]
        if not same or partners != other.inputs or n.attrs.keys() != other.attrs.keys():
            self._fail(n, n, other)
        self.partners[n] = other

    def _join(self, n: Node, other: Node, a: Any, b: Any) -> Any:
        """Two values of an attribute, or two shapes, as one. (Pairs come twice for inputs.)"""
        if isinstance(a, dict):
            return {key: self._join(n, other, value, b[key]) for key, value in a.items()}
        if isinstance(a, (tuple, list)) and len(a) == len(b):
            return tuple(self._join(n, other, x, y) for x, y in zip(a, b, strict=True))
        if a == b:
            return a
        if isinstance(a, int) and isinstance(b, int):
            size = fit_size((a, b), self.lengths)
            if size is not None:
                return size
        self._fail(n, a, b)

    def _pattern(self, n: Node, other: Node) -> Node:
        made = Pattern(self.lengths).node(n.tensor, other.tensor)
        if made is None:
            raise CaptureError(
                f"stage {self.graph.name}: a constant of shape {list(n.shape)} at "
                f"{self.lengths[0]} prompt tokens and {list(other.shape)} at {self.lengths[1]} is "
                f"no pattern that follows the length (read by {self._reader(n)}); compute it from "
                "an input, such as the token mask, instead"
            )
        return made

    def _reader(self, constant: Node) -> str:
        readers = [n for n in self.graph.nodes() if constant in n.inputs]
        return f"{readers[0]!r}, {readers[0].source}" if readers else "an output"

    def _fail(self, where: Node | None, a: Any, b: Any) -> NoReturn:
        short, long = self.lengths
        source = where.source or "no source location" if where else "no source location"
        raise CaptureError(
            f"stage {self.graph.name} depends on the prompt length in more than sizes a + b * L: "
            f"{a!r} at {short} tokens, {b!r} at {long} ({where!r}, {source})"
        )


def _equal(a: Node, b: Node) -> bool:
    return a.shape == b.shape and torch.equal(a.tensor, b.tensor)
