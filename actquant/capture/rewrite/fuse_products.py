"""Convolutions and products as `linear`, and what is constant per channel folded into them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from actquant.capture.rewrite.match import orders
from actquant.capture.rewrite.rewrite import SMALL, Uses
from actquant.program.ir import Node, const, node, permute, reshape, slice_
from actquant.weights.parameters import StoredTensor


def patches(n: Node, uses: Uses) -> Node | None:
    """Turns a convolution whose windows do not overlap into a `linear` on patches.

    So its weight can be stored in any type, and needs no unfolding at run time.
    """
    if n.op != "conv2d" or n.attrs["groups"] != 1 or any(n.attrs["pad"]) or n.shape[0] != 1:
        return None
    x, weight, *bias = n.inputs
    window = weight.shape[2:]
    fits = all(size % step == 0 for size, step in zip(x.shape[2:], window, strict=True))
    if tuple(n.attrs["stride"]) != window or tuple(n.attrs["dil"]) != (1, 1) or not fits:
        return None
    if not _alone(weight, uses):
        return None
    (_, out_channels, rows, columns), (height, width) = n.shape, window
    channels, area = x.shape[1], height * width
    # At most four dimensions at a time: windows first, then channels into the windows.
    cells = reshape(x, (channels * rows, height, columns, width))
    cells = reshape(permute(cells, (0, 2, 1, 3)), (channels, rows * columns, area))
    flat = reshape(permute(cells, (1, 0, 2)), (1, rows * columns, channels * area))
    matrix = _derived(
        weight,
        (out_channels, channels * area),
        lambda data: data.reshape(out_channels, -1),
        frozenset(),
    )
    mapped = node("linear", [flat, matrix, *bias], (1, rows * columns, out_channels), n.dtype)
    return reshape(permute(mapped, (0, 2, 1)), n.shape)


def _alone(n: Node, uses: Uses) -> bool:
    return n.op == "param" and uses.get(n, 1) == 1


def _derived(
    n: Node, shape: tuple[int, ...], change: Callable[[Tensor], Tensor], origin: frozenset[str]
) -> Node:
    """A parameter under its own name, with other data; what is stored is read when asked for."""
    assert n.data is not None
    if isinstance(n.data, StoredTensor):
        data = StoredTensor(shape, lambda: change(n.tensor), n.data.dtype)
    else:
        data = change(n.data)
    return Node(
        "param", [], {}, shape, n.dtype, name=n.name, data=data, origin=n.origin | origin
    )  # fmt: skip


def channel_constants(n: Node, uses: Uses) -> Node | None:
    """Folds a constant factor or shift per channel into the convolution before it."""
    if n.op not in ("mul", "add"):
        return None
    for conv, values in orders(n):
        if conv.op not in ("conv1d", "conv2d") or uses.get(conv, 1) != 1:
            continue
        weight, bias = conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
        if values.op != "const" or not _per_channel(values, conv) or not _alone(weight, uses):
            continue
        if bias is not None and bias.op == "param" and not _alone(bias, uses):
            continue
        constant = values.tensor.reshape(-1).double()
        if n.op == "mul":
            weight = _scaled(weight, constant, values.origin)
            bias = None if bias is None else _scaled(bias, constant, values.origin)
        else:
            bias = _shifted(bias, constant, values.origin)
        operands = [conv.inputs[0], weight, *([] if bias is None else [bias])]
        return node(conv.op, operands, n.shape, n.dtype, **conv.attrs)
    return None


def _per_channel(values: Node, conv: Node) -> bool:
    rank = len(conv.shape)
    shape = (1,) * (rank - len(values.shape)) + values.shape
    return shape == (1, conv.shape[1], *(1,) * (rank - 2))


def _scaled(n: Node, factors: Tensor, origin: frozenset[str]) -> Node:
    column = factors.reshape(-1, *(1,) * (len(n.shape) - 1))
    if n.op == "const":
        return const((n.tensor.double() * column).float(), n.origin | origin)
    return _derived(n, n.shape, lambda data: (data.double() * column).float(), origin)


def _shifted(bias: Node | None, shift: Tensor, origin: frozenset[str]) -> Node:
    if bias is None or bias.op == "const":
        before = 0.0 if bias is None else bias.tensor.double()
        return const((before + shift).float(), origin | (bias.origin if bias else frozenset()))
    return _derived(bias, bias.shape, lambda data: (data.double() + shift).float(), origin)


def transposed(n: Node, uses: Uses) -> Node | None:
    """Turns a transposed convolution into a `linear` whose overlapping windows are added up.

    With the stride s, tap j·s + r of input t is at (t + j)·s + r of the result: for each j the taps
    r = 0 … s − 1 of all inputs lie side by side. So its weight is a matrix of any type.
    """
    if n.op != "conv_transpose1d" or not _alone(n.inputs[1], uses):
        return None
    x, weight, *bias = n.inputs
    step, border = n.attrs["stride"], n.attrs["pad"]
    channels, out, kernel = weight.shape
    blocks = -(-kernel // step)
    batch, _, time = x.shape

    def as_matrix(data: Tensor) -> Tensor:
        taps = torch.nn.functional.pad(data, (0, blocks * step - kernel))
        taps = taps.reshape(channels, out, blocks, step)
        return taps.permute(2, 1, 3, 0).reshape(-1, channels).contiguous()

    rows = blocks * out * step
    matrix = _derived(weight, (rows, channels), as_matrix, frozenset())
    taps = node("linear", [permute(x, (0, 2, 1)), matrix], (batch, time, rows), n.dtype)
    y = None
    for j in range(blocks):
        block = slice_(taps, 2, j * out * step, (j + 1) * out * step)
        block = permute(reshape(block, (batch, time, out, step)), (0, 2, 1, 3))
        block = _padded(
            reshape(block, (batch, out, time * step)), j * step, (blocks - 1 - j) * step
        )
        y = block if y is None else node("add", [y, block], block.shape, n.dtype)
    assert y is not None
    y = _padded(y, 0, max(border + n.shape[2] - y.shape[2], 0))
    y = slice_(y, 2, border, border + n.shape[2])
    if bias:
        y = node("add", [y, reshape(bias[0], (1, out, 1))], n.shape, n.dtype)
    return y


def _padded(x: Node, before: int, after: int) -> Node:
    if before == after == 0:
        return x
    pads = (0, 0) * (len(x.shape) - 1) + (before, after)
    shape = (*x.shape[:-1], x.shape[-1] + before + after)
    return node("pad", [x], shape, x.dtype, pads=pads, value=0.0)


def constant_factor(n: Node, uses: Uses) -> Node | None:
    """Turns a product with a constant matrix into a `linear`, which does not transpose it on every
    call."""
    if n.op != "matmul" or not n.inputs[1].is_tensor or n.inputs[0].is_tensor:
        return None
    x, factor = n.inputs
    if any(d != 1 for d in factor.shape[:-2]) or n.shape[:-1] != x.shape[:-1]:
        return None
    rows, columns = factor.shape[-2:]

    def transpose(data: Tensor) -> Tensor:
        return data.reshape(rows, columns).T.contiguous()

    if factor.op == "const" or factor.size <= SMALL:
        # Of a few numbers, such as the points of a grid, none may be rounded.
        origin = factor.origin or frozenset((factor.name,)) - {""}
        weight = const(transpose(factor.tensor), origin)
    elif _alone(factor, uses):
        weight = _derived(factor, (columns, rows), transpose, frozenset())
    else:
        return None
    return node("linear", [x, weight], n.shape, n.dtype)
