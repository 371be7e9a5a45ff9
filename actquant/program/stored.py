"""Graphs as arrays and JSON, whole: every size that follows the prompt, every name and origin.

The text form (`program.text`) is what a runtime needs; this is what the same graphs are made of
again, to go on compressing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actquant.program.ir import Graph, Node
from actquant.program.size import Size

SIZE, TUPLE, NUMBER = "size", "tuple", "number"
"""Keys of a JSON object that stands for a Size, as [constant, factor, value], a tuple, or a number
that JSON does not know."""


def dump_graphs(
    graphs: Mapping[str, Graph], parameters: Mapping[str, Tensor]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the JSON-able rest of graphs.

    parameters: by name; what a graph reads of them unchanged is not among the arrays.
    """
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for name, graph in graphs.items():
        nodes = list(dict.fromkeys([*graph.inputs, *graph.nodes()]))
        index = {n: at for at, n in enumerate(nodes)}
        rows = []
        for at, n in enumerate(nodes):
            array = ""
            if n.is_tensor and not _is_whole(n, parameters.get(n.name)):
                array = f"{name}.{at}"
                arrays[array] = n.tensor.detach().contiguous().numpy()
            rows.append(
                {
                    "op": n.op,
                    "inputs": [index[x] for x in n.inputs],
                    "attrs": {key: _encoded(value) for key, value in n.attrs.items()},
                    "shape": _encoded(n.shape),
                    "dtype": n.dtype,
                    "array": array,
                    "name": n.name,
                    "source": n.source,
                    "origin": sorted(n.origin),
                    "host": n.host,
                }
            )
        found[name] = {
            "nodes": rows,
            "inputs": [index[n] for n in graph.inputs],
            "outputs": {key: index[n] for key, n in graph.outputs.items()},
        }
    return arrays, found


def load_graphs(
    arrays: Mapping[str, np.ndarray], stored: Mapping[str, Any], parameters: Mapping[str, Tensor]
) -> dict[str, Graph]:
    """Returns the graphs that `dump_graphs` was given."""
    graphs = {}
    for name, graph in stored.items():
        nodes: list[Node] = []
        for row in graph["nodes"]:
            data = None
            if row["array"]:
                data = torch.from_numpy(arrays[row["array"]].copy())
            elif row["op"] == "param":
                data = parameters[row["name"]]
            nodes.append(
                Node(
                    op=row["op"],
                    inputs=[nodes[at] for at in row["inputs"]],
                    attrs={key: _decoded(value) for key, value in row["attrs"].items()},
                    shape=_decoded(row["shape"]),
                    dtype=row["dtype"],
                    data=data,
                    name=row["name"],
                    source=row["source"],
                    origin=frozenset(row["origin"]),
                    host=row["host"],
                )
            )
        inputs = [nodes[at] for at in graph["inputs"]]
        outputs = {key: nodes[at] for key, at in graph["outputs"].items()}
        graphs[name] = Graph(name, inputs, outputs)
    return graphs


def _is_whole(n: Node, parameter: Tensor | None) -> bool:
    """Returns whether a node's data is that parameter, in its own shape."""
    if n.op != "param" or parameter is None or not isinstance(n.data, Tensor):
        return False
    same = n.data.data_ptr() == parameter.data_ptr() and n.data.stride() == parameter.stride()
    return same and n.data.shape == parameter.shape == n.shape


def _encoded(value: Any) -> Any:
    if isinstance(value, Size):
        return {SIZE: [value.constant, value.factor, int(value)]}
    if isinstance(value, (tuple, list)):
        return {TUPLE: [_encoded(item) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {NUMBER: str(value)}
    return value


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if TUPLE in value:
        return tuple(_decoded(item) for item in value[TUPLE])
    if NUMBER in value:
        return float(value[NUMBER])
    constant, factor, number = value[SIZE]
    return Size(constant, factor, (number - constant) // factor)
