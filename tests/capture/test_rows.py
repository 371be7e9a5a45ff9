import torch
from torch import nn

from actquant.capture import capture_stage
from actquant.program import interpret


class LastLayer(nn.Module):
    """Self-attention and MLP over all rows, of which the last three are read."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs
        self.norm, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x, mask):
        y = self.norm(x)
        q, k, v = (w(y).view(1, -1, 2, 8).transpose(1, 2) for w in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None])
        x = x + self.o(attended.transpose(1, 2).reshape(1, -1, 16))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return {"y": x[:, -self.outputs :]}


def rows_of(graph):
    return [n.shape[1] for n in graph.nodes() if n.op == "linear"]


def test_only_keys_and_values_are_computed_for_rows_that_nothing_reads():
    torch.manual_seed(0)
    module = LastLayer(3).eval()
    inputs = {"x": torch.randn(1, 9, 16), "mask": torch.ones(1, 9, 9).tril().bool()}
    graph = capture_stage(module, inputs)
    assert sorted(rows_of(graph)) == [3, 3, 3, 3, 9, 9]
    attention = next(n for n in graph.nodes() if n.op == "sdpa")
    assert [x.shape[2] for x in attention.inputs] == [3, 9, 9, 3]
    inputs["x"] = torch.randn(1, 9, 16)
    torch.testing.assert_close(interpret(graph, inputs)["y"], module(**inputs)["y"])


def test_rows_that_something_else_reads_stay():
    torch.manual_seed(0)
    module = LastLayer(9).eval()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = module

        def forward(self, x, mask):
            y = self.layer(x, mask)["y"]
            return {"last": y[:, -1:], "first": y[:, :1]}

    inputs = {"x": torch.randn(1, 9, 16), "mask": torch.ones(1, 9, 9).tril().bool()}
    graph = capture_stage(Twice(), inputs)
    assert rows_of(graph) == [9] * 6
    for name, value in interpret(graph, inputs).items():
        torch.testing.assert_close(value, Twice()(**inputs)[name])
