"""From a torch module to a graph: torch.export, ATen decompositions, folding of constants."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind
from torch.fx.node import map_arg

from actquant.capture.export.aten import CHECKS, FILLS, HANDLERS, PASS_THROUGH
from actquant.common.errors import CaptureError, UnsupportedOperatorError
from actquant.program.ir import TORCH_TO_DTYPE, Graph, Node, const
from actquant.weights.parameters import StoredTensor, StreamedWeights, weights_of


class _Positional(nn.Module):
    """Gives a module with named inputs and a dict of outputs the flat signature of torch.export."""

    def __init__(
        self, module: nn.Module, input_names: list[str], report: Callable[[list[str]], None]
    ) -> None:
        super().__init__()
        self.module = module
        self.input_names = input_names
        self.report = report  # attributes set while tracing are restored, so names leave this way

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(**dict(zip(self.input_names, tensors, strict=True)))
        self.report(list(outputs))
        return tuple(outputs.values())


CREATES = frozenset(("arange", "linspace", "logspace", "eye", "full", "ones", "zeros"))
"""What depends on no tensor is computed as PyTorch does it."""


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own ways to say the operators that have no handler."""
    known = HANDLERS.keys() | FILLS.keys() | PASS_THROUGH | CHECKS
    return {
        operator: decomposition
        for operator, decomposition in torch.export.default_decompositions().materialize().items()
        if str(operator) not in known and str(operator).split(".")[1] not in CREATES
    }


def export_stage(module: nn.Module, inputs: dict[str, Tensor], name: str) -> Graph:
    """Traces `module(**inputs)` into a graph whose parameters are named as in `module`.

    Everything that depends on no input is computed here and becomes a constant.
    Raises UnsupportedOperatorError with the operator, the stage and the line it came from.
    """
    reports: list[list[str]] = []
    positional = _Positional(module, list(inputs), reports.append)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(positional, tuple(inputs.values()), strict=False)
            exported = exported.run_decompositions(_decompositions())
    except Exception as error:
        raise CaptureError(f"stage {name}: torch.export failed: {error}") from error
    return _Builder(exported, inputs, reports[-1], name, weights_of(module)).build()


