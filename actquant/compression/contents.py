"""What goes into one file, and how much of its budget is no choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from actquant.allocation.budget import Budget, TensorSize
from actquant.capture.policy import CapturedPolicy
from actquant.compression.encodings import FIXED_TYPE
from actquant.compression.report import STORED, TensorReport, tensor_reports
from actquant.format.encoding import DeferredEncoding, Encoding, matrix_shape
from actquant.format.model_file import model_bytes, read_model, with_metadata, write_model
from actquant.format.tensor_types import file_bytes
from actquant.policies.base import QuantizableTensor

SMALLEST = "IQ2_XXS"
USUAL_NUMBER, LONGEST_NUMBER = 0.123456, 1.23456e-05
"""Scores and errors, rounded to six digits, are about as long in JSON, and never longer."""
GROWTH_BYTES = 256
"""Golden values, scores and errors may be longer by this much than what was planned."""


@dataclass(frozen=True)
class FileContents:
    """What every version of a file shares, whatever the types of its tensors.

    tensors: in forward order, as `sizes` of all methods; fixed: matrices that no recipe chooses a
    type for; scored: whether there may be scores; float_type: of all matrices where the file has no
    blocks; golden_bytes: planned for the JSON of the golden values; number: as long in JSON as is
    planned for each score and error; growth_bytes: by which both may grow.
    """

    captured: CapturedPolicy
    tensors: Sequence[QuantizableTensor]
    fixed: Sequence[str]
    provenance: dict[str, Any]
    scored: bool
    float_type: str | None
    golden_bytes: int
    number: float
    growth_bytes: int

    def budget(self, bpw: float, sizes: Sequence[TensorSize]) -> Budget:
        """Returns the budget, with the bytes that are no choice: what the file takes when all
        tensors have SMALLEST, without those tensors. Nothing is encoded for it.

        Raises BudgetError if bpw is not a positive number.
        """
        smallest: dict[str, Encoding] = {
            s.name: DeferredEncoding(SMALLEST, (s.rows, s.columns), _never) for s in sizes
        }
        for name in self.fixed:
            shape = matrix_shape(self.captured.params.shape(name))
            smallest[name] = DeferredEncoding(FIXED_TYPE, shape, _never)
        whole = model_bytes(**self._file(self._planned(sizes), smallest))
        chosen = sum(file_bytes(s.rows, s.columns, SMALLEST) for s in sizes)
        fixed = whole - chosen + self.growth_bytes
        return Budget(bpw, self.captured.metadata.parameter_count, fixed)

    def write(
        self,
        path: Path,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        encodings: Mapping[str, Encoding],
        errors: Mapping[str, float],
        values: Mapping[str, np.ndarray],
        progress: Progress | None,
    ) -> None:
        """Writes the file without golden values, whose bytes are reserved.

        errors: those of `encodings`; the bytes of what is not yet known are reserved too. values:
        of parameters that were tuned.
        """
        known = len(errors) == len(types)
        reports = tensor_reports(self.tensors, sizes, types, errors)
        allocation = _stored(reports) if known else self._planned(sizes)
        write_model(path, **self._file(allocation, encodings), values=values, progress=progress)

    def finish(
        self,
        path: Path,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        errors: Mapping[str, float],
        golden: list[dict[str, Any]],
        provenance: Mapping[str, Any],
    ) -> list[TensorReport]:
        """Gives a written file its tensors' errors, its golden values, and what of its provenance
        is known only now.

        Golden values for which no bytes are left are left out, from the end.
        """
        reports = tensor_reports(self.tensors, sizes, types, errors)
        allocation, kept = _stored(reports), list(golden)
        planned = len(json.dumps(self._planned(sizes))) + self.golden_bytes + self.growth_bytes
        while kept and len(json.dumps(allocation)) + len(json.dumps(kept)) > planned:
            kept.pop()
        whole = {**read_model(path).metadata.provenance, **provenance}
        with_metadata(path, allocation=allocation, golden=kept, provenance=whole)
        return reports

    def _planned(self, sizes: Sequence[TensorSize]) -> dict[str, Any]:
        """Returns an allocation as long in JSON as what is planned for it."""
        score = self.number if self.scored else 0.0
        weighed = [replace(size, score=score) for size in sizes]
        names = [size.name for size in sizes]
        types, errors = dict.fromkeys(names, SMALLEST), dict.fromkeys(names, self.number)
        return _stored(tensor_reports(self.tensors, weighed, types, errors))

    def _file(
        self, allocation: dict[str, Any], encodings: Mapping[str, Encoding]
    ) -> dict[str, Any]:
        """What `write_model` and `model_bytes` take."""
        return {
            "stages": self.captured.stages,
            "encodings": encodings,
            "metadata": replace(
                self.captured.metadata,
                provenance=self.provenance,
                allocation=allocation,
                golden=[],
            ),
            "tensor_names": self.captured.tensor_names,
            "float_type": self.float_type or "F32",
            "single_precision": self.captured.single_precision,
            "reserved_bytes": {"golden": self.golden_bytes},
        }


def _stored(reports: Sequence[TensorReport]) -> dict[str, Any]:
    return {report.name: report.model_dump(include=set(STORED)) for report in reports}


def _never() -> np.ndarray:
    raise AssertionError("what is only weighed is not encoded")
