"""The model file: one GGUF with programs, weights and everything a robot needs (docs/format.md).

Reading needs no torch; writing stages and reading them back as graphs does.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from actquant.errors import ModelFileError
from actquant.model_schema import (
    COEFFICIENTS,
    FORMAT_VERSION,
    INTERFACE_KEYS,
    MODEL_KEYS,
    OPTIONAL_FIELDS,
    SAMPLER_KEYS,
    ModelMetadata,
    PolicyInterface,
    Sampler,
)

if TYPE_CHECKING:
    from torch import Tensor

    from actquant.capture.ir import Graph, Node

ARCHITECTURE = "actquant"
MAX_RANK = 4
MAX_NAME = 63


STAGES_KEY, SHAPES_KEY, GRAPH_KEY = "actquant.stages", "actquant.shapes", "actquant.graph."


@dataclass(frozen=True)
class EncodedTensor:
    """A weight in a ggml type.

    type: ggml's name, e.g. `Q4_K`, `Q8_0`, `F16`; data: uint8 [rows, row_bytes], rows padded with
    zeros to the type's block; shape: the logical [rows, columns] before padding.
    """

    type: str
    data: np.ndarray
    shape: tuple[int, ...]


@dataclass
class _Contents:
    """What is written: arrays are float32, float16, int64, int8, or uint8 rows with a ggml type."""

    metadata: ModelMetadata
    programs: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    arrays: dict[str, tuple[np.ndarray, GGMLQuantizationType | None]] = field(default_factory=dict)


def write_model(
    path: str | Path,
    *,
    stages: Mapping[str, Graph],
    encodings: Mapping[str, EncodedTensor],
    metadata: ModelMetadata,
    tensor_names: Mapping[str, str] | None = None,
    float_type: str = "F32",
) -> Path:
    """Write the file under a temporary name and move it into place; on failure nothing is left.

    stages: name -> captured graph; encodings: parameter name -> encoded weight, for parameters
    that are only read as matrices (`reads_matrix`); metadata: see ModelMetadata; tensor_names:
    parameter name -> name in the file (the parameter names if absent); float_type: `F32` or `F16`,
    the type of the matrices that have no encoding (all else is f32).

    Raises ModelFileError if an encoding belongs to no such weight or has the wrong size, or if
    the control rate is unknown.
    """
    from actquant.capture.program import emit_program

    names = dict(tensor_names or {})
    provenance = {**metadata.provenance, "tensor_names": {v: k for k, v in names.items()}}
    contents = _Contents(_replaced(metadata, provenance=provenance))
    matrices = set(matrix_weights(stages))
    foreign = sorted(set(encodings) - matrices)
    if foreign:
        raise ModelFileError(
            f"encodings of what is not only read as a matrix: {', '.join(foreign)}"
        )
    constants: dict[tuple, str] = {}

    def add(n: Node) -> str:
        if n.op == "const":
            array = _array(n.tensor)
            key = (array.shape, array.dtype.str, array.tobytes())
            name = constants.setdefault(key, n.name or f"const.{len(constants)}")
        else:
            name = names.get(n.name, n.name)
        if name not in contents.shapes:
            contents.shapes[name] = n.shape
            if n.name in encodings:
                contents.arrays[name] = _encoded(n, encodings[n.name])
            else:
                half = float_type == "F16" and n.name in matrices
                contents.arrays[name] = (_array(n.tensor, half), None)
        return name

    for stage, graph in stages.items():
        contents.programs[stage] = emit_program(graph, add)
    return _write(Path(path), contents)


def with_golden(path: str | Path, golden: list[dict[str, Any]]) -> Path:
    """Rewrite a file with other golden outputs (see ModelMetadata); all else stays, bit for bit."""
    model = read_model(path)
    arrays = {
        t.name: (np.array(t.data), t.tensor_type if t.data.dtype == np.uint8 else None)
        for t in model.reader.tensors
    }
    metadata = _replaced(model.metadata, golden=golden)
    return _write(Path(path), _Contents(metadata, model.programs, model.shapes, arrays))


def _replaced(metadata: ModelMetadata, **changes: Any) -> ModelMetadata:
    values = {f.name: getattr(metadata, f.name) for f in fields(metadata)}
    return ModelMetadata(**{**values, **changes})


def reads_matrix(n: Node, position: int) -> bool:
    """Whether an operator takes this operand as a matrix of any type."""
    if n.op in ("conv1d", "conv2d"):
        return position == 1 and n.attrs["groups"] == 1
    return (n.op, position) in (("linear", 1), ("embedding", 0))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """[rows, columns] of a weight as a matrix: [out, in·kernel] of a convolution's."""
    return shape[0], math.prod(shape[1:])


