"""What the tests of captured functions share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from actquant.capture import capture_stage
from actquant.program import Graph, emit_program, interpret, parse_program


class Function(nn.Module):
    """A function of tensors as a stage; what it needs besides is passed as modules or buffers."""

    def __init__(self, function: Callable, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)
        self.names = list(parts)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        parts = {name: getattr(self, name) for name in self.names}
        return {"y": self.function(*inputs.values(), **parts)}


def random_like(tensor: Tensor) -> Tensor:
    """Other values of the same kind; integers keep their range."""
    if tensor.is_floating_point():
        return torch.randn_like(tensor)
    return tensor[..., torch.randperm(tensor.shape[-1])] if tensor.ndim else tensor


def assert_captured(
    module: nn.Module | Callable,
    inputs: dict[str, Tensor],
    tolerance: float = 2e-6,
) -> Graph:
    """The program gives what the module does, on other values than it was captured with."""
    module = module if isinstance(module, nn.Module) else Function(module)
    module.eval()
    torch.manual_seed(0)
    graph = capture_stage(module, inputs)
    names: dict[int, str] = {}
    tensors = {}

    def name(n) -> str:
        found = names.setdefault(id(n), n.name or f"const.{len(names)}")
        tensors[found] = n.tensor
        return found

    read_back = parse_program(emit_program(graph, name), "read_back", tensors)
    for _ in range(2):
        other = {key: random_like(value) for key, value in inputs.items()}
        with torch.no_grad():
            wanted = module(**other)
        for program in (graph, read_back):
            for key, value in interpret(program, other).items():
                scale = max(float(wanted[key].double().abs().max()), 1e-3)
                torch.testing.assert_close(value, wanted[key], atol=tolerance * scale, rtol=1e-5)
    return graph