class _Builder:
    """Walks an exported program once; `values` maps its nodes to Nodes or, if constant, to data."""

    def __init__(
        self,
        exported: Any,
        inputs: dict[str, Tensor],
        output_names: list[str],
        name: str,
        weights: StreamedWeights | None,
    ) -> None:
        self.exported = exported
        self.inputs = inputs
        self.output_names = output_names
        self.weights = weights
        self.graph = Graph(name)
        self.values: dict[Any, Any] = {}
        self.dynamic: set[Any] = set()
        self.origins: dict[Any, frozenset[str]] = {}
        self.tensors: dict[int, tuple[Node, Tensor | StoredTensor]] = {}

    def build(self) -> Graph:
        for fx_node in self.exported.graph_module.graph.nodes:
            if fx_node.op == "placeholder":
                self._placeholder(fx_node)
            elif fx_node.op == "call_function":
                self._call(fx_node)
            elif fx_node.op == "output":
                self._output(fx_node)
            else:
                raise CaptureError(f"stage {self.graph.name}: {fx_node.op} {fx_node.target}")
        return self.graph

    def _placeholder(self, fx_node: Any) -> None:
        signature = self.exported.graph_signature
        parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        if fx_node.name in signature.user_inputs:
            name = list(self.inputs)[len(self.graph.inputs)]
            example = self.inputs[name]
            dtype = TORCH_TO_DTYPE[example.dtype]
            declared = Node("input", [], {}, tuple(example.shape), dtype, name=name)
            self.graph.inputs.append(declared)
            self.values[fx_node] = declared
            self.dynamic.add(fx_node)
        elif fx_node.name in parameters:
            path = parameters[fx_node.name]
            tensor = self.exported.state_dict.get(path)
            tensor = self.exported.constants[path] if tensor is None else tensor
            stored = self.weights.find(tensor) if self.weights else None
            value = tensor.detach() if stored is None else stored
            name = path.removeprefix("module.")
            self.values[fx_node] = value
            self.origins[fx_node] = frozenset((name,))
            if value.dtype in TORCH_TO_DTYPE:
                dtype = TORCH_TO_DTYPE[value.dtype]
                shape = tuple(value.shape)
                parameter = Node("param", [], {}, shape, dtype, data=value, name=name)
                self.tensors[id(value)] = (parameter, value)
        else:
            path = signature.inputs_to_lifted_tensor_constants[fx_node.name]
            self.values[fx_node] = self.exported.constants[path]

    def _call(self, fx_node: Any) -> None:
        target = str(fx_node.target)
        if target in CHECKS:
            return
        operands = fx_node.all_input_nodes
        if not any(operand in self.dynamic for operand in operands):
            self.values[fx_node] = self._evaluate(fx_node, target)
            origin = [self.origins.get(operand, frozenset()) for operand in operands]
            self.origins[fx_node] = frozenset().union(*origin)
            return
        meta = fx_node.meta.get("val")
        if target in FILLS:
            shape = [int(d) for d in meta.shape]
            self.values[fx_node] = torch.full(shape, FILLS[target], dtype=meta.dtype)
            return
        self.dynamic.add(fx_node)
        handler = HANDLERS.get(target)
        if handler is None:
            raise UnsupportedOperatorError(
                f"stage {self.graph.name}: operator {target} is not supported ({_source(fx_node)})"
            )
        args = [self._operand(a) for a in fx_node.args]
        kwargs = {k: self._operand(a) for k, a in fx_node.kwargs.items()}
        try:
            result = handler(meta, *args, **kwargs)
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(
                f"stage {self.graph.name}: {error} is not supported ({_source(fx_node)})"
            ) from error
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Node) and not value.source and not value.is_tensor:
                value.source = _source(fx_node)
        self.values[fx_node] = result

    def _evaluate(self, fx_node: Any, target: str) -> Any:
        """Compute a node that depends on no input. Views of a parameter stay the parameter."""

        def value(operand: Any) -> Any:
            return self.values[operand]

        def data(operand: Any) -> Any:
            found = self.values[operand]
            return found.read() if isinstance(found, StoredTensor) else found

        args = map_arg(fx_node.args, value)
        kwargs = map_arg(fx_node.kwargs, value)
        if target in PASS_THROUGH:
            return args[0]
        if target == "aten._to_copy.default" and kwargs.get("dtype") in (None, args[0].dtype):
            return args[0]
        if target == "aten.view.default":
            return args[0].reshape(args[1])
        return fx_node.target(*map_arg(fx_node.args, data), **map_arg(fx_node.kwargs, data))

    def _operand(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            value = self.values[argument]
            origin = self.origins.get(argument, frozenset())
            if isinstance(value, (tuple, list)):
                return tuple(self._node(v, origin) for v in value)
            return self._node(value, origin)
        if isinstance(argument, (list, tuple)):
            return [self._operand(a) for a in argument]
        return argument

    def _node(self, value: Any, origin: frozenset[str]) -> Any:
        if not isinstance(value, (Tensor, StoredTensor)):
            return value
        if id(value) not in self.tensors:
            self.tensors[id(value)] = (const(value, origin), value)
        return self.tensors[id(value)][0]

    def _output(self, fx_node: Any) -> None:
        specs = self.exported.graph_signature.output_specs
        results = [
            argument
            for spec, argument in zip(specs, fx_node.args[0], strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
        ]
        for name, argument in zip(self.output_names, results, strict=True):
            self.graph.outputs[name] = self._operand(argument)


def _source(fx_node: Any) -> str:
    """The innermost line of the policy's own code in the stack trace: `modeling.py:12: x + y`."""
    trace = fx_node.meta.get("stack_trace") or ""
    frames = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.*)', trace)
    for file, line, code in reversed(frames):
        if "/torch/" not in file:
            return f"{'/'.join(file.split('/')[-2:])}:{line}: {code.strip()}"
    return "no source location"
