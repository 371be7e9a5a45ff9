import torch
from torch import nn

from actquant.capture import capture_stage
from actquant.capture.rewrite.hoist import hoist
from actquant.program import interpret


class Before(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return {"context": self.a(x), "unread": x * 2}


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x_t, context, unread):
        return {"y": self.c(x_t) + self.b(context) + context[:, :1]}


def test_what_is_constant_over_the_steps_moves_to_the_stage_before():
    torch.manual_seed(0)
    x, x_t = torch.randn(2, 4), torch.randn(2, 4)
    modules = Before(), Step()
    cached = modules[0](x)
    before = capture_stage(modules[0], {"x": x})
    step = capture_stage(modules[1], {"x_t": x_t, **{k: v.detach() for k, v in cached.items()}})
    hoist(step, before, ("x_t",))
    assert step.histogram()["linear"] == 1 and before.histogram()["linear"] == 2
    assert [n.name for n in step.inputs] == ["x_t", "fixed_0", "fixed_1"]
    assert set(before.outputs) == {"fixed_0", "fixed_1"}
    assert step.histogram() == {"linear": 1, "add": 2}
    x, x_t = torch.randn(2, 4), torch.randn(2, 4)
    got = interpret(step, {"x_t": x_t, **interpret(before, {"x": x})})["y"]
    torch.testing.assert_close(got, modules[1](x_t, **modules[0](x))["y"])
