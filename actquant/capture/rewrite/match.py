"""What the rules that recognise patterns share."""

from __future__ import annotations

from collections.abc import Iterator

from actquant.program.ir import Node


def strip(n: Node, ops: tuple[str, ...] = ("cast", "reshape", "expand")) -> Node:
    """Returns the value beneath operators that only change its form."""
    while n.op in ops:
        n = n.inputs[0]
    return n


def orders(n: Node) -> Iterator[tuple[Node, Node]]:
    """Returns both orders of the operands of a commutative operator."""
    x, y = n.inputs
    yield x, y
    yield y, x
