"""From a checkpoint alone to a model file, one tensor in memory at a time.

The file proves itself before it appears: PyTorch, with weights that are streamed as well, answers
golden inputs, and so does the runtime with the new file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from actquant.allocation.allocate import RECIPES, UNIFORM, Budget, TensorSize, allocate
from actquant.capture.policy import (
    CapturedPolicy,
    capture_policy,
    matrices_of_fixed_type,
    quantizable,
)
from actquant.common.clock import Clock
from actquant.common.errors import BudgetError, CheckpointError, ModelFileError, ParityError
from actquant.compression.artifacts import atomic_path, hash_json
from actquant.compression.assemble import FIXED_TYPE, SMALLEST, compact_golden, tensor_reports
from actquant.compression.compress import CompressionReport
from actquant.encoders.blocks import encode
from actquant.fidelity.parity import F32_THRESHOLD, ParityReport, measure_parity, reference_actions
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.format.encoding import DeferredEncoding, matrix_shape
from actquant.format.model_file import model_bytes, with_metadata, write_model
from actquant.format.tensor_types import file_bytes, get_format
from actquant.policies import LoadedPolicy, QuantizableTensor, load_policy

VERIFY = {"none": 0, "quick": 2, "full": 16}
"""How many golden inputs prove a conversion. Their prompts differ in length, and the second has a
masked camera where the policy allows it."""
LIMITS = {"F32": F32_THRESHOLD, "F16": 5e-3, "BF16": 4e-2}
"""On the rms of the worst chunk relative to the actions' rms, where all matrices have this type.

