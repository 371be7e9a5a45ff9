"""Every device operator of docs/format.md against PyTorch in float64."""

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from actquant_runtime import dequantize, quantize, types
from operator_files import OperatorProgram, run_operator, type_of
from policy_files import Packed


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def wide(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.double() if tensor.is_floating_point() else tensor


def assert_close(got: np.ndarray, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    reference = wanted.numpy()
    assert got.shape == reference.shape
    scale = max(float(np.abs(reference).max()), 1e-6)
    assert float(np.abs(got - reference).max()) <= tolerance * scale


@pytest.fixture
def path(tmp_path):
    return tmp_path / "operator.gguf"


UNARY = {
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "sqr": torch.square,
    "sin": torch.sin,
    "cos": torch.cos,
    "mish": F.mish,
    "softplus": F.softplus,
    "elu": F.elu,
}
POSITIVE = {"log": torch.log, "sqrt": torch.sqrt}
WITH_NUMBERS = {
    "leaky_relu slope=0.01": lambda x: F.leaky_relu(x, 0.01),
    "clamp min=-1.5 max=0.25": lambda x: x.clamp(-1.5, 0.25),
    "clamp min=0.5 max=inf": lambda x: x.clamp(min=0.5),
    "clamp min=-inf max=-0.5": lambda x: x.clamp(max=-0.5),
}


@pytest.mark.parametrize("op", UNARY)
def test_unary(path, op):
    x = 3 * normal(1, 4, 7, 5)
    assert_close(run_operator(path, op, x.shape, x), UNARY[op](wide(x)))


@pytest.mark.parametrize("op", POSITIVE)
def test_unary_of_positive_numbers(path, op):
    x = np.exp(3 * normal(1, 4, 7, 5))
    assert_close(run_operator(path, op, x.shape, x), POSITIVE[op](wide(x)))


@pytest.mark.parametrize("case", WITH_NUMBERS)
def test_unary_with_numbers(path, case):
    op, attributes = case.split(" ", 1)
    x = 3 * normal(1, 4, 7, 5)
    got = run_operator(path, op, x.shape, x, attributes=attributes)
    assert_close(got, WITH_NUMBERS[case](wide(x)))


@pytest.mark.parametrize("op", ["mish", "softplus", "elu"])
def test_activations_far_from_zero(path, op):
    x = np.linspace(-100, 100, 2001, dtype=np.float32)[None]
    got = run_operator(path, op, x.shape, x)
    wanted = getattr(F, op)(wide(x)).numpy()
    assert (np.abs(got - wanted) <= 3e-6 + 1e-6 * np.abs(wanted)).all()


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_is_exact(path, form):
    x = np.linspace(-12, 12, 4001, dtype=np.float32)[None]
    got = run_operator(path, "gelu", x.shape, x, attributes=f"approx={form}")
    wanted = F.gelu(wide(x), approximate=form)
    # An f16 table would be off by 1e-3.
    assert np.abs(got - wanted.numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("attributes", "function"),
    [
        ("act=silu", F.silu),
        ("act=gelu approx=tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("act=gelu approx=none", F.gelu),
        ("act=relu", F.relu),
        ("act=sigmoid", torch.sigmoid),
    ],
)
def test_glu(path, attributes, function):
    a, b = 2 * normal(2, 5, 33), normal(2, 5, 33, seed=1)
    got = run_operator(path, "glu", a.shape, a, b, attributes=attributes)
    assert_close(got, function(wide(a)) * wide(b))


BINARY = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}
SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 3, 4)),
    ((2, 3, 1), (1, 1, 5)),
    ((2, 1, 4), (2, 3, 1)),
    ((1, 1, 2, 3, 4), (2, 1, 4)),
]


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_binary_broadcasts(path, op, a_shape, b_shape):
    a, b = normal(*a_shape), 2 + np.abs(normal(*b_shape, seed=1))
    wanted = BINARY[op](wide(a), wide(b))
    assert_close(run_operator(path, op, wanted.shape, a, b), wanted)


