import pytest
import torch
from torch import nn

from actquant.capture import capture_stage
from actquant.common.errors import ModelFileError
from actquant.program import emit_program, interpret, parse_program


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 6, bias=False)

    def forward(self, x, mask):
        y = nn.functional.gelu(self.linear(self.norm(x)), approximate="tanh") * 1e-7
        count = mask.sum(1, keepdim=True)
        return {"y": y + count.float()[..., None].expand(1, 3, 6), "count": count}


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return capture_stage(
        Model(), {"x": torch.randn(1, 3, 4), "mask": torch.ones(1, 3, dtype=torch.bool)}, "s"
    )


def tensors_of(graph):
    return {n.name or "const": n.tensor for n in graph.nodes() if n.is_tensor}


def test_the_text_is_the_documented_one(graph):
    text = emit_program(graph, lambda n: n.name)
    assert text.split("\n")[:5] == [
        "%0 = input f32[1,3,4] name=x",
        "%1 = input b8[1,3] name=mask",
        "%2 = layer_norm f32[1,3,4] %0 @norm.weight @norm.bias eps=1e-05 w=1 b=1",
        "%3 = linear f32[1,3,6] %2 @linear.weight",
        "%4 = gelu f32[1,3,6] %3 approx=tanh",
    ]
    assert "host.sum i64[1,1] %1 dims=[1] keep=1" in text
    assert text.split("\n")[-2].startswith("output y %")


def test_round_trip(graph):
    text = emit_program(graph, lambda n: n.name)
    parsed = parse_program(text, "s", tensors_of(graph))
    assert emit_program(parsed, lambda n: n.name) == text
    inputs = {"x": torch.randn(1, 3, 4), "mask": torch.tensor([[True, False, True]])}
    expected = interpret(graph, inputs)
    for name, value in interpret(parsed, inputs).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%9 = linear f32[1,3,6] %2", "not defined"),
        ("%9 = linear f16[1] %0", "not an instruction"),
        ("output y %7", "not defined"),
        ("nonsense", "not an instruction"),
        ("%0 = affine f32[1] %0 a=1 b=2", "%0 is defined twice"),
        ("%9 = affine f32[0] %0 a=1 b=2", "empty dimension"),
        ("%9 = affine f32[1] %0 a b=2", "a is neither an operand nor key=value"),
        ("output y", "not 'output NAME %n'"),
    ],
)
def test_a_bad_line_is_named(line, message):
    with pytest.raises(ModelFileError, match=f"stage s, line 2: .*{message}"):
        parse_program(f"%0 = input f32[1] name=x\n{line}", "s", {})


def test_a_program_without_output_is_refused():
    with pytest.raises(ModelFileError, match="stage s: the program has no output"):
        parse_program("%0 = input f32[1] name=x", "s", {})


def test_numbers_words_and_sizes_are_what_the_grammar_says():
    line = "%1 = affine f32[1] %0 a=1e-05 b=-inf c=3 d=0.5 e=silu f=[1,-2+3*L] g=[] h=1_0"
    text = f"%0 = input f32[1] name=x\n{line}\noutput y %1"
    attributes = parse_program(text, "s", {}, length=4).outputs["y"].attrs
    assert attributes == {
        "a": 1e-05, "b": float("-inf"), "c": 3, "d": 0.5, "e": "silu", "f": (1, 10), "g": (),
        "h": "1_0",
    }  # fmt: skip
    assert [type(attributes[key]) for key in "abcde"] == [float, float, int, float, str]


def test_positions_of_a_slice_outside_are_moved_to_the_border():
    text = (
        "%0 = input f32[5] name=x\n%1 = slice f32[3] %0 dim=0 start=-8 end=-2\n"
        "%2 = slice f32[2] %0 dim=-1 start=3\noutput y %1\noutput z %2"
    )
    got = interpret(parse_program(text, "s", {}), {"x": torch.arange(5.0)})
    assert got["y"].tolist() == [0, 1, 2] and got["z"].tolist() == [3, 4]


def test_a_host_cast_to_f32_rounds():
    text = (
        "%0 = input i64[1] name=x\n%1 = host.cast f32[1] %0\n%2 = host.cast i64[1] %1\noutput y %2"
    )
    got = interpret(parse_program(text, "s", {}), {"x": torch.tensor([16777217])})
    assert got["y"].item() == 16777216
