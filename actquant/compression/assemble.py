"""From a type for every tensor to one file that is within the budget and knows its own answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.allocation.allocate import UNIFORM, Allocation, Budget, TensorSize, allocate
from actquant.capture.policy import CapturedPolicy, matrices_of_fixed_type
from actquant.common.errors import BudgetError
from actquant.encoders.blocks import Encoded, encode
from actquant.fidelity.parity import ParityReport, measure_parity
from actquant.format.encoding import DeferredEncoding, EncodedTensor, Encoding, matrix_shape
from actquant.format.model_file import model_bytes, with_golden, write_model
from actquant.format.tensor_types import file_bytes, get_format
from actquant.policies.base import LoadedPolicy, QuantizableTensor

GOLDEN_INPUTS = 16
ATTEMPTS = 4
MARGIN_BYTES = 256
"""Numbers in the metadata vary in length by about this much in all."""
SMALLEST = "IQ2_XXS"
FIXED_TYPE = "Q8_0"
"""Of embedding tables and patch convolutions: read once per inference, and every action hangs on
them, so no recipe gambles with them."""

Encode = Callable[[Allocation, Mapping[str, Encoded]], dict[str, Encoded]]
"""(types, tensors encoded before) -> the tensors in these types."""


class TensorReport(BaseModel):
    """One quantized tensor: bits per weight of its type, its sensitivity, and the share of its
    (importance-weighted) squared norm that encoding lost."""

    model_config = ConfigDict(extra="forbid")

    name: str
    type: str
    bits: float
    rows: int
    columns: int
    layer: str
    group: str
    score: float
    error: float


@dataclass(frozen=True)
class Assembly:
    """What every version of the file shares.

    tensors: in forward order, as `sizes` of all methods. golden: what the files carry until they
    have run themselves (the f32 program's answers).
    """

    loaded: LoadedPolicy
    captured: CapturedPolicy
    tensors: Sequence[QuantizableTensor]
    provenance: dict[str, Any]
    parity: ParityReport

    @cached_property
    def fixed(self) -> dict[str, EncodedTensor]:
        """The matrices that no recipe chooses a type for, in FIXED_TYPE."""
        return {
            name: encode(name, self._matrix(name), FIXED_TYPE).tensor
            for name in matrices_of_fixed_type(self.loaded)
        }

    def _matrix(self, name: str) -> np.ndarray:
        weight = self.captured.params[name].detach()
        return weight.reshape(matrix_shape(weight.shape)).numpy()

    def fixed_bytes(self, sizes: Sequence[TensorSize]) -> int:
        """The bytes that are no choice: what the file takes when all tensors have SMALLEST, without
        those tensors. Nothing is encoded for it."""
        scored = [replace(size, score=0.123456) for size in sizes]
        fixed = {
            name: DeferredEncoding(
                FIXED_TYPE, matrix_shape(self.captured.params.shape(name)), _never
            )
            for name in matrices_of_fixed_type(self.loaded)
        }
        smallest = {s.name: DeferredEncoding(SMALLEST, (s.rows, s.columns), _never) for s in sizes}
        reports = tensor_reports(
            self.tensors,
            scored,
            dict.fromkeys(smallest, SMALLEST),
            dict.fromkeys(smallest, 0.123456),
        )
        whole = model_bytes(**self._contents(reports, {**smallest, **fixed}, "F16"))
        return whole - sum(file_bytes(s.rows, s.columns, SMALLEST) for s in sizes) + MARGIN_BYTES

    def fit(
        self,
        path: Path,
        sizes: Sequence[TensorSize],
        recipe: str,
        budget: Budget | None,
        encode: Encode,
    ) -> tuple[Allocation, dict[str, Encoded]]:
        """Allocate, encode, write and weigh; if the file came out larger than foreseen (numbers in
        its metadata vary in length), do it again with the fixed bytes that were found.

        Raises BudgetError if the budget cannot be met.
        """
        encoded: dict[str, Encoded] = {}
        excess = 0
        for attempt in range(1, ATTEMPTS + 1):
            allocation = allocate(sizes, recipe, budget)
            encoded = encode(allocation, encoded)
            plain = get_format(UNIFORM.get(recipe, FIXED_TYPE)).grid == "float"
            fixed = {} if plain else self.fixed
            float_type = UNIFORM[recipe] if plain else "F16"
            self.write(path, sizes, allocation.types, encoded, fixed, float_type)
            own = measure_parity(path, self.loaded, n=GOLDEN_INPUTS)
            with_golden(path, compact_golden(own))
            if budget is None:
                return allocation, encoded
            size = path.stat().st_size
            excess = size - budget.total_bytes
            if excess <= 0:
                return allocation, encoded
            foreseen = size - allocation.file_bytes + (attempt + 1) * MARGIN_BYTES
            budget = replace(budget, fixed_bytes=foreseen)
        raise BudgetError(f"after {ATTEMPTS} attempts the file is still {excess} bytes too large")

    def write(
        self,
        path: Path,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        encoded: Mapping[str, Encoded],
        fixed: Mapping[str, EncodedTensor],
        float_type: str = "F16",
    ) -> None:
        """Write the file with the f32 program's golden outputs; matrices in neither mapping have
        the float type."""
        encodings = {name: item.tensor for name, item in encoded.items()} | dict(fixed)
        reports = self.reports(sizes, types, encoded)
        write_model(path, **self._contents(reports, encodings, float_type))

    def _contents(
        self,
        reports: Sequence[TensorReport],
        encodings: Mapping[str, Encoding],
        float_type: str,
    ) -> dict[str, Any]:
        """What `write_model` takes, with the f32 program's golden outputs."""
        shown = {"type", "bits", "score", "error"}
        return {
            "stages": self.captured.stages,
            "encodings": encodings,
            "metadata": replace(
                self.captured.metadata,
                provenance=self.provenance,
                allocation={r.name: r.model_dump(include=shown) for r in reports},
                golden=compact_golden(self.parity),
            ),
            "tensor_names": self.captured.tensor_names,
            "float_type": float_type,
            "single_precision": self.captured.single_precision,
        }

    def reports(
        self,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        encoded: Mapping[str, Encoded],
    ) -> list[TensorReport]:
        errors = {name: item.error for name, item in encoded.items()}
        return tensor_reports(self.tensors, sizes, types, errors)


def tensor_reports(
    tensors: Sequence[QuantizableTensor],
    sizes: Sequence[TensorSize],
    types: Mapping[str, str],
    errors: Mapping[str, float],
) -> list[TensorReport]:
    """One report a tensor; a tensor without an error was stored as it is, or rounded to a float."""
    return [
        TensorReport(
            name=tensor.name,
            type=types[tensor.name],
            bits=get_format(types[tensor.name]).bits_per_weight,
            rows=size.rows,
            columns=size.columns,
            layer=tensor.layer,
            group=tensor.group,
            score=float(f"{size.score:.6g}"),
            error=float(f"{errors.get(tensor.name, 0.0):.6g}"),
        )
        for tensor, size in zip(tensors, sizes, strict=True)
    ]


def _never() -> np.ndarray:
    raise AssertionError("what is only weighed is not encoded")


def compact_golden(parity: ParityReport) -> list[dict[str, Any]]:
    """The first golden items, each float32 in its shortest decimal form."""

    def shorten(rows: list[list[float]]) -> list[list[float]]:
        return [[float(str(np.float32(value))) for value in row] for row in rows]

    return [
        {
            **item,
            "actions": shorten(item["actions"]),
            "actions_reference": shorten(item["actions_reference"]),
        }
        for item in parity.golden[:GOLDEN_INPUTS]
    ]
