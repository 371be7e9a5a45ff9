"""Each spelled-out pattern becomes one operator and keeps its value."""

import math

import pytest
import torch
from captured import assert_captured
from torch import nn

from actquant.capture import capture_stage, fusion_report
from actquant.capture.report import capture_report
from actquant.program import Graph, interpret
from actquant.program.ir import Node, topological


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


def rotary_tables(length: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine [length, width] as a module precomputes them, both halves alike."""
    inv_freq = 1.0 / 10_000 ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(length).float(), inv_freq)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


class TableRope(nn.Module):
    """Multiplies with the first rows of tables, on [B, H, L, D] or [B, L, H, D]."""

    def __init__(self, heads_last: bool, scale: float = 1.0):
        super().__init__()
        self.heads_last = heads_last
        cos, sin = rotary_tables(600, 8)
        self.register_buffer("cos", cos * scale)
        self.register_buffer("sin", sin * scale)

    def forward(self, x):
        length = x.shape[1 if self.heads_last else 2]
        cos, sin = self.cos[:length], self.sin[:length]
        if self.heads_last:
            cos, sin = cos[None, :, None], sin[None, :, None]
        return {"y": x * cos + torch.cat((-x[..., 4:], x[..., :4]), dim=-1) * sin}


class SplitTableRope(TableRope):
    """Writes both halves, each multiplied with half of the tables."""

    def forward(self, x):
        cos, sin = (t[None, : x.shape[2], :4].unsqueeze(0) for t in (self.cos, self.sin))
        x1, x2 = x.chunk(2, dim=-1)
        return {"y": torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)}


@pytest.mark.parametrize("length", [2, 5, 600])
@pytest.mark.parametrize(
    "module", [TableRope(False), TableRope(True), SplitTableRope(False)], ids=["", "heads", "split"]
)
def test_rope_with_tables(module, length):
    shape = (1, length, 2, 8) if module.heads_last else (1, 2, length, 8)
    torch.manual_seed(0)
    x = torch.randn(shape)
    graph = capture_stage(module, {"x": x})
    (rotation,) = [n for n in graph.operations() if n.op == "rope"]
    _, positions, frequencies = rotation.inputs
    assert torch.equal(positions.tensor, torch.arange(length))
    exact = 10_000.0 ** -(torch.arange(4) / 4)
    torch.testing.assert_close(frequencies.tensor, exact, atol=2e-7, rtol=0)
    assert device_operators(graph) <= {"rope", "permute", "reshape"}
    # Angles are rounded to single precision, in the tables as in the operator.
    torch.testing.assert_close(
        interpret(graph, {"x": x})["y"], module(x)["y"], atol=2e-6 + 1e-7 * length, rtol=1e-5
    )


def test_tables_that_are_no_rotation_are_left_and_reported():
    inputs = {"x": torch.randn(1, 2, 5, 8)}
    report = fusion_report(capture_stage(TableRope(False, scale=1.01), inputs))
    assert report["unfused_rope"] == 1 and report["rope"] == 0


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


@pytest.mark.parametrize(
    "activation", [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU(), nn.Sigmoid()]
)
def test_gated_mlp(activation):
    graph = check(Gated(activation), lambda: {"x": torch.randn(2, 4)}, {"glu": 1, "linear": 3})
    down = graph.outputs["y"]
    gated, *parameters = down.inputs
    assert (down.op, gated.op) == ("linear", "glu")
    assert gated.attrs["act"] == type(activation).__name__.lower()
    assert gated.attrs.get("approx") == getattr(activation, "approximate", None)
    read = [[x.op, *(p.name for p in x.inputs[1:])] for x in gated.inputs]
    assert read == [["linear", "gate.weight", "gate.bias"], ["linear", "up.weight", "up.bias"]]
    assert [p.name for p in parameters] == ["down.weight", "down.bias"]
    assert graph.histogram().total() == 4


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


def root_over_channels(x):
    """A division by the root mean square of another dimension than the last."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


def capped_attention(q, k, v):
    return torch.tanh(q @ k.transpose(-1, -2)).softmax(-1) @ v


def gate_used_twice(a, b):
    gate = torch.nn.functional.silu(a)
    return gate * b + gate


@pytest.mark.parametrize(
    ("pattern", "function", "shapes"),
    [
        ("rms_norm", root_over_channels, [(1, 3, 4)]),
        ("sdpa", capped_attention, [(1, 2, 5, 4)] * 3),
        ("glu", gate_used_twice, [(2, 4)] * 2),
    ],
)
def test_every_pattern_that_was_not_fused_is_reported(pattern, function, shapes):
    inputs = {name: torch.randn(s) for name, s in zip("abc", shapes, strict=False)}
    graph = assert_captured(function, inputs)
    report = fusion_report(graph)
    unfused = {key: count for key, count in report.items() if key.startswith("unfused")}
    assert unfused.pop(f"unfused_{pattern}") == 1 and report[pattern] == 0
    assert not any(unfused.values())
    captured = capture_report({"prefix": graph}, {})
    assert captured.stages[0].unfused == {pattern: 1}
    (warning,) = captured.warnings
    assert warning.startswith(f"stage prefix: 1 × {pattern} as single operators")


class SpatialSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("grid", torch.rand(9, 2))

    def forward(self, x):
        return {"y": x.softmax(-1) @ self.grid}


def test_a_mean_over_fixed_points_is_no_attention_that_was_missed():
    graph = capture_stage(SpatialSoftmax(), {"x": torch.randn(1, 4, 9)})
    assert graph.histogram()["linear"] == 1 and fusion_report(graph)["unfused_sdpa"] == 0


class QuickGelu(nn.Module):
    def forward(self, x):
        return {"y": x * torch.sigmoid(1.702 * x)}


def test_quick_gelu_is_a_gate():
    graph = check(QuickGelu(), lambda: {"x": torch.randn(2, 4)}, {"glu": 1})
    (x,), y = graph.inputs, graph.outputs["y"]
    assert y.op == "glu" and y.attrs == {"act": "sigmoid"}
    scaled, value = y.inputs
    assert value is x and scaled.op == "affine" and scaled.inputs == [x]
    assert scaled.attrs == {"a": pytest.approx(1.702), "b": 0.0}


def test_a_scale_per_channel_is_no_gate_that_was_missed():
    class Scaled(nn.Module):
        def forward(self, x):
            return {"y": torch.sigmoid(x) * torch.tensor([0.0, 1.0, 1.0])}

    graph = check(Scaled(), lambda: {"x": torch.randn(2, 3)}, {})
    assert graph.histogram() == {"sigmoid": 1, "mul": 1}


class SpelledLayerNorm(nn.Module):
    def __init__(self, form: str):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.form = form

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        if self.form == "variance":
            y = (x - mean) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-3)
        else:
            y = (x - mean) * torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + 1e-3)
        return {"y": y * self.weight + self.bias}


