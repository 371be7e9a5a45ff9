"""The grammar of docs/format.md: the runtime and `parse_program` accept and refuse the same."""

import numpy as np
import pytest
import torch
from actquant_runtime import ModelFileError, Runtime
from operator_files import DENOISE, VISION
from policy_files import write_policy

import actquant.common.errors
from actquant.program import interpret, parse_program

INPUT = "%0 = input f32[1,5] name=state"
STATE = np.array([[1, -2, 3, -4, 5]], np.float32)
TENSORS = {"c": np.array([7, 8], np.float32)}


def run_both(path, text):
    """The outputs, of which both readers must say the same."""
    file = write_policy(
        path,
        programs={"vision": VISION, "prefix": text, "denoise": DENOISE},
        tensors=TENSORS,
    )
    ours = Runtime(file, threads=1).run_stage("prefix", {"state": STATE})
    graph = parse_program(text, "prefix", {k: torch.from_numpy(v) for k, v in TENSORS.items()})
    theirs = interpret(graph, {"state": torch.from_numpy(STATE)})
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=1e-6)
    return ours


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["%1 = affine f32[1,5] %0 a=2 b=1", "output y %1"], 2 * STATE + 1),
        (["", "%1 = affine f32[1,5] %0 a=2 b=1", "", "output y %1", ""], 2 * STATE + 1),
        (["  %1  =\taffine f32[1,5] %0   a=2 b=1 ", " output  y %1\r"], 2 * STATE + 1),
        (["%7 = affine f32[1,5] a=2 %0 b=1", "output y %7"], 2 * STATE + 1),
        (["output y @c"], TENSORS["c"]),
        (["output y %0"], STATE),
        (["%1 = affine f32[1,5] %0 a=1e-05 b=-1.5e+2", "output y %1"], 1e-5 * STATE - 150),
        (["%1 = clamp f32[1,5] %0 min=-inf max=1.25", "output y %1"], np.minimum(STATE, 1.25)),
        (["%1 = sum f32[] %0 dims=[0,1] keep=0", "output y %1"], STATE.sum()),
        (["%1 = host.sum f32[] %0 dims=[-1,0] keep=0", "output y %1"], STATE.sum()),
        (["%1 = slice f32[1,2] %0 dim=-1 start=3", "output y %1"], STATE[:, 3:]),
        (["%1 = slice f32[1,3] %0 dim=1 start=-9 end=-2", "output y %1"], STATE[:, :3]),
        (["%1 = host.slice f32[1,2] %0 dim=1 start=0 end=3 step=2", "output y %1"],
         STATE[:, :3:2]),
        (["%1 = slice f32[1,3] %0 dim=1 start=0 end=9223372036854775807 step=2", "output y %1"],
         STATE[:, ::2]),
        (["%1 = host.permute f32[5,1] %0 perm=[-1,-2]", "output y %1"], STATE.T),
    ],
)  # fmt: skip
def test_both_readers_accept(tmp_path, lines, expected):
    got = run_both(tmp_path / "p.gguf", "\n".join([INPUT, *lines]))
    np.testing.assert_allclose(got["y"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "lines",
    [
        ["output y %1"],
        ["output y @gone"],
        ["output y"],
        ["output y %0 %0"],
        ["output y %0", "output y %0"],
        ["%0 = affine f32[1,5] %0 a=2 b=1", "output y %0"],
        ["%1 = affine f32[1,5] %1 a=2 b=1", "output y %1"],
        ["%1 = affine f16[1,5] %0 a=2 b=1", "output y %1"],
        ["%1 = affine f32[1,x] %0 a=2 b=1", "output y %1"],
        ["%1 = slice f32[1,0] %0 dim=1 start=0 end=0", "output y %1"],
        ["%1 = affine f32[1,5] %0 a b=1", "output y %1"],
        ["%1 affine f32[1,5] %0 a=2 b=1", "output y %1"],
        ["%1 = host.slice f32[1,3] %0 dim=1 start=0 end=2", "output y %1"],
        ["# a comment", "output y %0"],
        [],
    ],
)
def test_both_readers_refuse(tmp_path, lines):
    text = "\n".join([INPUT, *lines])
    with pytest.raises(
        (actquant.common.errors.ModelFileError, actquant.common.errors.CaptureError)
    ):
        graph = parse_program(text, "prefix", {k: torch.from_numpy(v) for k, v in TENSORS.items()})
        interpret(graph, {"state": torch.from_numpy(STATE)})
    with pytest.raises(ModelFileError):
        run_both(tmp_path / "p.gguf", text)
