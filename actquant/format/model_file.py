"""The model file: one GGUF with programs, weights and everything a robot needs (docs/format.md).

Reading needs no torch; writing stages and reading them back as graphs does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import actquant_runtime
import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from rich.progress import Progress

from actquant.common.errors import ModelFileError
from actquant.format.checksums import is_intact, stored_tensor_checksums
from actquant.format.container import Key, PlannedTensor, file_bytes, replace_keys, write_gguf
from actquant.format.encoding import (
    DeferredEncoding,
    EncodedTensor,
    Encoding,
    matrix_shape,
    planned,
)
from actquant.format.keys import decode_metadata, key_values, missing_keys
from actquant.format.schema import MODEL_KEYS, ModelMetadata

if TYPE_CHECKING:
    from torch import Tensor

    from actquant.program.ir import Graph, Node
    from actquant.weights.parameters import StoredTensor

__all__ = [
    "DeferredEncoding",
    "EncodedTensor",
    "ModelFile",
    "TensorInfo",
    "matrix_shape",
    "matrix_weights",
    "model_bytes",
    "read_model",
    "reads_matrix",
    "with_golden",
    "with_metadata",
    "write_model",
]

ARCHITECTURE = "actquant"
STAGES_KEY, SHAPES_KEY, GRAPH_KEY = "actquant.stages", "actquant.shapes", "actquant.graph."


@dataclass
class _Contents:
    metadata: ModelMetadata
    programs: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tensors: dict[str, PlannedTensor] = field(default_factory=dict)
    reserved_bytes: Mapping[str, int] = field(default_factory=dict)


def write_model(
    path: str | Path,
    *,
    stages: Mapping[str, Graph],
    encodings: Mapping[str, Encoding],
    metadata: ModelMetadata,
    tensor_names: Mapping[str, str] | None = None,
    float_type: str = "F32",
    single_precision: Collection[str] = (),
    reserved_bytes: Mapping[str, int] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the file under a temporary name and moves it into place; on failure nothing is left.

    One tensor is in memory at a time. stages: name -> captured graph; encodings: parameter name ->
    encoded weight, for parameters that are only read as matrices (`reads_matrix`); metadata: see
    ModelMetadata; tensor_names: parameter name -> name in the file (the parameter names if absent);
    float_type: `F32`, `F16` or `BF16`, the type of the matrices that have no encoding (all else is
    f32); single_precision: parameters that stay f32 where the type is BF16; reserved_bytes: what
    the JSON of `golden`, `allocation` or `provenance` takes at least, so that `with_metadata` can
    exchange them in place; values: parameter name -> float32 to write instead of the policy's own,
    of the same shape, for parameters without an encoding.

    Raises ModelFileError if an encoding belongs to no such weight or has the wrong size, or if
    the control rate is unknown.
    """
    path = Path(path)
    kept = single_precision if float_type == "BF16" else ()
    contents = _contents(
        stages, encodings, metadata, tensor_names, float_type, kept, reserved_bytes, values
    )
    return write_gguf(path, ARCHITECTURE, _keys(contents), contents.tensors, progress)


def model_bytes(
    *,
    stages: Mapping[str, Graph],
    encodings: Mapping[str, Encoding],
    metadata: ModelMetadata,
    tensor_names: Mapping[str, str] | None = None,
    float_type: str = "F32",
    single_precision: Collection[str] = (),
    reserved_bytes: Mapping[str, int] | None = None,
) -> int:
    """Returns the size of the file that `write_model` would write; nothing is encoded."""
    kept = single_precision if float_type == "BF16" else ()
    contents = _contents(
        stages, encodings, metadata, tensor_names, float_type, kept, reserved_bytes
    )
    return file_bytes(ARCHITECTURE, _keys(contents), contents.tensors)


def _contents(
    stages: Mapping[str, Graph],
    encodings: Mapping[str, Encoding],
    metadata: ModelMetadata,
    tensor_names: Mapping[str, str] | None,
    float_type: str,
    kept: Collection[str],
    reserved_bytes: Mapping[str, int] | None,
    values: Mapping[str, np.ndarray] | None = None,
) -> _Contents:
    from actquant.program.text import emit_program

    names = dict(tensor_names or {})
    provenance = {**metadata.provenance, "tensor_names": {v: k for k, v in names.items()}}
    contents = _Contents(
        replace(metadata, provenance=provenance), reserved_bytes=dict(reserved_bytes or {})
    )
    matrices = set(matrix_weights(stages))
    foreign = sorted(set(encodings) - matrices)
    if foreign:
        raise ModelFileError(
            f"encodings of what is not only read as a matrix: {', '.join(foreign)}"
        )
    constants: dict[tuple, str] = {}

    def add(n: Node) -> str:
        if n.op == "const":
            array = n.tensor.contiguous().numpy()
            key = (array.shape, array.dtype.str, array.tobytes())
            name = constants.setdefault(key, n.name or f"const.{len(constants)}")
        else:
            name = names.get(n.name, n.name)
        if name not in contents.shapes:
            contents.shapes[name] = n.shape
            rounded = n.op == "param" and n.name in matrices and n.name not in kept
            wanted = float_type if rounded else "F32"
            own = None if values is None or n.op != "param" else values.get(n.name)
            contents.tensors[name] = planned(n, encodings.get(n.name), wanted, own)
        return name

    for stage, graph in stages.items():
        contents.programs[stage] = emit_program(graph, add)
    return contents


def with_golden(path: str | Path, golden: list[dict[str, Any]]) -> Path:
    """Gives a file other golden outputs (see ModelMetadata); all else stays, bit for bit."""
    return with_metadata(path, golden=golden)


