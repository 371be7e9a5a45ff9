import pytest
import torch
from torch import nn

from actquant.capture.report import capture_report
from actquant.capture.stage import finish, trace
from actquant.common.errors import CaptureError
from actquant.program import interpret

TIMES = (1.0, 0.75, 0.5, 0.25)


class Modulated(nn.Module):
    """Adaptive normalisation by a time embedding, as diffusion transformers do it."""

    def __init__(self):
        super().__init__()
        self.embed, self.modulation = nn.Linear(8, 6), nn.Linear(6, 12)
        self.mix = nn.Linear(6, 6)

    def forward(self, x_t, t):
        scale = torch.exp(torch.arange(4, dtype=torch.float64) / 4)
        angles = t.double()[:, None] * scale
        moment = self.embed(torch.cat([angles.sin(), angles.cos()], dim=-1).float())
        shift, gain = self.modulation(nn.functional.silu(moment)).chunk(2, dim=-1)
        x = nn.functional.layer_norm(x_t, (6,)) * (1 + gain[:, None]) + shift[:, None]
        return {"output": self.mix(x) + moment[:, None].expand(1, 5, 6)}


def captured(module=None, time="t"):
    torch.manual_seed(0)
    module = module or Modulated()
    inputs = {"x_t": torch.randn(1, 5, 6), "t": torch.tensor([0.3])}
    return module, finish(trace(module, inputs, "denoise", time=time, timesteps=TIMES))


def test_tables_hold_what_pytorch_computes_at_each_step():
    module, graph = captured()
    assert [n.name for n in graph.inputs] == ["x_t", "step"]
    assert {n.name for n in graph.nodes() if n.op == "param"} == {"mix.weight", "mix.bias"}
    assert not {"sin", "cos", "silu"} & set(graph.histogram())
    x_t = torch.randn(1, 5, 6)
    for step, time in enumerate(TIMES):
        got = interpret(graph, {"x_t": x_t, "step": torch.tensor([step])})["output"]
        torch.testing.assert_close(got, module(x_t, torch.tensor([time]))["output"])


def test_a_table_has_a_row_a_step_and_is_not_spread():
    _, graph = captured()
    tables = [n.inputs[0] for n in graph.nodes() if n.op == "embedding"]
    assert [t.shape for t in tables] == [(4, 6)] * 3
    assert {t.name for t in tables} == {f"denoise.table.{i}" for i in range(3)}


def test_parameters_of_tables_are_read_but_not_in_the_program():
    module, graph = captured()
    sizes = {name: p.numel() for name, p in module.named_parameters()} | {"unused": 10}
    report = capture_report({"denoise": graph}, sizes)
    assert (report.tabulated_parameters, report.dropped_parameters) == (4, 1)
    assert report.tabulated_bytes == 4 * (8 * 6 + 6 + 6 * 12 + 12)
    assert report.table_bytes == report.stages[0].table_bytes == 3 * 4 * 6 * 4
    assert report.dropped_bytes == 40 and report.warnings == []


class Direct(nn.Module):
    def forward(self, x_t, t):
        return {"output": x_t * t[:, None, None]}


class Timeless(nn.Module):
    def forward(self, x_t, t):
        return {"output": x_t * 2}


def test_the_time_itself_is_a_table_and_a_step_without_time_has_none():
    _, graph = captured(Direct())
    x_t = torch.randn(1, 5, 6)
    got = interpret(graph, {"x_t": x_t, "step": torch.tensor([2])})["output"]
    torch.testing.assert_close(got, 0.5 * x_t)
    _, graph = captured(Timeless())
    assert [n.name for n in graph.inputs] == ["x_t"]


def test_a_time_that_is_no_input_is_refused():
    with pytest.raises(CaptureError, match="stage denoise has no input moment"):
        captured(time="moment")
