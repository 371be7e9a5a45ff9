"""From a checkpoint, and episodes of its robot where the recipe needs them, to one model file.

What a recipe needs decides what is loaded: statistics need the weights in memory and a dataset;
without either, the weights stay on disk and one tensor at a time passes through memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

from rich.progress import Progress

from actquant.allocation.budget import Allocation, TensorSize
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import CalibrationData, calibrate
from actquant.calibration.statistics import MEMORY_BYTES, Statistics, collect
from actquant.calibration.work_folder import WorkFolder
from actquant.capture.policy import (
    CapturedPolicy,
    capture_policy,
    matrices_of_fixed_type,
    quantizable,
)
from actquant.common.clock import Clock
from actquant.common.errors import (
    BudgetError,
    CheckpointError,
    DatasetError,
    ModelFileError,
    ParityError,
)
from actquant.common.files import atomic_path, hash_json, hash_path
from actquant.compression.contents import (
    GROWTH_BYTES,
    LONGEST_NUMBER,
    USUAL_NUMBER,
    FileContents,
)
from actquant.compression.encodings import TensorEncoder
from actquant.compression.proof import VERIFY, Proof, golden_values
from actquant.compression.report import CompressionReport
from actquant.fidelity.action_error import ActionError, measure_action_error, runtime_act
from actquant.fidelity.distance import Distance
from actquant.fidelity.parity import ParityReport
from actquant.policies import LoadedPolicy, QuantizableTensor, load_policy
from actquant.recipes import RECIPES, Recipe, find_recipe
from actquant.recipes.settings import CompressionSettings


class CheckpointFacts(TypedDict, total=False):
    """What a checkpoint may leave open (see `load_policy`); a dataset says all but the options."""

    control_rate_hz: float | None
    state_names: Sequence[str] | None
    action_names: Sequence[str] | None
    options: Mapping[str, Any] | None


def compress(
    checkpoint: str | Path,
    out: str | Path,
    *,
    recipe: str = "paper",
    dataset: str | Path | None = None,
    bpw: float | None = None,
    verify: str = "quick",
    work: str | Path | None = None,
    seed: int = 0,
    settings: CompressionSettings | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
    **facts: Unpack[CheckpointFacts],
) -> CompressionReport:
    """Compresses a checkpoint into the GGUF `out`, at most `bpw` bits per weight of the whole file.

    recipe: of RECIPES; dataset: folder of a LeRobotDataset, for recipes that need statistics and to
    measure the action error; bpw: 8 x file bytes / parameters, for recipes that need a budget;
    verify: of VERIFY, without a dataset (with one it is always `full`); work: folder of resumable
    artefacts, which may be shared between recipes and budgets (with a dataset the default is `out`
    with `.work` appended; without one nothing is kept); memory_bytes: what the statistics of one
    pass may take; facts: see CheckpointFacts. An existing file is replaced at the very end, when
    the new one is whole and within the budget.

    Raises CheckpointError, DatasetError, CalibrationError, CaptureError, ParityError (the program
    or the file does not agree with PyTorch: nothing is written), BudgetError (with the feasible
    range, before anything slow), QuantizationError, ModelFileError.
    """
    out, chosen, settings = Path(out), find_recipe(recipe), settings or CompressionSettings()
    _check(out, chosen, dataset, bpw, verify)
    budget_bpw = bpw if chosen.needs_budget else None
    clock = Clock(progress)
    with clock("load"):
        loaded, data = _load(checkpoint, dataset, chosen, facts, settings, seed)
    with clock("capture"):
        captured, tensors = capture_policy(loaded), quantizable(loaded)
    folder = work or (out.with_name(out.name + ".work") if dataset else None)
    job = _Job(
        loaded=loaded,
        captured=captured,
        tensors=tensors,
        recipe=chosen,
        data=data,
        work=WorkFolder(Path(folder)) if folder else None,
        settings=settings,
        seed=seed,
        memory_bytes=memory_bytes,
        inputs=VERIFY[verify if data is None else "full"],
        provenance=_provenance(captured, chosen, budget_bpw, data, settings, seed, verify),
        clock=clock,
    )
    return job.run(out, budget_bpw)


def _check(
    out: Path, recipe: Recipe, dataset: str | Path | None, bpw: float | None, verify: str
) -> None:
    """Raises for what can be refused before anything is read."""
    if recipe.statistics and dataset is None:
        others = ", ".join(r.name for r in RECIPES.values() if not r.statistics)
        raise BudgetError(f"recipe {recipe.name} needs a dataset; without: {others}")
    if recipe.needs_budget and bpw is None:
        raise BudgetError(f"recipe {recipe.name} needs a budget in bits per weight")
    if verify not in VERIFY:
        raise ParityError(f"unknown verification {verify!r}; known: {', '.join(VERIFY)}")
    if out.is_dir():
        raise ModelFileError(f"{out} is a folder; give the path of the file to write")


def _load(
    checkpoint: str | Path,
    dataset: str | Path | None,
    recipe: Recipe,
    facts: CheckpointFacts,
    settings: CompressionSettings,
    seed: int,
) -> tuple[LoadedPolicy, CalibrationData | None]:
    """Loads the policy, and the dataset if there is one.

    Weights are in memory where statistics need their gradients; without a dataset they stay on
    disk; with one that only measures errors, `load_policy` decides by their size.
    """
    if dataset is None:
        loaded = load_policy(checkpoint, **facts, streamed=True)
        if loaded.control_rate_hz is None:
            raise CheckpointError(f"{checkpoint} does not say its control rate; give it in Hz")
        return loaded, None
    streamed = False if recipe.statistics else None
    options = facts.pop("options", None)
    if given := [name for name, value in facts.items() if value is not None]:
        raise DatasetError(f"{', '.join(given)}: the dataset {dataset} says it already")
    loaded = load_for_dataset(checkpoint, dataset, options=options, streamed=streamed)
    counts = {"n_frames": settings.n_frames, "n_held_out": settings.n_held_out}
    return loaded, calibrate(loaded, dataset, **counts, seed=seed)


def _provenance(
    captured: CapturedPolicy,
    recipe: Recipe,
    bpw: float | None,
    data: CalibrationData | None,
    settings: CompressionSettings,
    seed: int,
    verify: str,
) -> dict[str, Any]:
    """Returns what the file says of its making; without a dataset no seed or setting has a say."""
    chosen: dict[str, Any] = {"bpw": bpw}
    if data is not None:
        chosen = {"seed": seed, **chosen, **asdict(settings)}
    made = {
        "recipe": recipe.name,
        "recipe_sha256": hash_json({"recipe": recipe.name, **chosen}),
        "settings": chosen,
    }
    if data is None:
        return {**captured.metadata.provenance, **made, "verified": verify}
    return {
        **captured.metadata.provenance,
        "dataset": data.info.folder.resolve().name,
        "dataset_sha256": data.info.sha256,
        **made,
        "calibration_episodes": list(data.calibration_episodes),
        "held_out_episodes": list(data.held_out_episodes),
    }


def _distance(report: ParityReport | None) -> Distance | None:
    return None if report is None else report.distance


@dataclass
class _Job:
    """One compression after loading and capture."""

    loaded: LoadedPolicy
    captured: CapturedPolicy
    tensors: Sequence[QuantizableTensor]
    recipe: Recipe
    data: CalibrationData | None
    work: WorkFolder | None
    settings: CompressionSettings
    seed: int
    memory_bytes: int
    inputs: int
    provenance: dict[str, Any]
    clock: Clock
    reused: list[str] = field(default_factory=list)

    def run(self, out: Path, bpw: float | None) -> CompressionReport:
        """Makes the file and moves it to `out` when it has proved itself."""
        proof = Proof(self.loaded, self.captured, self.inputs, self.recipe.float_type, self.work)
        with self.clock("parity"):
            program = proof.prove_program()
        contents = self._contents(proof, program)
        sizes = self._sizes({})
        budget = None if bpw is None else contents.budget(bpw, sizes)
        allocation = self.recipe.allocate(sizes, budget)  # refuses a budget before the slow part
        statistics = self._statistics()
        if statistics is not None and self.recipe.scores is not None:
            sizes = self._sizes(self.recipe.scores(self.tensors, statistics, self.settings))
            allocation = self.recipe.allocate(sizes, budget)
        encoder = TensorEncoder(
            self.recipe, self.captured.params, statistics, self.work, self._sources()
        )
        if self.recipe.errors is not None:
            with self.clock("errors of types", shown=False):
                sizes = encoder.measured(sizes, self.clock.progress)
            allocation = self.recipe.allocate(sizes, budget)
        with atomic_path(out) as temporary:
            with self.clock("quantize", shown=False):
                self._write(temporary, contents, sizes, allocation, encoder)
            with self.clock("verify"):
                file = proof.prove_file(temporary)
            types, errors = allocation.types, encoder.errors
            reports = contents.finish(temporary, sizes, types, errors, golden_values(file))
            with self.clock("held-out error"):
                held_out = self._action_error(temporary)
        return CompressionReport.of_file(
            out,
            allocation,
            sizes,
            budget,
            self.captured.metadata.parameter_count,
            recipe=self.recipe.name,
            held_out=held_out,
            capture=self.captured.report,
            program_error=_distance(program or file),
            file_error=_distance(file),
            tensors=reports,
            timings_s=self.clock.timings_s,
            reused=self.reused,
            unreached=encoder.unguided,
            provenance=self.provenance,
        )

    def _contents(self, proof: Proof, program: ParityReport | None) -> FileContents:
        # Golden values, scores and errors of the file are about as long as those planned; without a
        # work folder they must not be longer, since the file is too large to be written again.
        golden_bytes, number, growth_bytes = proof.longest_golden_bytes(), LONGEST_NUMBER, 0
        if program is not None and self.work is not None:
            golden_bytes = len(json.dumps(golden_values(program)))
            number, growth_bytes = USUAL_NUMBER, GROWTH_BYTES
        return FileContents(
            captured=self.captured,
            tensors=self.tensors,
            fixed=() if self.recipe.float_type else matrices_of_fixed_type(self.loaded),
            provenance=self.provenance,
            scored=self.data is not None,  # so that all recipes have one budget
            float_type=self.recipe.float_type,
            golden_bytes=golden_bytes,
            number=number,
            growth_bytes=growth_bytes,
        )

    def _sizes(self, scores: Mapping[str, float]) -> list[TensorSize]:
        kept = self.captured.single_precision
        return [
            TensorSize(t.name, *t.shape, t.layer, scores.get(t.name, 0.0), t.name in kept)
            for t in self.tensors
        ]

    def _sources(self) -> dict[str, str]:
        """Hashes of everything that statistics and encodings depend on."""
        config = self.loaded.folder / "config.json"
        sources = {
            "checkpoint": self.loaded.checkpoint_sha256,
            "config": hash_path(config) if config.is_file() else "",
        }
        if self.data is None or not self.recipe.statistics:
            return sources
        settings = {"draws": self.settings.draws, "batch_size": self.settings.batch_size}
        return {
            **sources,
            "interface": hash_json(asdict(self.loaded.interface)),
            "dataset": self.data.info.sha256,
            "frames": self.data.calibration.fingerprint,
            "tensors": hash_json([asdict(tensor) for tensor in self.tensors]),
            "settings": hash_json({"seed": self.seed, **settings}),
        }

    def _statistics(self) -> Statistics | None:
        if not self.recipe.statistics or self.data is None or self.work is None:
            return None
        with self.clock("statistics", shown=False):
            statistics = collect(
                self.loaded,
                self.tensors,
                self.data.calibration,
                self.recipe.statistics,
                self.work,
                self._sources(),
                draws=self.settings.draws,
                seed=self.seed,
                batch_size=self.settings.batch_size,
                memory_bytes=self.memory_bytes,
                progress=self.clock.progress,
            )
        self.reused += statistics.kept
        return statistics

    def _write(
        self,
        path: Path,
        contents: FileContents,
        sizes: Sequence[TensorSize],
        allocation: Allocation,
        encoder: TensorEncoder,
    ) -> None:
        types = allocation.types
        if self.work is not None:
            encoder.prepare(types, self.clock.progress)
            self.reused += ["encoding"] if encoder.all_kept else []
        # Without a work folder a file of floats is rounded as it is written.
        chosen = types if self.work is not None or self.recipe.float_type is None else {}
        encodings = {name: encoder.encoding(name, type_name) for name, type_name in chosen.items()}
        encodings |= {name: encoder.fixed(name) for name in contents.fixed}
        errors = dict(encoder.errors)
        contents.write(path, sizes, types, encodings, errors, self.clock.progress)

    def _action_error(self, path: Path) -> ActionError | None:
        if self.data is None or not len(self.data.held_out):
            return None
        act = runtime_act(path)
        return measure_action_error(act, self.loaded, self.data.held_out, seed=self.seed)