def test_binary_takes_a_tensor_of_the_file(path):
    a, b = normal(3, 4), normal(4, seed=1)
    assert_close(run_operator(path, "sub", (3, 4), "@b", a, tensors={"b": b}), wide(b) - wide(a))
    half = b.astype(np.float16)
    got = run_operator(path, "mul", (3, 4), a, "@b", tensors={"b": half})
    assert_close(got, wide(a) * wide(half))
    scalar = np.array(3.0, np.float32)
    assert_close(run_operator(path, "mul", (3, 4), a, "@s", tensors={"s": scalar}), 3 * wide(a))


def test_affine(path):
    x = normal(2, 3, 4)
    got = run_operator(path, "affine", x.shape, x, attributes="a=-1.5 b=1e-05")
    assert_close(got, -1.5 * wide(x) + 1e-5)


@pytest.mark.parametrize("with_weight", [False, True])
def test_rms_norm(path, with_weight):
    x, w = normal(2, 3, 40), normal(40, seed=1)
    operands = [x, "@w"] if with_weight else [x]
    got = run_operator(path, "rms_norm", x.shape, *operands, attributes="eps=1e-06",
                       tensors={"w": w})  # fmt: skip
    assert_close(got, F.rms_norm(wide(x), (40,), wide(w) if with_weight else None, 1e-6))


def test_rms_norm_with_a_computed_weight(path):
    x, w = normal(2, 3, 40), normal(2, 1, 40, seed=1)
    got = run_operator(path, "rms_norm", x.shape, x, w, attributes="eps=1e-06")
    assert_close(got, F.rms_norm(wide(x), (40,), None, 1e-6) * wide(w))


@pytest.mark.parametrize(("w", "b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_layer_norm(path, w, b):
    x, weight, bias = 5 + normal(2, 3, 40), normal(40, seed=1), normal(40, seed=2)
    operands = [x, *["@w"] * w, *["@b"] * b]
    got = run_operator(path, "layer_norm", x.shape, *operands,
                       attributes=f"eps=1e-05 w={w} b={b}",
                       tensors={"w": weight, "b": bias})  # fmt: skip
    wanted = F.layer_norm(wide(x), (40,), None, None, 1e-5)
    assert_close(got, wanted * (wide(weight) if w else 1) + (wide(bias) if b else 0))


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1])
def test_softmax(path, dim):
    x = 3 * normal(2, 3, 4, 5)
    got = run_operator(path, "softmax", x.shape, x, attributes=f"dim={dim}")
    assert_close(got, torch.softmax(wide(x), dim))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 24), (1, 7, 24), (2, 3, 4, 24)])
def test_linear(path, shape, bias):
    x, w, b = normal(*shape), normal(10, 24, seed=1), normal(10, seed=2)
    operands = [x, "@w", *["@b"] * bias]
    got = run_operator(path, "linear", (*shape[:-1], 10), *operands, tensors={"w": w, "b": b})
    assert_close(got, F.linear(wide(x), wide(w), wide(b) if bias else None))


def test_linear_with_f16_weights(path):
    x, w = normal(7, 24), normal(10, 24, seed=1).astype(np.float16)
    got = run_operator(path, "linear", (7, 10), x, "@w", tensors={"w": w})
    # ggml rounds the input to f16 as well.
    assert_close(got, F.linear(wide(x), wide(w)), 1e-3)


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0", "Q4_K", "IQ4_XS", "IQ3_XXS", "IQ2_XS"])
@pytest.mark.parametrize("columns", [256, 40, 300])
def test_linear_with_quantized_and_padded_rows(path, type_name, columns):
    x, w = normal(5, columns), normal(12, columns, seed=1)
    data = quantize(w, type_name, np.ones_like(w))
    got = run_operator(path, "linear", (5, 12), x, "@w",
                       tensors={"w": Packed(data, type_name, w.shape)})  # fmt: skip
    wanted = F.linear(wide(x), wide(dequantize(data, type_name, columns)))
    # What is left is ggml's 8-bit rounding of the input.
    error = np.linalg.norm(got - wanted.numpy()) / np.linalg.norm(wanted.numpy())
    assert error < 0.012


