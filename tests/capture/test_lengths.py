"""Two captures become one program, which computes what PyTorch computes at other lengths."""

import pytest
import torch
from torch import nn

from actquant.capture import capture_stage
from actquant.capture.lengths import check_length, join_lengths
from actquant.capture.pattern import Pattern
from actquant.common.errors import CaptureError
from actquant.program import emit_program, interpret, parse_program
from actquant.program.ir import Graph
from actquant.program.size import at_length

LENGTHS = (11, 17)


class Masked(nn.Module):
    """What prefixes are made of: constants that follow the length, beside embeddings and masks."""

    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, tokens, image):
        length = tokens.shape[1] + image.shape[1]
        x = self.linear(torch.cat([image, self.table(tokens)], dim=1))
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        groups = torch.cat([torch.zeros(1, 3), torch.ones(1, length - 3)], dim=1).long()
        allowed = groups[:, None, :] <= groups[:, :, None]
        positions = torch.arange(length)[None] + 2
        y = nn.functional.scaled_dot_product_attention(
            x[:, None], x[:, None], x[:, None], (causal & allowed)[:, None]
        )
        return {"y": y[:, 0] * positions[..., None].float(), "padded": x.new_zeros(1, length, 2)}


def inputs_of(length):
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(0, 20, (1, length), generator=generator)
    return {"tokens": tokens, "image": torch.randn(1, 5, 8, generator=generator)}


def joined(module):
    first, second = (capture_stage(module, inputs_of(length)) for length in LENGTHS)
    return join_lengths(first, second, LENGTHS)


def test_a_program_holds_for_every_length():
    torch.manual_seed(0)
    module = Masked()
    graph = joined(module)
    names = {}

    def name(n):
        return names.setdefault(n, f"t{len(names)}")

    text = emit_program(graph, name)
    assert "f32[1,5+L,8]" in text and "i64[1,L] name=tokens" in text
    tensors = {short: n.tensor for n, short in names.items()}
    for length in (3, 11, 14, 29):
        inputs = inputs_of(length)
        expected = module(**inputs)
        for concrete in (at_length(graph, length), parse_program(text, "", tensors, length)):
            for output, value in interpret(concrete, inputs).items():
                torch.testing.assert_close(value.to(expected[output].dtype), expected[output])


@pytest.mark.parametrize(
    "make",
    [
        lambda n: torch.full((1, n + 2), 7),
        lambda n: torch.full((3, n), -0.5),
        lambda n: torch.full((2,), n),
        lambda n: torch.arange(n)[:, None].expand(n, 3).contiguous(),
        lambda n: torch.arange(n, 3 * n, 2),
        lambda n: torch.ones(1, n, n, dtype=torch.bool).tril(),
        lambda n: torch.cat([torch.zeros(4), torch.ones(n), -torch.ones(2)]),
        lambda n: torch.arange(n)[:, None] < torch.tensor([[n - 2, n, 0]]),
    ],
    ids=["uniform", "f32", "value", "column", "start", "triangle", "parts", "blocks"],
)
def test_constants_that_follow_the_length_become_host_operators(make):
    made = Pattern(LENGTHS).node(make(LENGTHS[0]), make(LENGTHS[1]))
    assert made is not None
    graph = Graph("", [], {"y": made})
    assert not any(n.is_tensor for n in graph.nodes()) and all(n.host for n in graph.nodes())
    for length in (*LENGTHS, 5, 30):
        got = interpret(at_length(graph, length), {})["y"]
        assert torch.equal(got, make(length)), length


@pytest.mark.parametrize(
    "make", [lambda n: torch.arange(n) ** 2, lambda n: torch.eye(n), lambda n: torch.ones(n) / n]
)
def test_other_constants_are_no_pattern(make):
    assert Pattern(LENGTHS).node(make(LENGTHS[0]), make(LENGTHS[1])) is None


class Wrong(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, tokens, image):
        x = tokens.float()
        if self.kind == "structure":
            return {"y": x.exp() if x.shape[1] > 12 else x.tanh()}
        if self.kind == "number":
            return {"y": x * (1 / x.shape[1])}
        return {"y": x * torch.linspace(0, 1, x.shape[1]).sin()}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("structure", r"<tanh .* at 11 tokens, <exp .* at 17 .*test_lengths.py:\d+: return"),
        ("number", r"0\.0909.* at 11 tokens, 0\.0588.* at 17 .*affine.*test_lengths.py:\d+"),
        ("constant", r"shape \[11\] at 11 .* \[17\] at 17 .*mul.*test_lengths.py:\d+"),
    ],
)
def test_what_depends_on_the_length_otherwise_is_refused_with_its_place(kind, message):
    with pytest.raises(CaptureError, match=message):
        joined(Wrong(kind))


class Fixed(nn.Module):
    def forward(self, tokens, image):
        return {"y": tokens.float().view(1, -1, 1) + torch.zeros(1, 1, 8)}


def test_a_wrong_size_is_found_at_a_third_length():
    graph = joined(Fixed())
    check_length(graph, 4)
    reshaped = next(n for n in graph.nodes() if n.op == "reshape")
    reshaped.shape = (1, 11, 1)
    with pytest.raises(CaptureError, match="not the same for every prompt length: at 4 tokens"):
        check_length(graph, 4)
