import pytest
import torch
from torch import nn

from actquant.capture import capture_stage
from actquant.common.errors import CaptureError, UnsupportedOperatorError
from actquant.program import interpret


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.table = nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        index = torch.arange(2) * 2
        y = self.linear(x) + self.table[index] * 2
        return {"y": y, "first": y[:, 0]}


def test_what_depends_on_no_input_is_folded_and_remembers_its_parameter():
    graph = capture_stage(Constants(), {"x": torch.randn(2, 4)})
    assert graph.histogram() == {"linear": 1, "add": 1, "slice": 1, "reshape": 1}
    assert set(graph.params()) == {"linear.weight", "linear.bias"}
    folded = [n for n in graph.nodes() if n.op == "const"]
    assert [n.origin for n in folded] == [{"table"}]


def test_names_of_inputs_and_outputs_and_values():
    module = Constants()
    graph = capture_stage(module, {"x": torch.randn(2, 4)})
    x = torch.randn(2, 4)
    result = interpret(graph, {"x": x})
    assert [n.name for n in graph.inputs] == ["x"]
    assert list(result) == ["y", "first"]
    for name, value in module(x).items():
        torch.testing.assert_close(result[name], value)


class Written(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        y[..., :2] = x[..., 2:] * 3
        y[..., 2:] = -x[..., :2]
        y[:1] = x[1:]
        return {"y": y}


def test_writing_into_slices():
    x = torch.randn(2, 4)
    graph = capture_stage(Written(), {"x": torch.randn(2, 4)})
    torch.testing.assert_close(interpret(graph, {"x": x})["y"], Written()(x)["y"])


class Sorted(nn.Module):
    def forward(self, x):
        return {"y": torch.sort(x * 2)[0]}


def test_an_unknown_operator_is_named_with_stage_and_source():
    with pytest.raises(UnsupportedOperatorError) as caught:
        capture_stage(Sorted(), {"x": torch.randn(4)}, "ranking")
    message = str(caught.value)
    assert "aten.sort.default" in message and "stage ranking" in message
    assert "test_export.py" in message and "torch.sort(x * 2)" in message


class Largest(nn.Module):
    def forward(self, x):
        return {"y": x.amax(-1)}


def test_an_operator_that_only_the_capture_knows_is_refused_too():
    with pytest.raises(UnsupportedOperatorError, match=r"stage pool .*\n  operator max .*x.amax"):
        capture_stage(Largest(), {"x": torch.randn(2, 4)}, "pool")


class Branching(nn.Module):
    def forward(self, x):
        return {"y": x if x.sum() > 0 else -x}


def test_control_flow_on_values_is_a_capture_error():
    with pytest.raises(CaptureError, match="stage branch: torch.export failed"):
        capture_stage(Branching(), {"x": torch.randn(2)}, "branch")


def test_inputs_are_checked_when_a_graph_is_run():
    graph = capture_stage(Constants(), {"x": torch.randn(2, 4)}, "s")
    with pytest.raises(CaptureError, match="input x is missing"):
        interpret(graph, {})
    with pytest.raises(CaptureError, match=r"input x is \[3, 4\], wanted \[2, 4\]"):
        interpret(graph, {"x": torch.randn(3, 4)})