ggml rounds the activations as it rounds the weights: to 11 bits for F16, to 8 for BF16. Files with
blocks below that are not judged: their error is what the recipe makes it. For them the captured
program is, run in float32.
"""
NUMBER_CHARACTERS = 18
"""Of a float32 in JSON, with its comma."""
LONGEST_NUMBER = 1.23456e-05


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    recipe: str,
    bpw: float | None = None,
    verify: str = "quick",
    control_rate_hz: float | None = None,
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> CompressionReport:
    """Write the GGUF `out` by a recipe that needs no dataset: `rtn` with a budget, or of UNIFORM.

    checkpoint, control_rate_hz, the names and options: as of `load_policy`. bpw: bits per weight of
    the whole file, for `rtn`. verify: of VERIFY; without, the file has no golden values. An
    existing file is replaced at the very end.

    Raises CheckpointError, CaptureError, BudgetError (with the feasible range), QuantizationError,
    ModelFileError, ParityError (the file or its program does not agree with PyTorch: nothing is
    written).
    """
    out = Path(out)
    _check(out, recipe, bpw, verify)
    clock = Clock(progress)
    with clock("load"):
        loaded = load_policy(
            checkpoint,
            control_rate_hz=control_rate_hz,
            state_names=state_names,
            action_names=action_names,
            options=options,
            streamed=True,
        )
    if loaded.control_rate_hz is None:
        raise CheckpointError(f"{checkpoint} does not say its control rate; give it in Hz")
    with clock("capture"):
        captured, tensors = capture_policy(loaded), quantizable(loaded)
    chosen = {"bpw": None if recipe in UNIFORM else bpw}
    provenance = {
        **captured.metadata.provenance,
        "recipe": recipe,
        "recipe_sha256": hash_json({"recipe": recipe, **chosen}),
        "settings": chosen,
        "verified": verify,
    }
    job = _Conversion(loaded, captured, tensors, provenance, recipe, VERIFY[verify], clock)
    return job.run(out, bpw)


def _check(out: Path, recipe: str, bpw: float | None, verify: str) -> None:
    if recipe not in RECIPES:
        raise BudgetError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    if recipe not in ("rtn", *UNIFORM):
        raise BudgetError(f"recipe {recipe} needs a dataset; without: rtn, {', '.join(UNIFORM)}")
    if recipe == "rtn" and bpw is None:
        raise BudgetError(f"recipe {recipe} needs a budget in bits per weight")
    if verify not in VERIFY:
        raise ParityError(f"unknown verification {verify!r}; known: {', '.join(VERIFY)}")
    if out.is_dir():
        raise ModelFileError(f"{out} is a folder; give the path of the file to write")


@dataclass
class _Conversion:
    loaded: LoadedPolicy
    captured: CapturedPolicy
    tensors: Sequence[QuantizableTensor]
    provenance: dict[str, Any]
    recipe: str
    golden_inputs: int
    clock: Clock
    errors: dict[str, float] = field(default_factory=dict)

    def run(self, out: Path, bpw: float | None) -> CompressionReport:
        kept = self.captured.single_precision
        sizes = [
            TensorSize(t.name, *t.shape, layer=t.layer, single_precision=t.name in kept)
            for t in self.tensors
        ]
        budget = self._budget(sizes, bpw)
        allocation = allocate(sizes, self.recipe, budget)
        with atomic_path(out) as temporary:
            with self.clock("write", shown=False):
                given = self._contents(sizes, allocation.types)
                write_model(temporary, **given, progress=self.clock.progress)
            with self.clock("verify"):
                program, file = self._verify(temporary)
            reports = tensor_reports(self.tensors, sizes, allocation.types, self.errors)
            shown = {"type", "bits", "score", "error"}
            with_metadata(
                temporary,
                allocation={r.name: r.model_dump(include=shown) for r in reports},
                golden=[] if file is None else compact_golden(file),
            )
        return CompressionReport.of_file(
            out,
            allocation,
            sizes,
            budget,
            self.captured.metadata.parameter_count,
            recipe=self.recipe,
            held_out=None,
            capture=self.captured.report,
            parity={} if program is None else without_golden(program),
            file_error=None if file is None else file.worst_rms,
            tensors=reports,
            timings_s=self.clock.timings_s,
            reused=[],
            unreached=[],
            provenance=self.provenance,
        )

    def _budget(self, sizes: Sequence[TensorSize], bpw: float | None) -> Budget | None:
        if self.recipe in UNIFORM or bpw is None:
            return None
        smallest = {size.name: SMALLEST for size in sizes}
        whole = model_bytes(**self._contents(sizes, smallest))
        chosen = sum(file_bytes(s.rows, s.columns, SMALLEST) for s in sizes)
        return Budget(bpw, self.captured.metadata.parameter_count, whole - chosen)

    def _contents(self, sizes: Sequence[TensorSize], types: Mapping[str, str]) -> dict[str, Any]:
        """What `write_model` takes. What is known only later has its room."""
        uniform = UNIFORM.get(self.recipe)
        plain = uniform is not None and get_format(uniform).grid == "float"
        encodings = {} if plain else {s.name: self._deferred(s.name, types[s.name]) for s in sizes}
        if not plain:
            for name in matrices_of_fixed_type(self.loaded):
                encodings[name] = self._deferred(name, FIXED_TYPE)
        longest = dict.fromkeys(types, SMALLEST)
        errors = dict.fromkeys(types, LONGEST_NUMBER)
        allocated = {
            report.name: report.model_dump(include={"type", "bits", "score", "error"})
            for report in tensor_reports(self.tensors, sizes, longest, errors)
        }
        face = self.loaded.interface
        numbers = 2 * face.chunk_length * len(face.action_names) * NUMBER_CHARACTERS
        camera_characters = sum(len(camera) + 4 for camera in face.cameras)
        return {
            "stages": self.captured.stages,
            "encodings": encodings,
            "metadata": replace(
                self.captured.metadata, provenance=self.provenance, allocation=allocated
            ),
            "tensor_names": self.captured.tensor_names,
            "float_type": uniform if plain else "F32",
            "single_precision": self.captured.single_precision,
            "room": {"golden": self.golden_inputs * (numbers + camera_characters + 400)},
        }

    def _deferred(self, name: str, type_name: str) -> DeferredEncoding:
        shape = matrix_shape(self.captured.params.shape(name))

        def make() -> np.ndarray:
            weight = self.captured.params[name].reshape(shape).numpy()
            encoded = encode(name, weight, type_name)
            self.errors[name] = encoded.error
            return encoded.tensor.data

        return DeferredEncoding(type_name, shape, make)

    def _verify(self, path: Path) -> tuple[ParityReport | None, ParityReport | None]:
        """(the captured program in float32, the file) against PyTorch.

        Raises ParityError if what is judged passes its limit.
        """
        if not self.golden_inputs:
            return None, None
        limit = LIMITS.get(UNIFORM.get(self.recipe, ""))
        reference = reference_actions(self.loaded, n=self.golden_inputs)
        n = self.golden_inputs
        file = measure_parity(
            path, self.loaded, n=n, threshold=limit or np.inf, reference=reference
        )
        program = file
        if limit is None:
            runner = ReferenceRunner(self.loaded.interface, self.captured.stages)
            program = measure_parity(path, self.loaded, n=n, runner=runner, reference=reference)
        for report in (program, file):
            if not report.passed:
                raise ParityError(f"{path.name} does not compute what PyTorch computes: {report}")
        return program, file


def without_golden(report: ParityReport) -> dict[str, Any]:
    return {key: value for key, value in asdict(report).items() if key != "golden"}
