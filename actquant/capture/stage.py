"""One stage, from module to a graph that the runtime can run."""

from __future__ import annotations

from torch import Tensor, nn

from actquant.capture.export import export_stage
from actquant.capture.fuse import fuse
from actquant.capture.ir import Graph
from actquant.capture.partition import check_operators, lower_doubles
from actquant.capture.simplify import simplify


def capture_stage(module: nn.Module, inputs: dict[str, Tensor], name: str = "stage") -> Graph:
    """Capture `module(**inputs)`, which returns a dict of tensors.

    The graph's inputs are named as the keys of `inputs`, its outputs as the keys of the result, its
    parameters as in `module`. Shapes are those of the examples; values are not baked in.

    Raises UnsupportedOperatorError (operator, stage, source line) for what the runtime cannot do.
    """
    graph = export_stage(module, inputs, name)
    simplify(graph)
    fuse(graph)
    lower_doubles(graph)
    check_operators(graph)
    return graph
