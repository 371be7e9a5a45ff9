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
from actquant.format.model_file import model_bytes, with_metadata, write_model
from actquant.format.tensor_types import file_bytes
from actquant.policies.base import QuantizableTensor

SMALLEST = "IQ2_XXS"
LONGEST_NUMBER = 1.23456e-05
"""No score and no error, rounded to six digits, is longer in JSON."""
GOLDEN_GROWTH_BYTES = 256
"""A file's own golden values may be longer by this much than those it was planned with."""


@dataclass(frozen=True)
class FileContents:
    """What every version of a file shares, whatever the types of its tensors.

    tensors: in forward order, as `sizes` of all methods; fixed: matrices that no recipe chooses a
    type for; scored: whether the recipe gives scores; float_type: of all matrices where the file
    has no blocks; golden_bytes: reserved for the JSON of the golden values; golden_limit_bytes:
    what it may take at most.
    """

    captured: CapturedPolicy
    tensors: Sequence[QuantizableTensor]
    fixed: Sequence[str]
    provenance: dict[str, Any]
    scored: bool
    float_type: str | None
    golden_bytes: int
    golden_limit_bytes: int

    def budget(self, bpw: float, sizes: Sequence[TensorSize]) -> Budget:
        """Returns the budget, with the bytes that are no choice: what the file takes when all
        tensors have SMALLEST, without those tensors. Nothing is encoded for it.

        Raises BudgetError if bpw is not a positive number.
        """
        score = LONGEST_NUMBER if self.scored else 0.0
        weighed = [replace(size, score=score) for size in sizes]
        smallest: dict[str, Encoding] = {
            s.name: DeferredEncoding(SMALLEST, (s.rows, s.columns), _never) for s in sizes
        }
        for name in self.fixed:
            shape = matrix_shape(self.captured.params.shape(name))
            smallest[name] = DeferredEncoding(FIXED_TYPE, shape, _never)
        whole = model_bytes(**self._file(weighed, dict.fromkeys(smallest, SMALLEST), smallest, {}))
        chosen = sum(file_bytes(s.rows, s.columns, SMALLEST) for s in sizes)
        growth = self.golden_limit_bytes - self.golden_bytes
        return Budget(bpw, self.captured.metadata.parameter_count, whole - chosen + growth)

    def write(
        self,
        path: Path,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        encodings: Mapping[str, Encoding],
        errors: Mapping[str, float],
        progress: Progress | None,
    ) -> None:
        """Writes the file without golden values, whose bytes are reserved.

        errors: those of `encodings`; the bytes of what is not yet known are reserved too.
        """
        write_model(path, **self._file(sizes, types, encodings, errors), progress=progress)

    def finish(
        self,
        path: Path,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        errors: Mapping[str, float],
        golden: list[dict[str, Any]],
    ) -> list[TensorReport]:
        """Gives a written file its tensors' errors and its golden values.

        Golden values beyond their limit are left out, from the end.
        """
        reports = tensor_reports(self.tensors, sizes, types, errors)
        kept = list(golden)
        while kept and len(json.dumps(kept)) > self.golden_limit_bytes:
            kept.pop()
        with_metadata(path, allocation=_stored(reports), golden=kept)
        return reports

    def _file(
        self,
        sizes: Sequence[TensorSize],
        types: Mapping[str, str],
        encodings: Mapping[str, Encoding],
        errors: Mapping[str, float],
    ) -> dict[str, Any]:
        """What `write_model` and `model_bytes` take."""
        predicted = {**dict.fromkeys(types, LONGEST_NUMBER), **errors}
        shown = types if len(errors) == len(types) else dict.fromkeys(types, SMALLEST)
        reports = tensor_reports(self.tensors, sizes, shown, predicted)
        return {
            "stages": self.captured.stages,
            "encodings": encodings,
            "metadata": replace(
                self.captured.metadata,
                provenance=self.provenance,
                allocation=_stored(reports),
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