@pytest.mark.parametrize("form", ["variance", "squares"])
def test_layer_norm_spelled_out(form):
    graph = check(SpelledLayerNorm(form), lambda: {"x": torch.randn(1, 3, 8)}, {"layer_norm": 1})
    (norm,) = graph.operations()
    assert norm.attrs == {"eps": pytest.approx(1e-3), "w": True, "b": True}
    assert [x.name for x in norm.inputs[1:]] == ["weight", "bias"]


OUT = "attention.out_proj.weight"


def read_input(n: Node) -> Node:
    """The only input of the graph that a value is made from."""
    (found,) = [x for x in topological([n]) if x.op == "input"]
    return found


def read_operator(n: Node, op: str) -> Node:
    """The operator beneath what only moves its elements."""
    while n.op != op:
        assert n.op in ("reshape", "permute"), n
        n = n.inputs[0]
    return n


def device_operators(graph: Graph) -> set[str]:
    return {n.op for n in graph.operations() if not n.host}


class Attention(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, **inputs):
        return {"y": self.function(**inputs)}


def einsum_attention(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def both_scaled_attention(q, k, v):
    return ((q * 0.6) @ (k * 0.6).transpose(2, 3)).softmax(-1) @ v


def baddbmm_attention(q, k, v, mask):
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    bias = torch.zeros(mask.shape).masked_fill(mask, -math.inf).repeat(2, 1, 1)
    scores = torch.baddbmm(bias, q * 0.4, k.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), v)


def float_mask_attention(q, k, v, mask):
    bias = mask[:, None].float() * -1e9
    return (q @ k.transpose(2, 3) * 0.3 + bias).softmax(-1) @ v


def low_fill_attention(q, k, v, mask):
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(mask[:, None], -1e9)
    return scores.softmax(-1) @ v


def additive_sdpa(q, k, v, mask):
    bias = torch.where(mask, -2.0, 0.0)[:, None]
    return nn.functional.scaled_dot_product_attention(q, k, v, bias)