def matrix_weights(
    stages: Mapping[str, Graph], as_matrix: Callable[[Node, int], bool] = reads_matrix
) -> list[str]:
    """Parameters whose every use is as a matrix: `as_matrix(operator, position of operand)`."""
    only: dict[str, bool] = {}
    for graph in stages.values():
        for n in graph.nodes():
            for position, x in enumerate(n.inputs):
                if x.op == "param":
                    only[x.name] = only.get(x.name, True) and as_matrix(n, position)
    return [name for name, fits in only.items() if fits]


def _array(tensor: Tensor, half: bool = False) -> np.ndarray:
    """At most four dimensions, in a type that a GGUF has."""
    array = tensor.detach().cpu().contiguous().numpy()
    if array.dtype == np.bool_:
        array = array.astype(np.int8)
    elif array.dtype.kind == "f":
        array = array.astype(np.float16 if half else np.float32)
    shape = array.shape
    if len(shape) > MAX_RANK:
        shape = tuple(d for d in shape if d != 1)
    if len(shape) > MAX_RANK:
        raise ModelFileError(f"a tensor of shape {list(array.shape)} has too many dimensions")
    return np.ascontiguousarray(array.reshape(shape or (1,)))


def _encoded(n: Node, encoding: EncodedTensor) -> tuple[np.ndarray, GGMLQuantizationType]:
    try:
        kind = GGMLQuantizationType[encoding.type]
    except KeyError as error:
        raise ModelFileError(f"{n.name}: ggml has no type {encoding.type}") from error
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = matrix_shape(n.shape)
    wanted = (rows, math.ceil(columns / block) * size)
    data = np.ascontiguousarray(encoding.data)
    if tuple(encoding.shape) != (rows, columns) or data.dtype != np.uint8 or data.shape != wanted:
        raise ModelFileError(
            f"{n.name}: {encoding.type} of {list(encoding.shape)} in "
            f"{data.dtype}{list(data.shape)}; wanted {[rows, columns]} in uint8{list(wanted)}"
        )
    return data, kind


