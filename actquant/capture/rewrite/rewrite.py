"""The rewriting engine: rules replace one node by an equal one, until nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actquant.common.errors import CaptureError
from actquant.program.ir import Graph, Node

Uses = dict[Node, int]
"""How often each node is read (outputs count)."""
Rule = Callable[[Node, Uses], Node | None]

MAX_SWEEPS = 60
SMALL = 65536
"""Constants up to this many elements are compared by value."""


def count_uses(graph: Graph) -> Uses:
    uses: Uses = {n: 0 for n in graph.nodes()}
    for n in list(uses):
        for operand in n.inputs:
            uses[operand] += 1
    for output in graph.outputs.values():
        uses[output] += 1
    return uses


def sweep(graph: Graph, rule: Rule) -> int:
    """Offers every node to the rule once, operands first; returns the number of replacements."""
    uses = count_uses(graph)
    replaced: dict[Node, Node] = {}

    def resolve(n: Node) -> Node:
        while n in replaced:
            n = replaced[n]
        return n

    for n in graph.nodes():
        n.inputs = [resolve(x) for x in n.inputs]
        new = rule(n, uses)
        if new is None or new is n:
            continue
        if not new.is_tensor and not new.source:
            new.source = n.source
        if new.shape != n.shape:
            raise CaptureError(f"rewriting {n!r} into {new!r} changes its shape")
        replaced[n] = new
    graph.outputs = {name: resolve(n) for name, n in graph.outputs.items()}
    for n in graph.nodes():
        n.inputs = [resolve(x) for x in n.inputs]
    return len(replaced)


def substitute(graph: Graph, replaced: Mapping[Node, Node]) -> None:
    """Lets whatever reads a key read its value instead."""
    for n in graph.nodes():
        n.inputs = [replaced.get(x, x) for x in n.inputs]
    graph.outputs = {name: replaced.get(n, n) for name, n in graph.outputs.items()}


def merge_equal(graph: Graph) -> int:
    """Merges equal operators on equal operands into one node."""
    seen: dict[tuple, Node] = {}

    def rule(n: Node, _: Uses) -> Node | None:
        if n.op in ("input", "param"):
            return None
        if n.op == "const":
            if n.size > SMALL:
                return None
            key = ("const", n.shape, n.dtype, n.tensor.cpu().numpy().tobytes())
        else:
            attrs = repr(sorted(n.attrs.items()))
            key = (n.op, tuple(id(x) for x in n.inputs), attrs, n.shape, n.dtype)
        return seen.setdefault(key, n)

    return sweep(graph, rule)


def to_fixpoint(graph: Graph, rules: Sequence[Rule]) -> None:
    """Applies all rules until none applies."""
    for _ in range(MAX_SWEEPS):
        changes = sum(sweep(graph, rule) for rule in rules) + merge_equal(graph)
        if not changes:
            return
    raise CaptureError(f"stage {graph.name}: rewriting did not come to an end")
