"""Each spelled-out pattern becomes one operator and keeps its value."""

import math

import pytest
import torch
from torch import nn

from actquant.capture import capture_stage, fusion_report, interpret


def check(module: nn.Module, make, expected: dict[str, int]):
    torch.manual_seed(0)
    graph = capture_stage(module, make())
    report = fusion_report(graph)
    assert {k: v for k, v in report.items() if v} == expected
    inputs = make()
    for name, value in module(**inputs).items():
        torch.testing.assert_close(
            interpret(graph, inputs)[name], value, atol=2e-6, rtol=1e-5, msg=name
        )
    return graph


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x):
        wide = x.to(torch.float32)
        variance = wide.pow(2).mean(-1, keepdim=True)
        return {"y": self.weight * (wide * torch.rsqrt(variance + 1e-3)).to(x.dtype)}


def test_rms_norm():
    graph = check(RMSNorm(), lambda: {"x": torch.randn(1, 3, 8)}, {"rms_norm": 1})
    (norm,) = graph.operations()
    assert norm.attrs["eps"] == pytest.approx(1e-3) and norm.inputs[1].name == "weight"


class SplitRope(nn.Module):
    """Divides positions by time scales and writes both halves, on [B, L, H, D]."""

    def forward(self, x, positions):
        half = x.shape[-1] // 2
        scale = 10_000 ** ((2.0 / x.shape[-1]) * torch.arange(half, dtype=torch.float32))
        angle = (positions[..., None].float() / scale[None, None])[..., None, :]
        sin, cos = torch.sin(angle), torch.cos(angle)
        x1, x2 = x.split(half, dim=-1)
        y = torch.empty_like(x)
        y[..., :half] = x1 * cos - x2 * sin
        y[..., half:] = x2 * cos + x1 * sin
        return {"y": y}


class RotateHalfRope(nn.Module):
    """Multiplies positions with inverse frequencies by matmul, on [B, H, L, D]."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 100 ** (torch.arange(0, 8, 2).float() / 8))

    def forward(self, x, positions):
        frequencies = self.inv_freq[None, :, None].expand(1, -1, 1)
        angle = (frequencies @ positions[:, None, :].float()).transpose(1, 2)
        angle = torch.cat((angle, angle), dim=-1)
        cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
        rotated = torch.cat((-x[..., 4:], x[..., :4]), dim=-1)
        return {"y": x * cos + rotated * sin}


class ProductRope(nn.Module):
    """positions * inv_freq by broadcasting, on [B, L, H, D]."""

    def forward(self, x, positions):
        inv_freq = 1.0 / 100 ** (torch.arange(0, 8, 2).float() / 8)
        angle = positions[:, :, None] * inv_freq
        angle = torch.cat((angle, angle), dim=-1)[:, :, None, :]
        rotated = torch.cat((-x[..., 4:], x[..., :4]), dim=-1)
        return {"y": angle.cos() * x + angle.sin() * rotated}


@pytest.mark.parametrize(
    ("module", "shape"),
    [(SplitRope(), (1, 5, 2, 8)), (ProductRope(), (1, 5, 2, 8)), (RotateHalfRope(), (1, 2, 5, 8))],
)
def test_rope(module, shape):
    def make():
        return {"x": torch.randn(shape), "positions": torch.randint(0, 50, (1, 5))}

    graph = check(module, make, {"rope": 1})
    assert not {"sin", "cos", "concat"} & set(graph.histogram())


class EagerAttention(nn.Module):
    def __init__(self, groups: int, additive: bool = False):
        super().__init__()
        self.groups = groups
        self.additive = additive

    def forward(self, q, k, v, mask):
        def repeat(t):
            b, length, heads, width = t.shape
            wide = t[:, :, :, None, :].expand(b, length, heads, self.groups, width)
            return wide.reshape(b, length, heads * self.groups, width).transpose(1, 2)

        k, v = repeat(k), repeat(v)
        scores = torch.matmul(q.transpose(1, 2), k.transpose(2, 3)) * q.shape[-1] ** -0.5
        lowest = torch.finfo(scores.dtype).min
        if self.additive:
            scores = scores + torch.where(mask[:, None], 0.0, lowest)
        else:
            scores = torch.where(mask[:, None], scores, lowest)
        y = torch.matmul(scores.softmax(-1), v).transpose(1, 2)
        return {"y": y.reshape(1, q.shape[1], -1)}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("additive", [False, True])
def test_eager_attention(groups, additive):
    def make():
        return {
            "q": torch.randn(1, 3, 2 * groups, 8),
            "k": torch.randn(1, 5, 2, 8),
            "v": torch.randn(1, 5, 2, 8),
            "mask": torch.rand(1, 3, 5) > 0.3,
        }

    graph = check(EagerAttention(groups, additive), make, {"sdpa": 1})
    (attention,) = [n for n in graph.operations() if n.op == "sdpa"]
    assert attention.inputs[1].shape == (1, 2, 5, 8)
    assert attention.attrs["scale"] == pytest.approx(1 / math.sqrt(8))


def test_a_fully_masked_row_attends_uniformly():
    inputs = {
        "q": torch.randn(1, 3, 2, 8),
        "k": torch.randn(1, 5, 2, 8),
        "v": torch.randn(1, 5, 2, 8),
        "mask": torch.zeros(1, 3, 5, dtype=torch.bool),
    }
    graph = capture_stage(EagerAttention(1), inputs)
    y = interpret(graph, inputs)["y"].reshape(3, 2, 8)
    torch.testing.assert_close(y, inputs["v"].mean(1).expand(3, 2, 8))


class Gated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.activation = activation

    def forward(self, x):
        return {"y": self.down(self.activation(self.gate(x)) * self.up(x))}


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")])
def test_gated_mlp(activation):
    check(Gated(activation), lambda: {"x": torch.randn(2, 4)}, {"glu": 1, "linear": 3})


class HalfFused(nn.Module):
    """A rotation by an angle that is no position times a frequency."""

    def forward(self, x, angle):
        y = x[..., :2] * angle.cos() - x[..., 2:] * angle.sin()
        z = x[..., 2:] * angle.cos() + x[..., :2] * angle.sin()
        return {"y": torch.cat([y, z], -1)}


def test_the_report_counts_what_was_not_fused():
    inputs = {"x": torch.randn(2, 4), "angle": torch.randn(2, 2)}
    report = fusion_report(capture_stage(HalfFused(), inputs))
    assert report["unfused_rope"] == 1 and report["rope"] == 0


class SpatialSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("grid", torch.rand(9, 2))

    def forward(self, x):
        return {"y": x.softmax(-1) @ self.grid}


def test_a_mean_over_fixed_points_is_no_attention_that_was_missed():
    graph = capture_stage(SpatialSoftmax(), {"x": torch.randn(1, 4, 9)})
    assert "matmul" in graph.histogram() and fusion_report(graph)["unfused_sdpa"] == 0
