"""Runs single operators: a policy whose prefix is the operator, fed through its `state` input."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from actquant_runtime import Runtime, dequantize
from policy_files import CHUNK, EMBEDDING, Packed, write_policy

from actquant.program import interpret, parse_program

DENOISE = f"%0 = input f32[1,{CHUNK},4] name=x_t\n%1 = sqr f32[1,{CHUNK},4] %0\noutput output %1"
VISION = (
    """%0 = input f32[1,3,6,12] name=image
%1 = slice f32[1,1,2,8] %0 dim=1 start=0 end=1
%2 = slice f32[1,1,2,8] %1 dim=2 start=0 end=2
""".replace("[1,1,2,8] %0", "[1,1,6,12] %0").replace("[1,1,2,8] %1", "[1,1,2,12] %1")
    + (
        "%3 = slice f32[1,1,2,8] %2 dim=3 start=0 end=8\n"
        f"%4 = reshape {EMBEDDING} %3 shape=[1,2,8]\noutput embedding %4"
    )
)
_ROUNDED = 0.02
"""How far ggml may be off where it rounds the inputs of a product, relative to the largest."""
_DTYPES = {np.dtype(np.float32): "f32", np.dtype(np.int64): "i64", np.dtype(np.bool_): "b8"}


def type_of(shape: Sequence[int], dtype: str = "f32") -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


class OperatorProgram:
    """Lines that cut the operands out of the state, then the lines under test."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.state: list[np.ndarray] = []
        self._offset = 0
        self._next = 1

    def operand(self, array: np.ndarray, on_host: bool) -> str:
        """Makes the array a value of the program: on the device, or on the host."""
        host = "host." if on_host else ""
        size, start = array.size, self._offset
        self._offset += size
        self.state.append(np.asarray(array, np.float32).reshape(-1))
        cut = self.line(
            f"{host}slice {type_of([1, size])}", f"%0 dim=1 start={start} end={start + size}"
        )
        value = self.line(f"{host}reshape {type_of(array.shape)}", cut)
        if array.dtype != np.float32:
            value = self.line(f"host.cast {type_of(array.shape, _DTYPES[array.dtype])}", value)
        return value

    def line(self, operator_and_type: str, rest: str) -> str:
        name = f"%{self._next}"
        self._next += 1
        self.lines.append(f"{name} = {operator_and_type} {rest}")
        return name

    def text(self, output: str) -> str:
        declaration = f"%0 = input {type_of([1, max(self._offset, 3)])} name=state"
        return "\n".join([declaration, *self.lines, f"output result {output}"])

    def write(self, path: Path, output: str, tensors: Mapping[str, np.ndarray | Packed]) -> Path:
        size = max(self._offset, 3)
        keys = {"actquant.state.padded_dim": ("uint32", size)}
        programs = {"vision": VISION, "prefix": self.text(output), "denoise": DENOISE}
        return write_policy(path, tensors=tensors, programs=programs, keys=keys)

    def run(
        self, path: Path, output: str, tensors: Mapping[str, np.ndarray | Packed]
    ) -> np.ndarray:
        """The runtime's result, which the interpreter's must agree with."""
        state = np.concatenate([*self.state, np.zeros(3, np.float32)])
        state = state[None, : max(self._offset, 3)]
        runtime = Runtime(self.write(path, output, tensors), threads=2)
        result = runtime.run_stage("prefix", {"state": state})["result"]
        is_rounded = any(not isinstance(t, np.ndarray) or t.dtype == np.float16
                         for t in tensors.values())  # fmt: skip
        reference = self.interpret(output, state, tensors)
        assert (result.shape, result.dtype) == (reference.shape, reference.dtype)
        finite = np.abs(np.where(np.isfinite(reference), reference, 0)).max(initial=1e-6)
        tolerance = (_ROUNDED if is_rounded else 1e-5) * float(finite)
        np.testing.assert_allclose(result, reference, rtol=0, atol=tolerance)
        return result

    def interpret(
        self, output: str, state: np.ndarray, tensors: Mapping[str, np.ndarray | Packed]
    ) -> np.ndarray:
        plain = {name: torch.from_numpy(_unpacked(t)) for name, t in tensors.items()}
        graph = parse_program(self.text(output), "prefix", plain)
        return interpret(graph, {"state": torch.from_numpy(state)})["result"].numpy()


def _unpacked(tensor: np.ndarray | Packed) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
    columns = int(np.prod(tensor.shape[1:]))
    return dequantize(tensor.data, tensor.type.name, columns).reshape(tensor.shape)


def run_operator(
    path: Path,
    op: str,
    shape: Sequence[int],
    *operands: np.ndarray | str,
    attributes: str = "",
    tensors: Mapping[str, np.ndarray | Packed] | None = None,
    dtype: str = "f32",
) -> np.ndarray:
    """One operator's result. An operand is an array, or the "@name" of one of `tensors`."""
    program = OperatorProgram()
    on_host = op.startswith("host.")
    names = [
        operand
        if isinstance(operand, str)
        else program.operand(operand, on_host or operand.dtype != np.float32)
        for operand in operands
    ]
    result = program.line(f"{op} {type_of(shape, dtype)}", f"{' '.join(names)} {attributes}")
    return program.run(path, result, tensors or {})
