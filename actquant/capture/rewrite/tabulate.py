"""What depends on the time of a step alone is computed here, once for each step of the sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actquant.capture.rewrite.frontier import frontier
from actquant.capture.rewrite.rewrite import substitute
from actquant.common.errors import CaptureError
from actquant.program.interpret import evaluate
from actquant.program.ir import DTYPE_TO_TORCH, Graph, Node, const, node, reshape, topological

STEP = "step"


def tabulate(graph: Graph, time: str, timesteps: Sequence[float]) -> None:
    """Replaces all that follows from the input `time` alone by tables read at the input `step`.

    A table is f32 [steps, values]; it takes the place of `time`, so that the parameters it was
    computed from need not be in the file (they are its `origin`). Every operator is evaluated in
    its own precision, as PyTorch does it.

    Raises CaptureError if there is no such input or a value that is read is no f32.
    """
    declared = next((n for n in graph.inputs if n.name == time), None)
    if declared is None:
        raise CaptureError(f"stage {graph.name} has no input {time}")
    inside = {declared}
    for n in graph.nodes():
        operands = [x for x in n.inputs if not x.is_tensor]
        if operands and all(x in inside for x in operands):
            inside.add(n)
    graph.inputs.remove(declared)
    read = frontier(graph, inside)
    if not read:
        return
    wrong = [f"{n!r} ({n.source})" for n in read if n.dtype != "f32"]
    if wrong:
        raise CaptureError(f"stage {graph.name}: of {time} alone, not f32: {', '.join(wrong)}")
    step = Node("input", [], {}, (1,), "i64", name=STEP)
    graph.inputs.append(step)
    tables = _evaluate(read, declared, timesteps)
    made: dict[Node, Node] = {}
    for index, n in enumerate(read):
        rows = torch.stack(tables[n]).reshape(len(timesteps), -1)
        table = const(rows, parameters_of(n))
        table.name = f"{graph.name}.table.{index}"
        row = node("embedding", [table, step], (1, rows.shape[1]))
        row.source = n.source
        made[n] = reshape(row, n.shape)
    substitute(graph, made)


def parameters_of(n: Node) -> frozenset[str]:
    """Returns the names of all parameters that a value follows from."""
    found = topological([n])
    folded = frozenset().union(*(x.origin for x in found))
    return folded | {x.name for x in found if x.op == "param"}


def _evaluate(
    wanted: list[Node], time: Node, timesteps: Sequence[float]
) -> dict[Node, list[Tensor]]:
    """The values of `wanted` at all times; every parameter is read once."""
    dtype = DTYPE_TO_TORCH[time.dtype]
    values = {time: [torch.full(time.shape, t, dtype=dtype) for t in timesteps]}
    with torch.no_grad():
        for n in topological(wanted):
            if n.is_tensor or n is time:
                continue
            operands = [values.get(x) or [x.tensor] * len(timesteps) for x in n.inputs]
            values[n] = [evaluate(n, step) for step in zip(*operands, strict=True)]
    return {n: values[n] for n in wanted}
