"""Finds the layers whose inputs may be scaled column by column at no cost at inference.

A norm or a gated product that nothing but linear layers read computes the same where its output is
divided by s and the columns of these layers are multiplied by s (Lin et al., AWQ,
arXiv:2306.00978).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from actquant.capture.policy import CapturedPolicy, free_vectors
from actquant.program.ir import Graph, Node

NORMS = ("rms_norm", "layer_norm")


@dataclass(frozen=True)
class Maker:
    """What is divided so that an input is: parameters [columns], and the rows of a matrix."""

    vectors: tuple[str, ...]
    matrix: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.vectors if self.matrix is None else (*self.vectors, self.matrix)


@dataclass(frozen=True)
class ScalableInput:
    """An input that may be scaled, and the weights [rows, columns] of the layers that read it."""

    maker: Maker
    layers: tuple[str, ...]


def scalable_inputs(captured: CapturedPolicy, weights: Collection[str]) -> list[ScalableInput]:
    """Returns every input that can be scaled, in the order in which inference makes them.

    weights: the matrices that may be changed. An input is left out if anything but these reads it,
    or if what is to be divided has another use.
    """
    chosen, free = set(weights), set(free_vectors(captured))
    layers: defaultdict[Maker, set[str | None]] = defaultdict(set)
    inputs_of: defaultdict[str, set[Maker | None]] = defaultdict(set)
    uses: defaultdict[str, set[Maker | None]] = defaultdict(set)
    for graph in captured.stages.values():
        users = graph.users()
        makers = {n: _maker_of(n, chosen, free) for n in users}
        for n, maker in makers.items():
            if maker is not None:
                layers[maker] |= _readers(n, graph, users)
            if n.op == "linear":
                inputs_of[n.inputs[1].name].add(makers[n.inputs[0]])
            for operand in n.inputs:
                if operand.op == "param":
                    uses[operand.name].add(maker or _gate_of(n, graph, users, makers))
    return [
        ScalableInput(maker, tuple(name for name in captured.params if name in names))
        for maker, names in layers.items()
        if names <= chosen
        and all(inputs_of[str(name)] == {maker} for name in names)
        and all(uses[name] == {maker} for name in maker.names)
    ]


Users = dict[Node, list[tuple[Node, int]]]


def _maker_of(n: Node, chosen: Collection[str], free: Collection[str]) -> Maker | None:
    """Returns what is divided for the output of a norm or of a gated product."""
    if n.op in NORMS:
        weighted = n.attrs.get("w", len(n.inputs) > 1)
        vectors = n.inputs[1:]
        if weighted and all(p.name in free for p in vectors):
            return Maker(tuple(p.name for p in vectors))
    if n.op == "glu" and n.inputs[1].op == "linear":
        _, weight, *bias = n.inputs[1].inputs
        if weight.name in chosen and all(p.name in free for p in bias):
            return Maker(tuple(p.name for p in bias), weight.name)
    return None


def _readers(n: Node, graph: Graph, users: Users) -> set[str | None]:
    """Returns the weights of the linear layers that read a value, with None for other readers."""
    found: set[str | None] = {
        user.inputs[1].name if user.op == "linear" and place == 0 else None
        for user, place in users[n]
    }
    return found | {None} if n in graph.outputs.values() else found


def _gate_of(n: Node, graph: Graph, users: Users, makers: dict[Node, Maker | None]) -> Maker | None:
    """Returns what makes the gated product that a linear layer goes into, if it goes into no other
    value."""
    found = {makers[user] if (user.op, place) == ("glu", 1) else None for user, place in users[n]}
    alone = len(found) == 1 and n.op == "linear" and n not in graph.outputs.values()
    return found.pop() if alone else None