def _write(path: Path, contents: _Contents) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = GGUFWriter(temporary, ARCHITECTURE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for key, kind, value in _key_values(path, contents.metadata):
            _add_key(writer, key, kind, value)
        writer.add_array(STAGES_KEY, list(contents.programs))
        for stage, program in contents.programs.items():
            writer.add_string(GRAPH_KEY + stage, program)
        lines = [f"{n} [{','.join(map(str, s))}]" for n, s in contents.shapes.items()]
        writer.add_string(SHAPES_KEY, "\n".join(lines))
        for name, (array, kind) in contents.arrays.items():
            if len(name) > MAX_NAME:
                raise ModelFileError(f"tensor name {name!r} is longer than {MAX_NAME} characters")
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from error
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    return path


def _key_values(path: Path, metadata: ModelMetadata) -> Iterator[tuple[str, str, Any]]:
    """(key, kind, value) of all that is written. Raises ModelFileError for what is unknown."""
    interface = metadata.interface
    for keys, source in ((MODEL_KEYS, metadata), (INTERFACE_KEYS, interface)):
        for attribute, (key, kind) in keys.items():
            value = getattr(source, attribute)
            if value is not None:
                yield key, kind, value
            elif attribute not in OPTIONAL_FIELDS:
                raise ModelFileError(f"{path} cannot be written: {attribute} is unknown")
    if interface.sampler is not None:
        rows = interface.sampler.coefficients
        values = {
            "timesteps": interface.sampler.timesteps,
            "coefficients": tuple(value for row in rows for value in row),
        }
        for attribute, (key, kind) in SAMPLER_KEYS.items():
            yield key, kind, values[attribute]


def _add_key(writer: GGUFWriter, key: str, kind: str, value: Any) -> None:
    if kind == "str":  # `add_string` leaves out an empty one
        writer.add_key_value(key, value, GGUFValueType.STRING)
    elif kind == "json":
        writer.add_string(key, json.dumps(value))
    elif kind == "u32":
        writer.add_uint32(key, value)
    elif kind == "u64":
        writer.add_uint64(key, value)
    elif kind == "f32":
        writer.add_float32(key, value)
    elif value:  # an empty list is not written
        element = {"u32[]": GGUFValueType.UINT32, "f32[]": GGUFValueType.FLOAT32}.get(kind)
        writer.add_key_value(key, list(value), GGUFValueType.ARRAY, sub_type=element)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its ggml type, its logical shape and the bytes it takes."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def quantized(self) -> bool:
        return gguf.GGML_QUANT_SIZES[GGMLQuantizationType[self.type]][0] > 1


class _Tensors(Mapping[str, "Tensor"]):
    """Dequantized tensors by name, read from the file when asked for."""

    def __init__(self, model: ModelFile) -> None:
        self.model = model

    def __getitem__(self, name: str) -> Tensor:
        import torch

        return torch.from_numpy(self.model.load(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.model.tensors)

    def __len__(self) -> int:
        return len(self.model.tensors)


@dataclass
class ModelFile:
    """A file that was read: metadata, programs and a table of tensors (data stays on disk)."""

    path: Path
    metadata: ModelMetadata
    programs: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    tensors: dict[str, TensorInfo]
    reader: GGUFReader = field(repr=False)

    def __post_init__(self) -> None:
        self._data = {t.name: t for t in self.reader.tensors}

    @property
    def bits_per_weight(self) -> float:
        """8 × bytes of the whole file / parameters of the policy."""
        return 8 * self.path.stat().st_size / self.metadata.parameter_count

    @property
    def quantized_bits_per_weight(self) -> float | None:
        """8 × bytes / elements of the quantized tensors; None if there is none."""
        quantized = [t for t in self.tensors.values() if t.quantized]
        elements = sum(math.prod(t.shape) for t in quantized)
        return 8 * sum(t.bytes for t in quantized) / elements if elements else None

    def load(self, name: str) -> np.ndarray:
        """A tensor in its logical shape: float32 (dequantized), int64 or bool; a copy.

        Raises ModelFileError if the file has no such tensor.
        """
        if name not in self.tensors:
            raise ModelFileError(f"{self.path} has no tensor {name!r}")
        found = self._data[name]
        shape = self.shapes[name]
        if found.data.dtype == np.uint8:
            rows = gguf.quants.dequantize(found.data, found.tensor_type)
            first, columns = matrix_shape(shape)
            array = rows.reshape(first, -1)[:, :columns]
        else:
            array = found.data
        if array.dtype == np.int8:
            array = array.astype(np.bool_)
        elif array.dtype.kind == "f":
            array = array.astype(np.float32)
        return np.array(array).reshape(shape)

    def graph(
        self,
        stage: str,
        length: int | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Graph:
        """The graph of a stage for prompts of `length` tokens, with dequantized tensors.

        length: may be left out where the stage does not depend on it; tensors: instead of those of
        the file, by name. Raises ModelFileError if there is no such stage or the length is missing.
        """
        from actquant.capture.program import parse_program

        if stage not in self.programs:
            raise ModelFileError(
                f"{self.path} has no stage {stage!r}; it has {', '.join(self.programs)}"
            )
        found = _Tensors(self) if tensors is None else tensors
        return parse_program(self.programs[stage], stage, found, length)


def read_model(path: str | Path) -> ModelFile:
    """Read a file and check that it is whole.

    Raises ModelFileError if it does not exist, is no GGUF, is truncated, is of another architecture
    or of another format version, or lacks keys or tensors (all of them are listed).
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist")
    try:
        reader = GGUFReader(path)
    except Exception as error:  # gguf-py raises many kinds on damaged files
        raise ModelFileError(f"{path} is no GGUF, or is truncated: {error}") from error
    _check_identity(path, reader)
    values = {key: f.contents() for key, f in reader.fields.items()}
    wanted = [
        key
        for keys in (MODEL_KEYS, INTERFACE_KEYS)
        for attribute, (key, kind) in keys.items()
        if attribute not in OPTIONAL_FIELDS and not kind.endswith("[]")
    ]
    if values.get(INTERFACE_KEYS["driver"][0]) == "sampling":
        wanted += [key for key, _ in SAMPLER_KEYS.values()]
    missing = [key for key in (*wanted, STAGES_KEY, SHAPES_KEY) if key not in values]
    missing += [
        GRAPH_KEY + stage for stage in values.get(STAGES_KEY, ()) if GRAPH_KEY + stage not in values
    ]
    if missing:
        raise ModelFileError(f"{path} lacks the keys {', '.join(missing)}")
    try:
        interface = PolicyInterface(**_decoded(INTERFACE_KEYS, values), sampler=_sampler(values))
        metadata = ModelMetadata(interface=interface, **_decoded(MODEL_KEYS, values))
        shapes = {
            name: tuple(int(d) for d in shape.strip("[]").split(",") if d)
            for name, shape in (line.split(" ") for line in values[SHAPES_KEY].split("\n"))
        }
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path} has a damaged key: {error}") from error
    return ModelFile(
        path=path,
        metadata=metadata,
        programs={stage: values[GRAPH_KEY + stage] for stage in values[STAGES_KEY]},
        shapes=shapes,
        tensors=_tensor_table(path, reader, shapes),
        reader=reader,
    )


def _check_identity(path: Path, reader: GGUFReader) -> None:
    architecture = reader.fields.get("general.architecture")
    found = architecture.contents() if architecture else None
    if found != ARCHITECTURE:
        raise ModelFileError(f"{path} is a GGUF of architecture {found!r}, not {ARCHITECTURE!r}")
    version = reader.fields.get("actquant.format_version")
    if version is not None and version.contents() != FORMAT_VERSION:
        newer = version.contents() > FORMAT_VERSION
        remedy = "update actquant" if newer else "compress the checkpoint again"
        raise ModelFileError(
            f"{path} has format version {version.contents()}; this actquant reads "
            f"{FORMAT_VERSION}: {remedy}"
        )


def _decoded(keys: Mapping[str, tuple[str, str]], values: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for attribute, (key, kind) in keys.items():
        if kind.endswith("[]"):
            result[attribute] = tuple(values.get(key, ()))
        elif key in values or attribute not in OPTIONAL_FIELDS:
            result[attribute] = json.loads(values[key]) if kind == "json" else values[key]
    return result


def _sampler(values: Mapping[str, Any]) -> Sampler | None:
    """Raises ValueError if the table does not fit the steps."""
    timesteps, numbers = (tuple(values.get(key, ())) for key, _ in SAMPLER_KEYS.values())
    if not timesteps:
        return None
    if len(numbers) != COEFFICIENTS * len(timesteps):
        raise ValueError(
            f"{len(numbers)} sampler coefficients for {len(timesteps)} steps; "
            f"{COEFFICIENTS} a step are needed"
        )
    rows = (numbers[i : i + COEFFICIENTS] for i in range(0, len(numbers), COEFFICIENTS))
    return Sampler(timesteps, tuple(rows))


def _tensor_table(
    path: Path, reader: GGUFReader, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    cut = [t.name for t in reader.tensors if t.data_offset + t.n_bytes > size]
    if cut:
        raise ModelFileError(f"{path} is truncated: the data of {', '.join(cut)} is incomplete")
    found = {t.name: t for t in reader.tensors}
    absent = sorted(set(shapes) ^ set(found))
    if absent:
        raise ModelFileError(f"{path}: tensors without data or without shape: {', '.join(absent)}")
    return {
        name: TensorInfo(name, found[name].tensor_type.name, shape, int(found[name].n_bytes))
        for name, shape in shapes.items()
    }
