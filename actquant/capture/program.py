"""The text form of a graph: the grammar of docs/format.md, written and read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from actquant.capture.ir import TORCH_TO_DTYPE, Graph, Node
from actquant.capture.size import parse_size
from actquant.errors import ModelFileError
from actquant.parameters import StoredTensor

INSTRUCTION = re.compile(
    r"(?P<id>%\d+) = (?P<host>host\.)?(?P<op>[a-z_0-9]+) (?P<dtype>f32|i64|b8)"
    r"\[(?P<shape>[\d,L*+-]*)\](?P<rest>.*)"
)
NUMBER_OF_LENGTH = re.compile(r"(-?\d+\+)?(-?\d+\*)?L")
OUTPUT = re.compile(r"output (?P<name>\S+) (?P<value>[%@]\S+)")


def emit_program(graph: Graph, tensor_name: Callable[[Node], str]) -> str:
    """The program of a partitioned graph; `tensor_name` names the `param` and `const` nodes."""
    references: dict[Node, str] = {}
    lines = []

    def define(n: Node) -> str:
        references[n] = f"%{len(lines)}"
        return references[n]

    for n in graph.inputs:
        lines.append(f"{define(n)} = input {_typed(n)} name={n.name}")
    for n in graph.nodes():
        if n.op == "input":
            continue
        if n.is_tensor:
            references[n] = f"@{tensor_name(n)}"
            continue
        operands = [references[x] for x in n.inputs]
        attrs = [f"{key}={_value(value)}" for key, value in n.attrs.items()]
        op = f"host.{n.op}" if n.host else n.op
        lines.append(" ".join([f"{define(n)} = {op} {_typed(n)}", *operands, *attrs]))
    lines += [f"output {name} {references[n]}" for name, n in graph.outputs.items()]
    return "\n".join(lines)


def parse_program(
    text: str, name: str, tensors: Mapping[str, Tensor | StoredTensor], length: int | None = None
) -> Graph:
    """The graph of a program for prompts of `length` tokens.

    Its tensors become `param` nodes with the data of `tensors`. Raises ModelFileError, naming the
    stage and the line, for anything outside the grammar, and where the length matters and is not
    given.
    """
    graph = Graph(name)
    values: dict[str, Node] = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            _parse_line(line, graph, values, tensors, length)
        except (KeyError, ValueError) as error:
            raise ModelFileError(f"stage {name}, line {number}: {error}: {line!r}") from error
    return graph


def _parse_line(
    line: str,
    graph: Graph,
    values: dict[str, Node],
    tensors: Mapping[str, Tensor | StoredTensor],
    length: int | None,
) -> None:
    def reference(word: str) -> Node:
        if word not in values:
            if not word.startswith("@") or word[1:] not in tensors:
                raise ValueError(f"{word} is not defined")
            data = tensors[word[1:]]
            shape, dtype = tuple(data.shape), TORCH_TO_DTYPE[data.dtype]
            values[word] = Node("param", [], {}, shape, dtype, data=data, name=word[1:])
        return values[word]

    if output := OUTPUT.fullmatch(line):
        graph.outputs[output["name"]] = reference(output["value"])
        return
    match = INSTRUCTION.fullmatch(line)
    if match is None:
        raise ValueError("not an instruction")
    words = match["rest"].split()
    operands = [reference(w) for w in words if w[0] in "%@"]
    pairs = [w.partition("=") for w in words if w[0] not in "%@"]
    shape = tuple(parse_size(d, length) for d in match["shape"].split(",") if d)
    n = Node(match["op"], operands, {}, shape, match["dtype"], host=match["host"] is not None)
    if n.op == "input":
        n.name = {key: value for key, _, value in pairs}["name"]
        n.host = n.dtype in ("i64", "b8") or all(d == 1 for d in shape)
        graph.inputs.append(n)
    else:
        n.attrs = {key: _parse_value(value, length) for key, _, value in pairs}
    values[match["id"]] = n


def _typed(n: Node) -> str:
    return f"{n.dtype}[{','.join(map(str, n.shape))}]"


def _value(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_value(v) for v in value)}]"
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def _parse_value(text: str, length: int | None) -> Any:
    if text.startswith("["):
        return tuple(_parse_value(part, length) for part in text[1:-1].split(",") if part)
    if NUMBER_OF_LENGTH.fullmatch(text):
        return parse_size(text, length)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