def test_embedding(path):
    table = normal(9, 16)
    ids = np.array([[0, 8, 3], [3, 1, 2]])
    got = run_operator(path, "embedding", (2, 3, 16), "@t", ids, tensors={"t": table})
    assert_close(got, wide(table)[torch.from_numpy(ids)], 0)
    half = table.astype(np.float16)
    got = run_operator(path, "embedding", (2, 3, 16), "@t", ids, tensors={"t": half})
    assert_close(got, wide(half)[torch.from_numpy(ids)], 0)
    data = quantize(normal(9, 40), "Q8_0")
    got = run_operator(path, "embedding", (2, 3, 40), "@t", ids,
                       tensors={"t": Packed(data, "Q8_0", (9, 40))})  # fmt: skip
    assert_close(got, wide(dequantize(data, "Q8_0", 40))[torch.from_numpy(ids)], 1e-6)


@pytest.mark.parametrize("bad", [-1, 9, 0.5])
def test_embedding_refuses_foreign_ids(path, bad):
    ids = np.array([0, bad], np.float32)
    program = OperatorProgram()
    values = program.operand(ids, on_host=True)
    result = program.line("embedding f32[2,16]", f"@t {values}")
    with pytest.raises(ValueError, match="is no integer from 0 to 8"):
        program.run(path, result, {"t": normal(9, 16)})


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 6, 3, 4), (2, 6, 4, 5)),
        ((2, 6, 3, 4), (1, 1, 4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (1, 6, 4, 5)),
    ],
)
def test_matmul(path, a_shape, b_shape):
    a, b = normal(*a_shape), normal(*b_shape, seed=1)
    wanted = wide(a) @ wide(b)
    assert_close(run_operator(path, "matmul", wanted.shape, a, b), wanted)


def attention(q, k, v, mask=None, scale=0.3, causal=False):
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30) if mask.dtype == torch.bool else scores + mask
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -1e30)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("causal", [0, 1])
def test_sdpa(path, kv_heads, causal):
    q, k, v = normal(2, 6, 5, 8), normal(2, kv_heads, 7, 8, seed=1), normal(2, kv_heads, 7, 4)
    got = run_operator(path, "sdpa", (2, 6, 5, 4), q, k, v,
                       attributes=f"scale=0.3 causal={causal}")  # fmt: skip
    assert_close(got, attention(wide(q), wide(k), wide(v), causal=bool(causal)))


@pytest.mark.parametrize(("q_length", "kv_length"), [(1, 600), (70, 130), (64, 64), (65, 7)])
def test_sdpa_of_other_lengths(path, q_length, kv_length):
    """Each takes another path through ggml's flash attention."""
    q, k = normal(1, 4, q_length, 20), normal(1, 2, kv_length, 20, seed=1)
    v = normal(1, 2, kv_length, 12, seed=2)
    got = run_operator(path, "sdpa", (1, 4, q_length, 12), q, k, v, attributes="scale=0.3 causal=0")
    assert_close(got, attention(wide(q), wide(k), wide(v)))


@pytest.mark.parametrize("mask_shape", [(7,), (5, 7), (1, 1, 1, 7), (2, 1, 5, 7), (1, 6, 5, 7)])
@pytest.mark.parametrize("causal", [0, 1])
def test_sdpa_with_a_boolean_mask(path, mask_shape, causal):
    q, k, v = normal(2, 6, 5, 8), normal(2, 2, 7, 8, seed=1), normal(2, 2, 7, 8, seed=2)
    mask = np.random.default_rng(0).random(mask_shape) > 0.4
    got = run_operator(path, "sdpa", q.shape, q, k, v, mask,
                       attributes=f"scale=0.3 causal={causal}")  # fmt: skip
    wanted = attention(wide(q), wide(k), wide(v), torch.from_numpy(mask), causal=bool(causal))
    assert_close(got, wanted)


