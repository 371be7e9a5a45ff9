"""The intermediate representation: a static single-assignment graph of tensor operations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actquant.weights.parameters import StoredTensor

TORCH_TO_DTYPE = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int64: "i64",
    torch.int32: "i64",
    torch.bool: "b8",
}
DTYPE_TO_TORCH = {
    "f32": torch.float32,
    "f64": torch.float64,
    "i64": torch.int64,
    "b8": torch.bool,
}


@dataclass(eq=False)
class Node:
    """One value. `op` is an operator of docs/format.md or `input`, `param` (a named parameter of
    the policy) or `const`. Nodes compare by identity."""

    op: str
    inputs: list[Node]
    attrs: dict[str, Any]
    shape: tuple[int, ...]
    dtype: str
    data: Tensor | StoredTensor | None = None
    name: str = ""
    source: str = ""
    """Where in the policy's code it came from."""
    origin: frozenset[str] = frozenset()
    """The parameters a `const` was folded from."""
    host: bool = False

    @property
    def is_tensor(self) -> bool:
        """True for a tensor of the file (`param` or `const`)."""
        return self.op in ("param", "const")

    @property
    def tensor(self) -> Tensor:
        """The data of a `param` or `const`; what is stored is read, each time anew."""
        assert self.data is not None, f"{self.op} {self.name} has no data"
        return self.data.read() if isinstance(self.data, StoredTensor) else self.data

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"<{self.op} {self.dtype}{list(self.shape)} {self.name}>"


@dataclass
class Graph:
    """A stage: inputs in order, outputs by name."""

    name: str = ""
    inputs: list[Node] = field(default_factory=list)
    outputs: dict[str, Node] = field(default_factory=dict)

    def nodes(self) -> list[Node]:
        """Returns everything the outputs depend on, operands first."""
        return topological(self.outputs.values())

    def operations(self) -> list[Node]:
        """Returns the nodes that compute: no inputs, no tensors."""
        return [n for n in self.nodes() if n.op != "input" and not n.is_tensor]

    def params(self) -> dict[str, Node]:
        """Returns the parameters that are read, by name."""
        return {n.name: n for n in self.nodes() if n.op == "param"}

    def users(self) -> dict[Node, list[tuple[Node, int]]]:
        """Returns for each node who reads it, and as which operand. Outputs are not listed."""
        users: dict[Node, list[tuple[Node, int]]] = {n: [] for n in self.nodes()}
        for node in list(users):
            for position, operand in enumerate(node.inputs):
                users[operand].append((node, position))
        return users

    def histogram(self) -> Counter[str]:
        """Returns how often each operator occurs."""
        return Counter(n.op for n in self.operations())

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes())


def topological(roots: Iterable[Node]) -> list[Node]:
    """Returns all nodes that the roots depend on, operands before users (iterative: graphs are
    deep)."""
    seen: set[Node] = set()
    order: list[Node] = []
    for root in roots:
        stack = [(root, 0)]
        while stack:
            node, position = stack.pop()
            if position == 0:
                if node in seen:
                    continue
                seen.add(node)
            if position < len(node.inputs):
                stack.append((node, position + 1))
                if node.inputs[position] not in seen:
                    stack.append((node.inputs[position], 0))
            else:
                order.append(node)
    return order


def node(
    op: str,
    inputs: Iterable[Node],
    shape: Iterable[int],
    dtype: str = "f32",
    /,
    **attrs: Any,
) -> Node:
    return Node(op, list(inputs), attrs, tuple(int(d) for d in shape), dtype)


def const(value: Tensor | StoredTensor, origin: frozenset[str] = frozenset()) -> Node:
    """Returns a tensor that is no parameter of the policy."""
    if isinstance(value, StoredTensor):
        dtype = TORCH_TO_DTYPE[value.dtype]
        return Node("const", [], {}, value.shape, dtype, data=value, origin=origin)
    value = value.detach().contiguous()
    if value.dtype == torch.int32:
        value = value.long()
    dtype = TORCH_TO_DTYPE[value.dtype]
    return Node("const", [], {}, tuple(value.shape), dtype, data=value, origin=origin)


def cast(x: Node, dtype: str) -> Node:
    return x if x.dtype == dtype else node("cast", [x], x.shape, dtype)


def reshape(x: Node, shape: Iterable[int]) -> Node:
    shape = tuple(shape)
    return x if shape == x.shape else node("reshape", [x], shape, x.dtype, shape=shape)


def permute(x: Node, perm: Iterable[int]) -> Node:
    perm = tuple(perm)
    return node("permute", [x], [x.shape[p] for p in perm], x.dtype, perm=perm)


def slice_(x: Node, dim: int, start: int, end: int, step: int = 1) -> Node:
    shape = list(x.shape)
    shape[dim] = max(0, (end - start + step - 1) // step)
    return node("slice", [x], shape, x.dtype, dim=dim, start=start, end=end, step=step)


def expand(x: Node, shape: Iterable[int]) -> Node:
    shape = tuple(shape)
    return node("expand", [x], shape, x.dtype, shape=shape)


def concat(parts: list[Node], dim: int) -> Node:
    shape = list(parts[0].shape)
    shape[dim] = sum(p.shape[dim] for p in parts)
    return node("concat", parts, shape, parts[0].dtype, dim=dim)


def affine(x: Node, a: float, b: float, dtype: str | None = None) -> Node:
    return node("affine", [x], x.shape, dtype or x.dtype, a=float(a), b=float(b))
