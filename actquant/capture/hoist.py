"""What does not change within a chunk is computed once: it moves to the stage before."""

from __future__ import annotations

from dataclasses import replace

from actquant.capture.ir import Graph, Node, topological

COSTLY = frozenset(("linear", "matmul", "conv2d", "sdpa"))


def hoist(step: Graph, before: Graph, step_inputs: tuple[str, ...]) -> None:
    """Move the costly part of `step` that depends on none of `step_inputs` into `before`.

    `before` gains outputs `fixed_<i>`, which `step` takes as inputs; inputs of `step` that nothing
    reads any more are dropped, and with them the outputs of `before` that nothing else reads.
    """
    changing: set[Node] = set()
    for n in step.nodes():
        if n.name in step_inputs or any(x in changing for x in n.inputs):
            changing.add(n)
    replaced: dict[Node, Node] = {}
    copies: dict[Node, Node] = {}
    for n in step.nodes():
        for x in n.inputs if n in changing else ():
            if x in changing or x in replaced or x.is_tensor:
                continue
            if any(y.op in COSTLY for y in topological([x])):
                name = f"fixed_{len(replaced)}"
                before.outputs[name] = _copy(x, before, copies)
                replaced[x] = Node("input", [], {}, x.shape, x.dtype, name=name)
    step.inputs += replaced.values()
    for n in step.nodes():
        n.inputs = [replaced.get(x, x) for x in n.inputs]
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
