"""Convolutions and pooling against PyTorch in float64."""

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812
from actquant_runtime import dequantize, quantize
from operator_files import run_operator
from policy_files import Packed
from test_runtime_device_operators import assert_close, normal, wide


@pytest.fixture
def path(tmp_path):
    return tmp_path / "operator.gguf"


def pairs(**values: tuple[int, int]) -> str:
    return " ".join(f"{name}=[{h},{w}]" for name, (h, w) in values.items())


@pytest.mark.parametrize(
    ("stride", "pad", "dil", "groups", "batch"),
    [
        ((1, 1), (0, 0), (1, 1), 1, 1),
        ((2, 1), (1, 1), (1, 2), 1, 3),
        ((2, 3), (1, 2), (1, 1), 1, 1),
        ((1, 1), (2, 2), (2, 1), 1, 1),
        ((1, 1), (1, 1), (1, 1), 2, 1),
        ((1, 2), (1, 1), (1, 1), 6, 1),
        ((2, 1), (1, 0), (1, 1), 3, 2),
    ],
)
def test_conv2d(path, stride, pad, dil, groups, batch):
    x, w, b = normal(batch, 6, 9, 11), normal(12, 6 // groups, 3, 3, seed=1), normal(12, seed=2)
    wanted = F.conv2d(wide(x), wide(w), wide(b), stride, pad, dil, groups)
    got = run_operator(path, "conv2d", wanted.shape, x, "@w", "@b",
                       attributes=f"{pairs(stride=stride, pad=pad, dil=dil)} groups={groups}",
                       tensors={"w": w, "b": b})  # fmt: skip
    # Through f16 activations the error would be 1e-3.
    assert_close(got, wanted, 2e-6)


@pytest.mark.parametrize(
    ("stride", "pad", "dil", "groups", "batch", "length", "kernel"),
    [
        (1, 2, 1, 1, 1, 16, 5),
        (2, 1, 1, 1, 2, 9, 3),
        (1, 0, 3, 1, 3, 11, 3),
        (3, 2, 1, 2, 1, 10, 4),
        (1, 0, 1, 1, 2, 7, 1),
        (1, 1, 1, 6, 2, 8, 3),
        (1, 0, 1, 1, 1, 3, 3),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_conv1d(path, stride, pad, dil, groups, batch, length, kernel, bias):
    x, w = normal(batch, 6, length), normal(12, 6 // groups, kernel, seed=1)
    b = normal(12, seed=2)
    wanted = F.conv1d(wide(x), wide(w), wide(b) if bias else None, stride, pad, dil, groups)
    got = run_operator(path, "conv1d", wanted.shape, x, "@w", *["@b"] * bias,
                       attributes=f"stride={stride} pad={pad} dil={dil} groups={groups}",
                       tensors={"w": w, "b": b})  # fmt: skip
    assert_close(got, wanted, 2e-6)


@pytest.mark.parametrize(
    ("stride", "pad", "output_pad", "kernel", "batch", "length"),
    [
        (2, 1, 0, 4, 1, 8),
        (2, 1, 0, 4, 2, 5),
        (1, 0, 0, 3, 1, 6),
        (3, 0, 2, 2, 3, 4),
        (2, 0, 1, 3, 2, 1),
        (3, 2, 1, 7, 1, 5),
        (4, 0, 0, 2, 1, 3),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_transpose1d(path, stride, pad, output_pad, kernel, batch, length, bias):
    x, w, b = normal(batch, 6, length), normal(6, 10, kernel, seed=1), normal(10, seed=2)
    wanted = F.conv_transpose1d(
        wide(x), wide(w), wide(b) if bias else None, stride, pad, output_pad
    )
    got = run_operator(path, "conv_transpose1d", wanted.shape, x, "@w", *["@b"] * bias,
                       attributes=f"stride={stride} pad={pad} output_pad={output_pad}",
                       tensors={"w": w, "b": b})  # fmt: skip
    assert_close(got, wanted, 2e-6)


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0", "Q4_K", "IQ4_XS"])
@pytest.mark.parametrize(("op", "shape"), [("conv2d", (12, 6, 3, 3)), ("conv1d", (12, 64, 4))])
@pytest.mark.parametrize("batch", [1, 2])
def test_quantized_weights_are_padded_matrices(path, type_name, op, shape, batch):
    w, b = normal(*shape, seed=1), normal(12, seed=2)
    x = normal(batch, shape[1], *(9, 11)[: len(shape) - 2])
    matrix = w.reshape(12, -1)
    data = quantize(matrix, type_name, np.ones_like(matrix))
    decoded = dequantize(data, type_name, matrix.shape[1]).reshape(shape)
    wanted = getattr(F, op)(wide(x), wide(decoded), wide(b), 1, 1)
    text = (
        pairs(stride=(1, 1), pad=(1, 1), dil=(1, 1)) if op == "conv2d" else "stride=1 pad=1 dil=1"
    )
    got = run_operator(path, op, wanted.shape, x, "@w", "@b", attributes=f"{text} groups=1",
                       tensors={"w": Packed(data, type_name, shape), "b": b})  # fmt: skip
    # What is left is ggml's 8-bit rounding of the input.
    error = np.linalg.norm(got - wanted.numpy()) / np.linalg.norm(wanted.numpy())
    assert error < 0.012


@pytest.mark.parametrize("groups", [1, 2])
def test_f16_weights(path, groups):
    x, w = normal(2, 6, 9, 11), normal(12, 6 // groups, 3, 3, seed=1).astype(np.float16)
    wanted = F.conv2d(wide(x), wide(w), groups=groups)
    text = pairs(stride=(1, 1), pad=(0, 0), dil=(1, 1))
    got = run_operator(path, "conv2d", wanted.shape, x, "@w",
                       attributes=f"{text} groups={groups}", tensors={"w": w})  # fmt: skip
    assert_close(got, wanted, 1e-3)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "shape"),
    [
        ((3, 3), (2, 2), (1, 1), (1, 4, 9, 12)),
        ((2, 2), (2, 2), (0, 0), (3, 2, 7, 5)),
        ((1, 3), (1, 2), (0, 1), (2, 3, 4, 7)),
        ((4, 2), (3, 1), (2, 0), (1, 1, 8, 6)),
    ],
)
def test_pooling(path, kernel, stride, pad, shape):
    x = normal(*shape) - 5
    wanted = F.max_pool2d(wide(x), kernel, stride, pad)
    text = pairs(kernel=kernel, stride=stride)
    got = run_operator(path, "max_pool2d", wanted.shape, x,
                       attributes=f"{text} {pairs(pad=pad)}")  # fmt: skip
    np.testing.assert_array_equal(got, wanted.float().numpy())
    wanted = F.avg_pool2d(wide(x), kernel, stride)
    assert_close(run_operator(path, "avg_pool2d", wanted.shape, x, attributes=text), wanted)


@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [
        ("max_pool2d", (1, 2, 4, 4), "kernel=[2,2] stride=[2,2] pad=[1,1]"),
        ("conv1d", (1, 4, 5), "stride=1 pad=0 dil=1"),
        ("group_norm", (1, 2, 8, 8), "groups=3 eps=1e-05 w=0 b=0"),
        ("pad", (1, 2, 8, 9), "pads=[0,0,0,0] value=0"),
    ],
)
def test_what_does_not_fit_is_refused(path, op, shape, attributes):
    operands = [normal(1, 2, 8, 8), *["@w"] * (op == "conv1d")]
    with pytest.raises(RuntimeError, match=f"{op}: .*(operand|input|numbers)"):
        run_operator(path, op, shape, *operands, attributes=attributes,
                     tensors={"w": normal(4, 2, 3)})  # fmt: skip
