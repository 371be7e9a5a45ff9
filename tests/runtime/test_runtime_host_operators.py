"""Every host operator of docs/format.md against NumPy, exactly."""

import numpy as np
import pytest
from actquant_runtime import Runtime
from operator_files import OperatorProgram, run_operator
from policy_files import PROGRAMS, noise, observation, write_policy


@pytest.fixture
def path(tmp_path):
    return tmp_path / "operator.gguf"


def integers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-5, 6, shape)


@pytest.mark.parametrize(
    ("op", "function"),
    [("add", np.add), ("sub", np.subtract), ("mul", np.multiply)],
)
@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3))])
def test_integer_arithmetic(path, op, function, shapes):
    a, b = (integers(*shape) for shape in shapes)
    wanted = function(a, b)
    got = run_operator(path, f"host.{op}", wanted.shape, a, b, dtype="i64")
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, wanted)


def test_division_and_affine_are_in_double_precision(path):
    a, b = integers(4, 5), integers(5) + 20
    program = OperatorProgram()
    names = [program.operand(x, on_host=True) for x in (a, b)]
    third = program.line("host.div f32[4,5]", f"{names[0]} {names[1]}")
    back = program.line("host.mul f32[4,5]", f"{third} {names[1]}")
    result = program.line("host.affine i64[4,5]", f"{back} a=3.0 b=-1")
    np.testing.assert_array_equal(program.run(path, result, {}), 3 * a - 1)


def test_logic_and_selection(path):
    a, b = integers(3, 4), integers(4)
    got = run_operator(path, "host.le", (3, 4), a, b, dtype="b8")
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, a <= b)
    p, q = a > 0, b > 0
    np.testing.assert_array_equal(run_operator(path, "host.and", (3, 4), p, q, dtype="b8"), p & q)
    np.testing.assert_array_equal(run_operator(path, "host.or", (3, 4), p, q, dtype="b8"), p | q)
    np.testing.assert_array_equal(run_operator(path, "host.not", (3, 4), p, dtype="b8"), ~p)
    np.testing.assert_array_equal(run_operator(path, "host.lt", (3, 4), a, b, dtype="b8"), a < b)
    np.testing.assert_array_equal(run_operator(path, "host.eq", (3, 4), a, b, dtype="b8"), a == b)
    got = run_operator(path, "host.select", (3, 4), p, a, b, dtype="i64")
    np.testing.assert_array_equal(got, np.where(p, a, b))
    got = run_operator(path, "host.select_s", (3, 4), p, attributes="a=0.0 b=-inf")
    np.testing.assert_array_equal(got, np.where(p, 0, -np.inf))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_cumsum(path, dim):
    a = integers(2, 3, 4)
    got = run_operator(path, "host.cumsum", a.shape, a, attributes=f"dim={dim}", dtype="i64")
    np.testing.assert_array_equal(got, a.cumsum(dim))


@pytest.mark.parametrize("dims", [(0,), (1,), (-1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("op", ["sum", "min", "max"])
def test_reductions(path, op, dims, keep):
    a = integers(2, 3, 4)
    wanted = np.asarray(getattr(a, op)(axis=dims, keepdims=bool(keep)))
    got = run_operator(path, f"host.{op}", wanted.shape, a, dtype="i64",
                       attributes=f"dims=[{','.join(map(str, dims))}] keep={keep}")  # fmt: skip
    np.testing.assert_array_equal(got, wanted)


def test_full(path):
    got = run_operator(path, "host.full", (2, 3), attributes="shape=[2,3] value=7", dtype="i64")
    np.testing.assert_array_equal(got, np.full((2, 3), 7))
    got = run_operator(path, "host.full", (4,), attributes="shape=[4] value=-2.5")
    np.testing.assert_array_equal(got, np.full(4, -2.5, np.float32))


def test_exponential(path):
    x = np.linspace(-20, 20, 31, dtype=np.float32)
    np.testing.assert_allclose(run_operator(path, "host.exp", x.shape, x), np.exp(x), rtol=1e-6)


def test_sine_and_cosine(path):
    x = np.linspace(-300, 300, 31, dtype=np.float32)
    np.testing.assert_allclose(run_operator(path, "host.sin", x.shape, x), np.sin(x), atol=1e-7)
    np.testing.assert_allclose(run_operator(path, "host.cos", x.shape, x), np.cos(x), atol=1e-7)


def test_casts(path):
    x = np.array([-1.7, 0, 0.3, 2.9], np.float32)
    got = run_operator(path, "host.cast", x.shape, x, dtype="i64")
    np.testing.assert_array_equal(got, [-1, 0, 0, 2])
    got = run_operator(path, "host.cast", x.shape, x, dtype="b8")
    np.testing.assert_array_equal(got, [True, False, True, True])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concat(path, dim):
    a, b = integers(2, 3), integers(2, 3) + 10
    wanted = np.concatenate([a, b], dim)
    got = run_operator(
        path, "host.concat", wanted.shape, a, b, attributes=f"dim={dim}", dtype="i64"
    )
    np.testing.assert_array_equal(got, wanted)


def test_constants_of_the_file(path):
    for constant in (integers(4), np.array([True, False, True, True]), np.array(3)):
        a = integers(2, 4)
        got = run_operator(path, "host.add", (2, 4), a, "@c", tensors={"c": constant}, dtype="i64")
        np.testing.assert_array_equal(got, a + constant)


def test_a_device_operator_reads_host_values_as_f32(path):
    a, b = integers(2, 3), integers(2, 3)
    program = OperatorProgram()
    names = [program.operand(x, on_host=True) for x in (a, b)]
    total = program.line("host.add i64[2,3]", " ".join(names))
    result = program.line("affine f32[2,3]", f"{total} a=0.5 b=1.0")
    np.testing.assert_array_equal(program.run(path, result, {}), 0.5 * (a + b) + 1)


def test_what_depends_on_no_new_input_is_still_right_after_a_change(tmp_path):
    """The cached host values and the hoisted part of the loop must follow the observation."""
    path = write_policy(tmp_path / "tiny.gguf")
    used, fresh = Runtime(path, threads=1), Runtime(path, threads=1)
    masked = observation(1)
    del masked["observation.images.wrist"]
    for seen in (observation(1), masked, {**observation(2), "task": "cube"}, observation(1)):
        expected = fresh.act(seen, noise=noise())
        np.testing.assert_array_equal(used.act(seen, noise=noise()), expected)
        fresh = Runtime(path, threads=1)


def test_a_flow_that_ignores_the_noise_is_constant(tmp_path):
    """The whole loop body can be invariant."""
    denoise = PROGRAMS["denoise"].split("%4 = linear")[0] + (
        "%4 = slice f32[1,3,8] %2 dim=1 start=0 end=3\n"
        "%5 = linear f32[1,3,4] %4 @out.w\noutput output %5"
    )
    runtime = Runtime(write_policy(tmp_path / "constant.gguf", programs={"denoise": denoise}))
    shift = runtime.act(observation(), noise=noise(1)) - runtime.act(observation(), noise=noise(2))
    std = np.array([0.25, 4.0])
    np.testing.assert_allclose(shift, (noise(1) - noise(2))[:, :2] * std, atol=1e-5)
