"""A part of a graph that is computed elsewhere: which of its values the rest reads."""

from __future__ import annotations

from actquant.program.ir import Graph, Node

SPREADING = frozenset(("expand", "reshape"))
"""Operators that stay with the reader: they move no data, or make more of it."""


def frontier(graph: Graph, inside: set[Node]) -> list[Node]:
    """Returns the values of `inside` that are read outside, beneath what only spreads them.

    An input outside of `inside` that is merely spread is no value of `inside`.
    """
    nodes = graph.nodes()
    wanted = {n for n in graph.outputs.values() if n in inside}
    for n in reversed(nodes):
        for x in n.inputs:
            spread = n in wanted and n.op in SPREADING
            if x in inside and (n not in inside or spread):
                wanted.add(x)
    return [n for n in nodes if n in wanted and n.op not in SPREADING]