def test_fully_masked_rows_attend_uniformly(path):
    q, k, v = normal(1, 2, 5, 8), normal(1, 2, 7, 8, seed=1), normal(1, 2, 7, 8, seed=2)
    mask = np.ones((5, 7), np.bool_)
    mask[[1, 3]] = False
    got = run_operator(path, "sdpa", q.shape, q, k, v, mask, attributes="scale=0.3 causal=0")
    assert_close(
        torch.from_numpy(got[:, :, [1, 3]]).numpy(), wide(v).mean(2, True).expand(-1, -1, 2, -1)
    )
    whole = attention(wide(q), wide(k), wide(v))
    assert_close(got[:, :, [0, 2, 4]], whole[:, :, [0, 2, 4]])


@pytest.mark.parametrize("lowest", [-np.inf, -3.4028235e38, -2.3819763e38])
@pytest.mark.parametrize("where", ["host", "device", "file"])
def test_sdpa_with_an_additive_mask(path, lowest, where):
    q, k, v = normal(1, 4, 5, 8), normal(1, 2, 7, 8, seed=1), normal(1, 2, 7, 8, seed=2)
    mask = np.where(np.random.default_rng(0).random((1, 1, 5, 7)) > 0.4, 0, lowest)
    mask = mask.astype(np.float32)
    mask[0, 0, 2], mask[0, 0, 0, 0] = lowest, 0.5
    program = OperatorProgram()
    operands = [program.operand(x, on_host=False) for x in (q, k, v)]
    operands.append("@m" if where == "file" else program.operand(mask, on_host=where == "host"))
    result = program.line(f"sdpa {type_of(q.shape)}", " ".join(operands) + " scale=0.3 causal=0")
    if where == "device" and np.isinf(lowest):
        mask = np.maximum(mask, -1e30)
    got = program.run(path, result, {"m": mask})
    wanted = attention(wide(q), wide(k), wide(v), wide(np.maximum(mask, -1e30)))
    assert_close(got, wanted)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("per_row", [False, True])
def test_rope(path, batch, per_row):
    x = normal(batch, 6, 3, 16)
    inv_freq = (10000.0 ** (-np.arange(8) / 8)).astype(np.float32)
    shape = (batch, 6) if per_row else (6,)
    positions = np.random.default_rng(0).integers(0, 200, shape)
    got = run_operator(path, "rope", x.shape, x, positions, "@f", tensors={"f": inv_freq})
    angle = torch.from_numpy(positions).double()[..., None] * wide(inv_freq)
    cos, sin = angle.cos()[..., None, :], angle.sin()[..., None, :]
    a, b = wide(x).chunk(2, -1)
    assert_close(got, torch.cat([a * cos - b * sin, b * cos + a * sin], -1))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_concat(path, dim):
    parts = []
    for index, extent in enumerate((2, 3, 1)):
        shape = [4, 5, 6]
        shape[dim] = extent
        parts.append(normal(*shape, seed=index))
    wanted = torch.cat([wide(part) for part in parts], dim)
    got = run_operator(path, "concat", wanted.shape, *parts, attributes=f"dim={dim}")
    assert_close(got, wanted, 0)


SLICES = [(0, 1, 3, 1), (1, 2, 5, 1), (2, 1, 7, 2), (2, 2, 6, 1), (-1, -4, 9223372036854775807, 1),
          (1, 0, 6, 3), (0, 0, -1, 1)]  # fmt: skip


def test_concat_of_very_many_parts(path):
    x = normal(3, 4)
    turned = [x] * 400
    program = OperatorProgram()
    value = program.operand(x, on_host=False)
    view = program.line("permute f32[4,3]", f"{value} perm=[1,0]")
    result = program.line("concat f32[4,1200]", f"{' '.join([view] * 400)} dim=1")
    assert_close(program.run(path, result, {}), torch.cat([wide(t).T for t in turned], 1), 0)


@pytest.mark.parametrize(("dim", "start", "end", "step"), SLICES)
@pytest.mark.parametrize("host", ["", "host."])
def test_slice(path, dim, start, end, step, host):
    x = normal(4, 6, 8)
    index = [slice(None)] * 3
    index[dim] = slice(start, end, step)
    wanted = wide(x[tuple(index)].copy())
    got = run_operator(path, f"{host}slice", wanted.shape, x,
                       attributes=f"dim={dim} start={start} end={end} step={step}")  # fmt: skip
    assert_close(got, wanted, 0)


