"""Proof that program and file compute what PyTorch computes, and the golden values of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actquant.calibration.work_folder import Contents, WorkFolder
from actquant.capture.policy import CapturedPolicy, convert_f32
from actquant.common.errors import ParityError
from actquant.compression.programs import sources_of_programs
from actquant.encoders.blocks import encoders_sha256
from actquant.fidelity.distance import Distance
from actquant.fidelity.parity import (
    F32_THRESHOLD,
    ParityReport,
    check_parity,
    measure_parity,
    reference_actions,
)
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.policies.base import LoadedPolicy

LIMITS = {"F32": F32_THRESHOLD, "F16": 4e-2, "BF16": 4e-2}
"""On the distance of the worst chunk, where all matrices have this type.

ggml rounds the activations as it rounds the weights: to 11 bits for F16, to 8 for BF16. In F16
networks that are trained from scratch stay below 5e-3, a policy on a pretrained language model
reached 2.4e-2 (mean 2e-3). Files with blocks below that are not judged: their error is what the
recipe makes it. For them the captured program is, run in float32.
"""
NUMBER_CHARACTERS = 18
"""Of a float32 in JSON, with its comma."""


STAGE = "proof"
"""Of what is kept."""
SCRATCH = "f32-*.gguf"
"""Files in a work folder that only a process that lives needs: `*` is its number."""


@dataclass(frozen=True)
class Proof:
    """Compares a policy's program and its file with PyTorch on the same golden inputs.

    inputs: how many, 0 for no proof; float_type: of all matrices of the file, None where it has
    blocks.
    """

    loaded: LoadedPolicy
    captured: CapturedPolicy
    inputs: int
    float_type: str | None
    work: WorkFolder | None

    @cached_property
    def _reference(self) -> np.ndarray:
        """PyTorch's chunks [n, H, A], kept in the work folder."""
        if self.work is None:
            return reference_actions(self.loaded, n=self.inputs)
        sources = {**sources_of_programs(self.loaded), "inputs": str(self.inputs)}
        kept, _ = self.work.build(
            STAGE,
            "reference",
            sources,
            lambda: ({"actions": reference_actions(self.loaded, n=self.inputs)}, {}),
        )
        return kept.arrays["actions"]

    def prove_program(self) -> ParityReport | None:
        """Runs the program with f32 weights: in the C++ runtime where there is a work folder for a
        file of them, which keeps what was found, else in the interpreter of the format.

        Returns None where nothing is asked for, and where the interpreter would only repeat what
        the file itself is judged by. Raises ParityError.
        """
        if not self.inputs:
            return None
        if self.work is not None:
            return self._proved_before(self.work)
        if self.float_type is not None:
            return None
        runner = ReferenceRunner(self.loaded.interface, self.captured.stages)
        return self._check(Path("the captured program"), runner)

    def _proved_before(self, work: WorkFolder) -> ParityReport:
        """Returns what was found of the same program and runtime, or finds it."""

        def prove() -> Contents:
            with work.scratch(SCRATCH.replace("*", str(os.getpid()))) as path:
                report = self._check(convert_f32(self.loaded, path), None)
            return {}, {**asdict(report), "distance": report.distance.model_dump()}

        sources = {
            **sources_of_programs(self.loaded),
            "inputs": str(self.inputs),
            "runtime": encoders_sha256(),
        }
        kept, _ = work.build(STAGE, "program", sources, prove)
        distance = Distance.model_validate(kept.info["distance"])
        return ParityReport(**{**kept.info, "distance": distance})

    def _check(self, path: Path, runner: ReferenceRunner | None) -> ParityReport:
        return check_parity(
            path, self.loaded, n=self.inputs, runner=runner, reference=self._reference
        )

    def prove_file(self, path: Path) -> ParityReport | None:
        """Runs the file in the C++ runtime; judges it where its type has a limit.

        Returns None where nothing is asked for. Raises ParityError.
        """
        if not self.inputs:
            return None
        limit = LIMITS.get(self.float_type or "")
        report = measure_parity(
            path, self.loaded, n=self.inputs, threshold=limit, reference=self._reference
        )
        if not report.distance.passed:
            raise ParityError(f"{path.name} does not compute what PyTorch computes: {report}")
        return report

    def longest_golden_bytes(self) -> int:
        """Returns an upper bound on the JSON of the golden values."""
        face = self.loaded.interface
        numbers = 2 * face.chunk_length * len(face.action_names) * NUMBER_CHARACTERS
        camera_characters = sum(len(camera) + 4 for camera in face.cameras)
        return self.inputs * (numbers + camera_characters + 400)


def golden_values(report: ParityReport | None) -> list[dict[str, Any]]:
    """Returns what a file stores of its proof, each float32 in its shortest decimal form."""

    def shorten(rows: Sequence[Sequence[float]]) -> list[list[float]]:
        return [[float(str(np.float32(value))) for value in row] for row in rows]

    return [
        {
            **item,
            "actions": shorten(item["actions"]),
            "actions_reference": shorten(item["actions_reference"]),
        }
        for item in (report.golden if report else ())
    ]
