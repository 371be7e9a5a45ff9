"""One stage, from module to a graph that the runtime can run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from actquant.capture.export.export import export_stage
from actquant.capture.lowering.lower import lower
from actquant.capture.lowering.partition import check_operators, lower_doubles
from actquant.capture.rewrite.fuse import fuse
from actquant.capture.rewrite.rows import keep_read_rows
from actquant.capture.rewrite.simplify import simplify
from actquant.capture.rewrite.tabulate import tabulate
from actquant.program.ir import Graph


def capture_stage(module: nn.Module, inputs: dict[str, Tensor], name: str = "stage") -> Graph:
    """Captures `module(**inputs)`, which returns a dict of tensors, for the runtime.

    The graph's inputs are named as the keys of `inputs`, its outputs as the keys of the result, its
    parameters as in `module`. Shapes are those of the examples; values are not baked in.

    Raises UnsupportedOperatorError (operator, stage, source line) for what the runtime cannot do.
    """
    return finish(trace(module, inputs, name))


def trace(
    module: nn.Module,
    inputs: dict[str, Tensor],
    name: str,
    *,
    time: str | None = None,
    timesteps: Sequence[float] = (),
) -> Graph:
    """Returns a graph in the policy's own precision, with all that is known fused.

    time: the input that is replaced by tables with a row for each of `timesteps`.
    """
    graph = export_stage(module, inputs, name)
    simplify(graph)
    if time is not None:
        tabulate(graph, time, timesteps)
    fuse(graph)
    keep_read_rows(graph)
    lower(graph)
    return graph


def finish(graph: Graph) -> Graph:
    """Divides the graph between host and device; checks that the runtime has its operators."""
    lower_doubles(graph)
    check_operators(graph)
    return graph