def with_metadata(path: str | Path, **changes: Any) -> Path:
    """Gives a file other values of fields of ModelMetadata; all else stays, bit for bit.

    Where the new ones need no more bytes than the old ones had, they are written in place, and
    these bytes stay reserved, as blanks at the end of the JSON. Otherwise the file is written anew.
    """
    model = read_model(path)
    reserved_bytes = {
        attribute: len(model.reader.fields[key].contents())
        for attribute, (key, kind) in MODEL_KEYS.items()
        if kind == "json"
    }
    contents = _Contents(
        replace(model.metadata, **changes),
        model.programs,
        model.shapes,
        reserved_bytes=reserved_bytes,
    )
    for t in model.reader.tensors:
        kind = t.tensor_type if t.data.dtype == np.uint8 else None
        contents.tensors[t.name] = PlannedTensor(t.data.shape, t.data.dtype, t.data.copy, kind)
    checksums, offset = stored_tensor_checksums(model.reader), model.reader.data_offset
    keys = _keys(contents)
    return replace_keys(model.path, ARCHITECTURE, keys, contents.tensors, checksums, offset)


def reads_matrix(n: Node, position: int) -> bool:
    """Returns whether an operator takes this operand as a matrix of any type."""
    if n.op in ("conv1d", "conv2d"):
        return position == 1 and n.attrs["groups"] == 1
    return (n.op, position) in (("linear", 1), ("embedding", 0))


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


def _keys(contents: _Contents) -> list[Key]:
    """All that is written beside the tensors. Raises ModelFileError for what is unknown."""
    lines = [f"{n} [{','.join(map(str, s))}]" for n, s in contents.shapes.items()]
    programs = contents.programs.items()
    return [
        *key_values(contents.metadata, contents.reserved_bytes),
        (STAGES_KEY, "str[]", list(contents.programs)),
        *((GRAPH_KEY + stage, "str", program) for stage, program in programs),
        (SHAPES_KEY, "str", "\n".join(lines)),
    ]


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


class _Tensors(Mapping[str, "StoredTensor"]):
    """Dequantized tensors by name, each read from the file when it is needed."""

    def __init__(self, model: ModelFile) -> None:
        self.model = model

    def __getitem__(self, name: str) -> StoredTensor:
        import torch

        from actquant.weights.parameters import StoredTensor

        types = {"I64": torch.int64, "I8": torch.bool}
        dtype = types.get(self.model.tensors[name].type, torch.float32)
        return StoredTensor(
            self.model.shapes[name], lambda: torch.from_numpy(self.model.load(name)), dtype
        )

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
        checksums = stored_tensor_checksums(self.reader)
        self._checksums = dict(zip(self._data, checksums, strict=True))

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
        """Returns a tensor in its logical shape: float32 (dequantized), int64 or bool; a copy.

        Raises ModelFileError if the file has no such tensor, or if it is damaged.
        """
        if name not in self.tensors:
            raise ModelFileError(f"{self.path} has no tensor {name!r}")
        found = self._data[name]
        if not is_intact(found, self._checksums[name]):
            raise ModelFileError(
                f"{self.path} is damaged: the tensor {name} does not have the checksum that it had "
                "when it was written. Copy or compress it again"
            )
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
        tensors: Mapping[str, Tensor | StoredTensor] | None = None,
    ) -> Graph:
        """Returns the graph of a stage for prompts of `length` tokens, with dequantized tensors.

        length: may be left out where the stage does not depend on it; tensors: instead of those of
        the file, by name. Raises ModelFileError if there is no such stage or the length is missing.
        """
        from actquant.program.text import parse_program

        if stage not in self.programs:
            raise ModelFileError(
                f"{self.path} has no stage {stage!r}; it has {', '.join(self.programs)}"
            )
        found = _Tensors(self) if tensors is None else tensors
        return parse_program(self.programs[stage], stage, found, length)


def read_model(path: str | Path) -> ModelFile:
    """Reads a file and checks that it is whole.

    Raises ModelFileError if it does not exist, is no GGUF, is truncated, is of another architecture
    or of another format version, or lacks keys or tensors (all of them are listed).
    """
    path = Path(path)
    try:
        actquant_runtime.check_header(str(path))  # gguf-py trusts the lengths that it reads
    except actquant_runtime.ModelFileError as error:
        raise ModelFileError(str(error)) from error
    reader = GGUFReader(path)
    count = len(stored_tensor_checksums(reader))
    if count != len(reader.tensors):
        raise ModelFileError(f"{path} has {count} checksums for {len(reader.tensors)} tensors")
    values = {key: f.contents() for key, f in reader.fields.items()}
    missing = missing_keys(values)
    missing += [key for key in (STAGES_KEY, SHAPES_KEY) if key not in values]
    missing += [
        GRAPH_KEY + stage for stage in values.get(STAGES_KEY, ()) if GRAPH_KEY + stage not in values
    ]
    if missing:
        raise ModelFileError(f"{path} lacks the keys {', '.join(missing)}")
    try:
        metadata = decode_metadata(values)
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


def _tensor_table(
    path: Path, reader: GGUFReader, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorInfo]:
    found = {t.name: t for t in reader.tensors}
    absent = sorted(set(shapes) ^ set(found))
    if absent:
        raise ModelFileError(f"{path}: tensors without data or without shape: {', '.join(absent)}")
    return {
        name: TensorInfo(name, found[name].tensor_type.name, shape, int(found[name].n_bytes))
        for name, shape in shapes.items()
    }
