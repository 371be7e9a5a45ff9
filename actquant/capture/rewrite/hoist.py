"""What does not change within a chunk is computed once: it moves to the stage before."""

from __future__ import annotations

from dataclasses import replace

from actquant.capture.rewrite.frontier import frontier
from actquant.capture.rewrite.rewrite import substitute
from actquant.program.ir import Graph, Node, topological


def hoist(step: Graph, before: Graph, step_inputs: tuple[str, ...]) -> None:
    """Moves what `step` computes from none of `step_inputs` into `before`.

    `before` gains outputs `fixed_<i>`, which `step` takes as inputs; inputs of `step` that nothing
    reads any more are dropped, and with them the outputs of `before` that nothing else reads.
    """
    changing: set[Node] = set()
    fixed: set[Node] = set()
    for n in step.nodes():
        if n.name in step_inputs or any(x in changing for x in n.inputs):
            changing.add(n)
        elif n.dtype != "f64" and any(x.op == "input" or x in fixed for x in n.inputs):
            fixed.add(n)  # a stage cannot give double precision
    made: dict[Node, Node] = {}
    copies: dict[Node, Node] = {}
    for n in frontier(step, fixed):
        name = f"fixed_{len(made)}"
        before.outputs[name] = _copy(n, before, copies)
        made[n] = Node("input", [], {}, n.shape, n.dtype, name=name)
    step.inputs += made.values()
    substitute(step, made)
    _drop_unread(step, before, step_inputs)


def _copy(value: Node, before: Graph, copies: dict[Node, Node]) -> Node:
    """The same value in `before`, whose outputs are the inputs of `step`."""
    for n in topological([value]):
        if n.op == "input":
            copies[n] = before.outputs[n.name]
        elif not n.is_tensor and n not in copies:
            copies[n] = replace(n, inputs=[copies.get(x, x) for x in n.inputs])
    return copies[value]


def _drop_unread(step: Graph, before: Graph, step_inputs: tuple[str, ...]) -> None:
    read = {n for n in step.nodes() if n.op == "input"}
    step.inputs = [n for n in step.inputs if n in read or n.name in step_inputs]
    wanted = {n.name for n in step.inputs}
    before.outputs = {name: n for name, n in before.outputs.items() if name in wanted}
