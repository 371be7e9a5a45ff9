"""Every handler of an ATen operator keeps the value."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from captured import Function, assert_captured
from torch import nn

from actquant.capture import capture_stage
from actquant.common.errors import UnsupportedOperatorError


def operators(graph):
    return {n.op for n in graph.operations()}


X = {"x": torch.randn(2, 6, 8)}
IMAGE = {"x": torch.randn(2, 6, 8, 12)}

COMPUTE = {
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus with beta": lambda x: F.softplus(x, beta=2.0),
    "elu": F.elu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-0.5, 0.25),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp max only": lambda x: x.clamp(max=0.3),
    "abs": torch.abs,
    "log": lambda x: (x.square() + 1).log(),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "rsqrt": lambda x: (x * x + 1).rsqrt(),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "power 3": lambda x: x**3,
    "power 5": lambda x: x**5,
    "power -1": lambda x: (x.abs() + 1) ** -1,
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1),
    "one by": lambda x: 2.5 / (x.abs() + 1),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, x.roll(3, 2)),
    "mean of some": lambda x: x.mean((0, 2)),
    "mean of all": torch.mean,
    "sum of one": lambda x: x.sum(1, keepdim=True),
    "sum of all": torch.sum,
    "var": lambda x: x.var(-1, keepdim=True),
    "biased var": lambda x: x.var((1, 2), correction=0),
    "std": lambda x: x.std(-1),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "norm": lambda x: x.norm(dim=1),
    "layer norm of two dimensions": lambda x: F.layer_norm(x, (6, 8)),
    "cumulative sum of a mask": lambda x: x + torch.ones(8).cumsum(0),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "outer einsum": lambda x: torch.einsum("bi,bj->bij", x[:, 0], x[:, 1]),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :6], x, x.transpose(1, 2), beta=0.5, alpha=2),
}


@pytest.mark.parametrize("name", COMPUTE)
def test_compute(name):
    assert_captured(COMPUTE[name], X)


LAYOUT = {
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "pad with a value": lambda x: F.pad(x, (0, 2), value=-1.5),
    "pad that cuts": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "roll": lambda x: torch.roll(x, (2, -3), (1, 2)),
    "flat roll": lambda x: torch.roll(x, 5),
    "flip": lambda x: x.flip(0, 2),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat with a new dimension": lambda x: x[:, :1].repeat(3, 1, 4, 1),
    "tile": lambda x: torch.tile(x, (2,)),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
    "unfold": lambda x: x.unfold(2, 4, 2),
    "index": lambda x: x[:, [0, 2, 4, 5]],
    "index of a tensor": lambda x: x[:, torch.tensor([[0, -1], [3, 3]])],
    "two indices": lambda x: x[:, torch.tensor([0, 5, 1]), torch.tensor([7, 2, 2])],
    "index_select": lambda x: x.index_select(2, torch.tensor([7, 0, 1])),
    "many runs": lambda x: x.reshape(-1)[torch.arange(96) * 37 % 96],
    "gather": lambda x: x.gather(1, torch.tensor([4, 0, 1]).view(1, 3, 1).expand(2, 3, 8)),
    "full_like": lambda x: x + torch.full_like(x, 3),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "new_full": lambda x: torch.cat([x, x.new_full((2, 1, 8), 2.0)], 1),
    "arange": lambda x: x + torch.arange(8),
    "scalar_tensor": lambda x: x * torch.scalar_tensor(2.0),
    "movedim": lambda x: x.movedim(0, 2),
    "swapaxes": lambda x: x.swapaxes(0, 2),
    "stack": lambda x: torch.stack([x, x * 2], 1),
    "chunk": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "meshgrid": lambda x: x + torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")[0],
}


@pytest.mark.parametrize("name", LAYOUT)
def test_layout(name):
    assert_captured(LAYOUT[name], X)


IMAGES = {
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, (2, 3)),
    "padded avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "adaptive to one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "uneven upsample": lambda x: F.interpolate(x, (24, 12), mode="nearest"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "instance norm": lambda x: F.instance_norm(x),
    "windows": lambda x: x.view(2, 6, 2, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 6),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name):
    assert_captured(IMAGES[name], IMAGE)


def convolution(**options):
    size = options.pop("size", 2)
    return getattr(nn, f"Conv{size}d")(6, 12, **options)


CONVOLUTIONS = {
    "strided": (convolution(kernel_size=3, stride=2, padding=1), "conv2d", IMAGE),
    "dilated": (convolution(kernel_size=(3, 1), dilation=(2, 1), bias=False), "conv2d", IMAGE),
    "same": (convolution(kernel_size=(2, 4), padding="same"), "conv2d", IMAGE),
    "grouped": (convolution(kernel_size=3, groups=3), "conv2d", IMAGE),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), "conv2d", IMAGE),
    "1d": (convolution(size=1, kernel_size=5, padding=2), "conv1d", X),
    "1d strided": (convolution(size=1, kernel_size=3, stride=2, padding=1), "conv1d", X),
    "1d grouped": (convolution(size=1, kernel_size=3, groups=2, bias=False), "conv1d", X),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    module, op, inputs = CONVOLUTIONS[name]
    graph = assert_captured(Function(lambda x, conv: conv(x), conv=module), inputs)
    assert op in operators(graph)


def batch_norm(module):
    for name in ("running_mean", "running_var", "weight", "bias"):
        values = torch.rand_like(getattr(module, name)) + 0.5
        getattr(module, name).data.copy_(values)
    return module


def test_group_norm():
    graph = assert_captured(Function(lambda x, n: n(x), n=nn.GroupNorm(3, 6)), IMAGE)
    assert operators(graph) == {"group_norm"}


@pytest.mark.parametrize(("norm", "inputs"), [(nn.BatchNorm2d, IMAGE), (nn.BatchNorm1d, X)])
def test_batch_norm_in_evaluation(norm, inputs):
    graph = assert_captured(Function(lambda x, n: n(x), n=batch_norm(norm(6))), inputs)
    assert operators(graph) == {"mul", "add"}


def test_statistics_of_the_batch_are_refused():
    module = Function(lambda x: F.batch_norm(x, None, None, training=True))
    with pytest.raises(UnsupportedOperatorError, match="batch_norm"):
        capture_stage(module, IMAGE)


IDS = {"ids": torch.tensor([[3, 7, 1, 0, 0]]), "x": torch.randn(1, 5, 4)}
HOST = {
    "comparisons": lambda ids, x: (ids < 4) & (ids > 0) | (ids == 7),
    "not equal": lambda ids, x: ids.ne(0) & ~(ids >= 7),
    "compared tensors": lambda ids, x: ids[:, :, None] > ids[:, None],
    "logical": lambda ids, x: torch.logical_not(torch.logical_or(ids == 1, ids == 3)),
    "any and all": lambda ids, x: torch.stack([(ids == 7).any(), (ids < 9).all()]),
    "all along": lambda ids, x: (ids[:, :, None] >= ids[:, None]).all(-1),
    "argmax": lambda ids, x: ids.argmax(-1),
    "argmax of a mask": lambda ids, x: (ids == 0).int().argmax(-1),
    "clamp": lambda ids, x: ids.clamp(1, 4),
    "where": lambda ids, x: torch.where(ids > 2, ids * 2, ids + 1),
    "where of a number": lambda ids, x: torch.where(ids > 2, 5, ids),
    "maximum": lambda ids, x: torch.maximum(ids, 4 - ids),
    "amax": lambda ids, x: ids.amax(-1) - ids.amin(-1),
    "masked_fill": lambda ids, x: ids.masked_fill(ids == 7, -100),
    "masked_fill of the device": lambda ids, x: x.masked_fill((ids == 0)[..., None], -1e4),
    "infinite masked_fill": lambda ids, x: x.masked_fill((ids == 0)[..., None], -math.inf).exp(),
    "where of the device": lambda ids, x: torch.where((ids > 2)[..., None], x, x * 2),
    "where of a host value": lambda ids, x: torch.where((ids > 2)[..., None], ids[..., None], x),
    "where of a number and x": lambda ids, x: torch.where((ids > 2)[..., None], 1.5, x),
    "mean over a mask": lambda ids, x: (x * (ids > 0)[..., None]).sum(1) / (ids > 0).sum(),
    "row": lambda ids, x: x[torch.arange(1), ids.argmax(-1)],
    "cumulative": lambda ids, x: (ids > 0).cumsum(1) - 1,
}


@pytest.mark.parametrize("name", HOST)
def test_masks_and_indices(name):
    assert_captured(HOST[name], IDS)


def test_rows_of_a_table_by_ids():
    table = torch.randn(9, 4)
    graph = assert_captured(Function(lambda ids, x, t: t[ids] + x, t=table), IDS)
    assert "embedding" in operators(graph)


def test_rows_of_the_device_by_ids():
    module = Function(lambda ids, x, t: (x @ t)[0][ids[0]], t=torch.randn(4, 4))
    inputs = {"ids": torch.tensor([[3, 4, 1, 0, 0]]), "x": torch.randn(1, 5, 4)}
    assert_captured(module, inputs)


def test_ceil_mode_is_refused():
    with pytest.raises(UnsupportedOperatorError, match="ceil_mode"):
        capture_stage(
            Function(lambda x: F.max_pool2d(x, 2, ceil_mode=True)), {"x": torch.randn(1, 2, 5, 4)}
        )