@pytest.mark.parametrize("host", ["", "host."])
def test_layout_operators(path, host):
    x = normal(2, 3, 4)
    got = run_operator(path, f"{host}reshape", (6, 4, 1), x, attributes="shape=[6,4,1]")
    assert_close(got, wide(x).reshape(6, 4, 1), 0)
    got = run_operator(path, f"{host}permute", (4, 2, 3), x, attributes="perm=[2,0,1]")
    assert_close(got, wide(x).permute(2, 0, 1), 0)
    y = normal(2, 1, 4)
    got = run_operator(path, f"{host}expand", (5, 2, 3, 4), y, attributes="shape=[5,2,3,4]")
    assert_close(got, wide(y).expand(5, 2, 3, 4), 0)
    assert_close(run_operator(path, f"{host}cast", x.shape, x), wide(x), 0)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0, 2, 1], [1, 0, 0, 2, 3, 0], [0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("value", [0.0, -1.25, -np.inf])
def test_pad(path, pads, value):
    x = normal(2, 3, 5)
    wanted = F.pad(wide(x), [*pads[4:], *pads[2:4], *pads[:2]], value=value)
    text = f"pads={pads} value={value}".replace(", ", ",")
    got = run_operator(path, "pad", wanted.shape, x, attributes=text)
    np.testing.assert_array_equal(got, wanted.float().numpy())


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("dims", [(3,), (-1, -2), (1,), (0, 2), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("keep", [0, 1])
def test_sum_and_mean(path, op, dims, keep):
    x = 1 + normal(2, 3, 5, 7)
    wanted = getattr(wide(x), op)(dims, keepdim=bool(keep))
    text = f"dims={list(dims)} keep={keep}".replace(", ", ",")
    assert_close(run_operator(path, op, wanted.shape, x, attributes=text), wanted)


def test_mean_over_a_unit_dimension_of_rank_5(path):
    x = normal(2, 1, 3, 4, 5)
    got = run_operator(path, "mean", (2, 3, 5), x, attributes="dims=[1,3] keep=0")
    assert_close(got, wide(x).mean((1, 3)))


@pytest.mark.parametrize("shape", [(1, 6, 5), (2, 6, 1, 7), (3, 6, 5, 4)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize(("w", "b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_group_norm(path, shape, groups, w, b):
    x, weight, bias = 3 + normal(*shape), normal(6, seed=1), normal(6, seed=2)
    got = run_operator(path, "group_norm", x.shape, x, *["@w"] * w, *["@b"] * b,
                       attributes=f"groups={groups} eps=1e-05 w={w} b={b}",
                       tensors={"w": weight, "b": bias})  # fmt: skip
    wanted = F.group_norm(
        wide(x), groups, wide(weight) if w else None, wide(bias) if b else None, 1e-5
    )
    assert_close(got, wanted)


@pytest.mark.parametrize("perm", [(0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 3, 2), (0, 1, 3, 2)])
def test_permute_of_rank_4(path, perm):
    x = normal(2, 3, 4, 5)
    wanted = wide(x).permute(perm)
    got = run_operator(
        path, "permute", wanted.shape, x, attributes=f"perm={list(perm)}".replace(" ", "")
    )
    assert_close(got, wanted, 0)


def test_rank_5_with_unit_dimensions(path):
    x = normal(1, 2, 1, 3, 4)
    wanted = wide(x).permute(3, 0, 4, 2, 1)
    got = run_operator(path, "permute", wanted.shape, x, attributes="perm=[3,0,4,2,1]")
    assert_close(got, wanted, 0)
    got = run_operator(path, "slice", (1, 2, 1, 2, 4), x, attributes="dim=3 start=1 end=3")
    assert_close(got, wide(x)[:, :, :, 1:3], 0)
    got = run_operator(path, "softmax", x.shape, x, attributes="dim=1")
    assert_close(got, wide(x).softmax(1))
    got = run_operator(path, "concat", (1, 2, 2, 3, 4), x, x, attributes="dim=2")
    assert_close(got, torch.cat([wide(x)] * 2, 2), 0)


def test_operators_read_strided_views(path):
    """Slices of permutations and the like: views whose rows are not dense."""
    x, w = normal(1, 6, 8, 10), normal(5, 4, seed=1)
    program = OperatorProgram()
    value = program.operand(x, on_host=False)
    turned = program.line("permute f32[1,10,8,6]", f"{value} perm=[0,3,2,1]")
    cut = program.line("slice f32[1,10,8,4]", f"{turned} dim=3 start=1 end=5")
    cut = program.line("slice f32[1,4,8,4]", f"{cut} dim=1 start=0 end=10 step=3")
    normed = program.line("rms_norm f32[1,4,8,4]", f"{cut} eps=1e-06")
    summed = program.line("add f32[1,4,8,4]", f"{normed} {cut}")
    mapped = program.line("linear f32[1,4,8,5]", f"{summed} @w")
    result = program.line("concat f32[1,4,8,9]", f"{mapped} {cut} dim=3")
    got = program.run(path, result, {"w": w})
    view = wide(x).permute(0, 3, 2, 1)[..., 1:5][:, ::3]
    wanted = F.linear(F.rms_norm(view, (4,), None, 1e-6) + view, wide(w))
    assert_close(got, torch.cat([wanted, view], -1))


def test_an_output_may_be_a_view_an_input_or_a_tensor_of_the_file(path):
    x = normal(3, 4)
    program = OperatorProgram()
    value = program.operand(x, on_host=False)
    turned = program.line("permute f32[4,3]", f"{value} perm=[1,0]")
    assert_close(program.run(path, turned, {}), wide(x).T, 0)
    assert_close(OperatorProgram().run(path, "@t", {"t": x}), wide(x), 0)
    flags = np.array([True, False])
    got = OperatorProgram().run(path, "@t", {"t": flags})
    assert got.dtype == np.bool_ and got.tolist() == flags.tolist()


def test_block_types_agree_with_gguf():
    for name, info in types().items():
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert (info["block_size"], info["type_size"]) == (block, size)


@pytest.mark.parametrize("through_reshape", [False, True])
@pytest.mark.parametrize("also_read", [False, True])
def test_gelu_leaves_alone_what_others_read(path, through_reshape, also_read):
    rng = np.random.default_rng(5)
    data = quantize(rng.standard_normal((32, 64), dtype=np.float32), "Q8_0")
    program = OperatorProgram()
    x = program.operand(rng.standard_normal((16, 64), dtype=np.float32), False)
    product = program.line("linear f32[16,32]", f"{x} @w")
    read = (
        program.line("reshape f32[16,32]", f"{product} shape=[16,32]")
        if through_reshape
        else product
    )
    result = program.line("gelu f32[16,32]", f"{read} approx=tanh")
    if also_read:
        result = program.line("add f32[16,32]", f"{result} {product}")
    program.run(path, result, {"w": Packed(data, "Q8_0", (32, 64))})


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "other", ["an operand", "a row", "itself", "another product", "its own input", "gelu"]
)
def test_a_product_takes_what_is_added_to_it(path, other, first):
    rng = np.random.default_rng(6)
    data = quantize(rng.standard_normal((64, 64), dtype=np.float32), "Q4_0")
    program = OperatorProgram()
    x = program.operand(rng.standard_normal((16, 64), dtype=np.float32), False)
    product = program.line("linear f32[16,64]", f"{x} @w")
    added = {
        "an operand": lambda: program.operand(rng.standard_normal((16, 64), np.float32), False),
        "a row": lambda: program.operand(rng.standard_normal((1, 64), np.float32), False),
        "itself": lambda: product,
        "another product": lambda: program.line("linear f32[16,64]", f"{x} @w"),
        "its own input": lambda: x,
        "gelu": lambda: program.line("gelu f32[16,64]", f"{product} approx=tanh"),
    }[other]()
    operands = f"{product} {added}" if first else f"{added} {product}"
    program.run(
        path,
        program.line("add f32[16,64]", operands),
        {"w": Packed(data, "Q4_0", (64, 64))},
    )
