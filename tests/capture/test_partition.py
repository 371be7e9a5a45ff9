import pytest
import torch
from torch import nn

from actquant.capture import capture_stage
from actquant.common.errors import CaptureError, UnsupportedOperatorError
from actquant.program import interpret


class TimeEmbedding(nn.Module):
    def forward(self, t, x):
        period = 4e-3 * 1000 ** torch.linspace(0, 1, 16, dtype=torch.float64)
        angle = (2 * torch.pi / period)[None] * t[:, None]
        return {"y": x + torch.cat([angle.sin(), angle.cos()], 1).float()}


def test_double_precision_of_a_time_runs_on_the_host_and_keeps_its_precision():
    graph = capture_stage(TimeEmbedding(), {"t": torch.tensor([0.5]), "x": torch.zeros(1, 32)})
    assert {n.dtype for n in graph.nodes()} == {"f32"}
    assert [n.op for n in graph.operations() if not n.host] == ["add"]
    inputs = {"t": torch.tensor([0.93]), "x": torch.zeros(1, 32)}
    expected = TimeEmbedding()(**inputs)["y"]
    torch.testing.assert_close(interpret(graph, inputs)["y"], expected, atol=1e-7, rtol=0)


class DoubleProduct(nn.Module):
    def forward(self, x):
        return {"y": (x.double() * 2).float()}


def test_double_precision_on_the_device_is_refused():
    with pytest.raises(CaptureError, match="double precision"):
        capture_stage(DoubleProduct(), {"x": torch.randn(2, 3)})


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, mask, x):
        positions = torch.cumsum(mask, dim=1) - 1
        allowed = positions[:, None, :] <= positions[:, :, None]
        bias = torch.where(allowed & mask[:, None, :], 0.0, -1.0)
        return {"y": x + bias, "positions": positions}


def test_masks_and_positions_run_on_the_host():
    module = Positions()
    mask = torch.tensor([[True, True, False, True]])
    graph = capture_stage(module, {"mask": torch.ones_like(mask), "x": torch.randn(1, 4, 4)})
    assert {n.op for n in graph.operations() if not n.host} == {"add"}
    inputs = {"mask": mask, "x": torch.randn(1, 4, 4)}
    for name, value in module(**inputs).items():
        assert torch.equal(interpret(graph, inputs)[name], value)


class FiveDimensions(nn.Module):
    def forward(self, x):
        return {"y": x.reshape(2, 3, 2, 3, 2).permute(4, 3, 2, 1, 0) * 2}


def test_five_real_dimensions_are_refused():
    with pytest.raises(UnsupportedOperatorError, match="more than 4 dimensions"):
        capture_stage(FiveDimensions(), {"x": torch.randn(72)})


class FiveWithUnit(nn.Module):
    def forward(self, x):
        return {"y": x.reshape(1, 3, 2, 3, 2).permute(0, 4, 3, 2, 1).reshape(1, -1)}


def test_unit_dimensions_do_not_count():
    graph = capture_stage(FiveWithUnit(), {"x": torch.randn(36)})
    x = torch.randn(36)
    assert all(len(n.shape) <= 4 for n in graph.operations() if n.op == "permute")
    assert torch.equal(interpret(graph, {"x": x})["y"], FiveWithUnit()(x)["y"])