@pytest.mark.parametrize(
    ("function", "scale"),
    [
        (einsum_attention, 8**-0.5),
        (both_scaled_attention, 0.36),
        (baddbmm_attention, 0.4),
        (float_mask_attention, 0.3),
        (low_fill_attention, 0.3),
        (additive_sdpa, 8**-0.5),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_spellings_of_attention(function, scale):
    def make():
        inputs = {name: torch.randn(1, 2, 5, 8) for name in ("q", "k", "v")}
        mask = torch.rand(1, 5, 5) > 0.6
        mask[..., 0] = False
        return {**inputs, "mask": mask} if "mask" in function.__code__.co_varnames else inputs

    graph = check(Attention(function), make, {"sdpa": 1})
    (attention,) = [n for n in graph.operations() if n.op == "sdpa"]
    assert attention.attrs == {"scale": pytest.approx(scale), "causal": False}
    assert [x.shape for x in attention.inputs[:3]] == [(1, 2, 5, 8)] * 3
    assert [read_input(x).name for x in attention.inputs[:3]] == ["q", "k", "v"]
    is_masked = "mask" in make()
    assert [read_input(x).name for x in attention.inputs[3:]] == ["mask"] * is_masked
    assert not {"softmax", "matmul", "affine"} & device_operators(graph)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_multihead_attention(need_weights, masked):
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)

        def forward(self, q, k, padding):
            return {
                "y": self.attention(
                    q, k, k, padding if masked else None, need_weights=need_weights
                )[0]
            }

    def make():
        padding = torch.tensor([[False, True, False, False, True, True, False]])
        return {"q": torch.randn(5, 1, 16), "k": torch.randn(7, 1, 16), "padding": padding}

    graph = check(Cross().eval(), make, {"sdpa": 1, "linear": 3})
    (attention,) = [n for n in graph.operations() if n.op == "sdpa"]
    q, k, v, *mask = attention.inputs
    assert (q.shape, k.shape, v.shape) == ((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8))
    assert [read_input(x).name for x in (q, k, v)] == ["q", "k", "k"]
    assert attention.attrs["scale"] == pytest.approx(8**-0.5)
    assert [read_input(x).name for x in mask] == ["padding"] * masked
    (last,) = [n for n in graph.operations() if n.inputs[1:2] and n.inputs[1].name == OUT]
    assert last.op == "linear" and read_operator(last.inputs[0], "sdpa") is attention
    assert not {"softmax", "matmul", "where_s"} & device_operators(graph)


def normed_convolution(kind: str, bias: bool) -> nn.Module:
    conv, norm = {
        "2d": (nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6)),
        "1d": (nn.Conv1d(3, 6, 3, bias=bias), nn.BatchNorm1d(6)),
    }[kind]
    for name in ("running_mean", "running_var", "weight", "bias"):
        getattr(norm, name).data.uniform_(0.5, 1.5)
    return nn.Sequential(conv, norm, nn.ReLU()).eval()


class Sequential(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return {"y": self.layers(x)}


@pytest.mark.parametrize("kind", ["1d", "2d"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_is_folded_into_the_convolution_before(kind, bias):
    shape = (2, 3, 7, 5) if kind == "2d" else (2, 3, 7)
    graph = check(Sequential(normed_convolution(kind, bias)), lambda: {"x": torch.randn(shape)}, {})
    conv, _ = graph.operations()
    assert conv.op == f"conv{kind}" and graph.histogram().total() == 2
    weight, shift = conv.inputs[1:]
    assert weight.op == "param" and weight.name == "layers.0.weight"
    assert {"layers.1.weight", "layers.1.running_var"} <= weight.origin
    assert (shift.name if bias else shift.op) == ("layers.0.bias" if bias else "const")
    assert "layers.1.bias" in shift.origin


def test_a_convolution_that_is_read_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)

        def forward(self, x):
            y = self.conv(x)
            return {"y": y, "scaled": y * torch.arange(6).view(1, 6, 1, 1)}

    graph = check(Twice(), lambda: {"x": torch.randn(1, 3, 5, 5)}, {})
    assert graph.histogram() == {"conv2d": 1, "mul": 1}


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [(4, 2, 1, 0), (3, 2, 0, 1), (5, 3, 2, 0), (2, 4, 0, 0), (3, 1, 1, 0)],
)
def test_a_transposed_convolution_is_a_linear(kernel, stride, padding, output_padding):
    layer = nn.ConvTranspose1d(3, 6, kernel, stride, padding, output_padding)
    graph = check(Sequential(layer), lambda: {"x": torch.randn(2, 3, 7)}, {"linear": 1})
    assert set(graph.params()) == {"layers.weight", "layers.bias"}


@pytest.mark.parametrize("rows", [4, 300])
def test_a_product_with_a_tensor_is_a_linear(rows):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(rows, 300) / 17)

        def forward(self, x):
            return {"y": x @ self.weight}

    graph = check(Product(), lambda: {"x": torch.randn(2, 3, rows)}, {"linear": 1})
    (product,) = graph.operations()
    weight = product.inputs[1]
    assert weight.shape == (300, rows) and weight.op == ("const" if rows == 4 else "param")
    assert (weight.name or weight.origin) == ({"weight"} if rows == 4 else "weight")
