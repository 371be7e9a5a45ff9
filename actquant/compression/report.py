"""What a compression made, how large it is and how it was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.capture.report import CaptureReport
from actquant.fidelity.action_error import ActionError
from actquant.fidelity.distance import Distance
from actquant.format.model_file import read_model
from actquant.format.tensor_types import get_format
from actquant.policies.base import QuantizableTensor
from actquant.tuning.tune import TuningReport

STORED = frozenset(("type", "bits", "score", "error"))
"""Fields of a TensorReport that the file itself holds."""


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


def tensor_reports(
    tensors: Sequence[QuantizableTensor],
    sizes: Sequence[TensorSize],
    types: Mapping[str, str],
    errors: Mapping[str, float],
) -> list[TensorReport]:
    """Returns a report a tensor; one without an error was stored as it is, or rounded to a float.

    tensors, sizes: in the same order; types, errors: by name.
    """
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


class CompressionReport(BaseModel):
    """What was made, how large it is and how it was found.

    Bits per weight come in two kinds: whole_file_bpw is 8 x file bytes / all parameters of the
    policy, quantized_tensor_bpw counts the quantized tensors alone. program_error, file_error: how
    far the program in f32 and the file are from PyTorch on golden inputs. held_out: how far the
    file is on frames of the dataset, in the same unit. capture: the programs, and what the file
    does without. tuning: what it changed, None for a recipe that is not tuned. reused: statistics,
    and `encoding`, that were all in the work folder already. unreached: tensors whose curvature is
    zero throughout (no gradient came to them), encoded as if all weights counted the same.
    remarks: what could not be done and why, and what to know of the checkpoint. processes: how many
    shared the work.
    """

    model_config = ConfigDict(extra="forbid")

    path: str
    recipe: str
    bpw_budget: float | None
    file_bytes: int
    whole_file_bpw: float
    quantized_tensor_bpw: float
    parameter_count: int
    quantized_parameter_count: int
    fixed_bytes: int
    held_out: ActionError | None
    program_error: Distance | None
    file_error: Distance | None
    capture: CaptureReport
    tensors: list[TensorReport]
    tuning: TuningReport | None
    timings_s: dict[str, float]
    reused: list[str]
    unreached: list[str]
    remarks: list[str] = []
    processes: int = 1
    provenance: dict[str, Any]

    @classmethod
    def of_file(
        cls,
        path: Path,
        allocation: Allocation,
        sizes: Sequence[TensorSize],
        budget: Budget | None,
        parameter_count: int,
        **found: Any,
    ) -> "CompressionReport":
        """Returns the report of a file that is written, with an allocation of tensors of these
        sizes. found: the fields that do not follow from them."""
        size = path.stat().st_size
        quantized_bpw = read_model(path).quantized_bits_per_weight
        return cls(
            path=str(path),
            bpw_budget=None if budget is None else budget.bpw,
            file_bytes=size,
            whole_file_bpw=8 * size / parameter_count,
            quantized_tensor_bpw=quantized_bpw or allocation.quantized_bpw,
            parameter_count=parameter_count,
            quantized_parameter_count=sum(s.rows * s.columns for s in sizes),
            fixed_bytes=size - allocation.file_bytes,
            **found,
        )

    @property
    def held_out_action_error(self) -> float | None:
        return None if self.held_out is None else self.held_out.to_reference
