"""The text form of a graph: the grammar of docs/format.md, written and read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from actquant.common.errors import ModelFileError
from actquant.program.ir import TORCH_TO_DTYPE, Graph, Node
from actquant.program.size import parse_size
from actquant.weights.parameters import StoredTensor

DEFINITION = re.compile(
    r"(?P<id>%\d+) = (?P<host>host\.)?(?P<op>[a-z_0-9]+) (?P<dtype>f32|i64|b8)"
    r"\[(?P<shape>[\d,L*+-]*)\]",
    re.ASCII,
)
SIZE_OF_LENGTH = re.compile(r"(-?\d+\+)?(-?\d+\*)?L", re.ASCII)
INTEGER = re.compile(r"-?\d+", re.ASCII)
REAL = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?|inf)", re.ASCII)


def emit_program(graph: Graph, tensor_name: Callable[[Node], str]) -> str:
    """Returns the program of a partitioned graph; `tensor_name` names the `param` and `const`
    nodes."""
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
    """Returns the graph of a program for prompts of `length` tokens.

    Its tensors become `param` nodes with the data of `tensors`. Raises ModelFileError, naming the
    stage and the line, for anything outside the grammar, and where the length matters and is not
    given.
    """
    graph = Graph(name)
    values: dict[str, Node] = {}

    def reference(word: str) -> Node:
        if word not in values:
            if not word.startswith("@") or word[1:] not in tensors:
                raise ValueError(f"{word} is not defined")
            data = tensors[word[1:]]
            shape, dtype = tuple(data.shape), TORCH_TO_DTYPE[data.dtype]
            values[word] = Node("param", [], {}, shape, dtype, data=data, name=word[1:])
        return values[word]

    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        try:
            if words[:1] == ["output"]:
                _parse_output(words, graph, reference)
            elif words:
                value, n = _parse_definition(words, graph, reference, length)
                if value in values:
                    raise ValueError(f"{value} is defined twice")
                values[value] = n
        except (KeyError, ValueError) as error:
            raise ModelFileError(f"stage {name}, line {number}: {error}: {line!r}") from error
    if not graph.outputs:
        raise ModelFileError(f"stage {name}: the program has no output")
    return graph


def _parse_output(words: list[str], graph: Graph, reference: Callable[[str], Node]) -> None:
    if len(words) != 3:
        raise ValueError("not 'output NAME %n' or 'output NAME @name'")
    if words[1] in graph.outputs:
        raise ValueError(f"the output {words[1]} comes twice")
    graph.outputs[words[1]] = reference(words[2])


def _parse_definition(
    words: list[str], graph: Graph, reference: Callable[[str], Node], length: int | None
) -> tuple[str, Node]:
    """The value's name and its node."""
    match = DEFINITION.fullmatch(" ".join(words[:4]))
    if match is None:
        raise ValueError("not an instruction")
    operands = [reference(w) for w in words[4:] if w[0] in "%@"]
    attributes = {}
    for word in (w for w in words[4:] if w[0] not in "%@"):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word} is neither an operand nor key=value")
        attributes[key] = value
    shape = tuple(parse_size(d, length) for d in match["shape"].split(",") if d)
    if any(d < 1 for d in shape):
        raise ValueError(f"the shape {list(shape)} has an empty dimension")
    n = Node(match["op"], operands, {}, shape, match["dtype"], host=match["host"] is not None)
    if n.op == "input":
        n.name = attributes["name"]
        n.host = n.dtype in ("i64", "b8") or all(d == 1 for d in shape)
        graph.inputs.append(n)
    else:
        n.attrs = {key: _parse_value(value, length) for key, value in attributes.items()}
    return match["id"], n


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
    if INTEGER.fullmatch(text) or SIZE_OF_LENGTH.fullmatch(text):
        return parse_size(text, length)
    return float(text) if REAL.fullmatch(text) else text
