"""From a checkpoint, and episodes of its robot where the recipe needs them, to one model file.

What a recipe needs decides what is loaded: statistics need the weights in memory and a dataset;
without either, the weights stay on disk and one tensor at a time passes through memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from rich.progress import Progress

from actquant import __version__
from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import CalibrationData, Frames, calibrate
from actquant.calibration.statistics import Statistics, collect
from actquant.calibration.work_folder import Contents, WorkFolder
from actquant.capture.policy import (
    CapturedPolicy,
    capture_policy,
    free_vectors,
    matrices_of_fixed_type,
    quantizable,
)
from actquant.common.clock import Clock
from actquant.common.errors import (
    BudgetError,
    CheckpointError,
    DatasetError,
)
from actquant.common.files import atomic_path, hash_json
from actquant.common.interrupts import look_again
from actquant.common.locks import sole_user, sole_writer
from actquant.common.processes import Processes
from actquant.common.renames import Renames
from actquant.compression.cache import cache_folder, open_entry
from actquant.compression.contents import (
    GROWTH_BYTES,
    LONGEST_NUMBER,
    USUAL_NUMBER,
    FileContents,
)
from actquant.compression.dates import dated
from actquant.compression.encodings import TensorEncoder
from actquant.compression.programs import capture_into
from actquant.compression.proof import SCRATCH, Proof, golden_values
from actquant.compression.report import CompressionReport
from actquant.compression.request import (
    Goal,
    check_places,
    check_request,
    default_verification,
)
from actquant.compression.search import LARGEST_BPW, smallest_budget
from actquant.encoders.blocks import encoders_sha256
from actquant.fidelity.action_error import (
    ActionError,
    measure_action_error,
    reference_chunks,
    runtime_act,
)
from actquant.fidelity.distance import Distance
from actquant.fidelity.parity import ParityReport
from actquant.format.golden import VERIFY
from actquant.format.stored_error import StoredActionError
from actquant.policies import LoadedPolicy, QuantizableTensor, load_policy
from actquant.recipes import DEFAULT_RECIPE, Recipe
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.tune import Tuned, Tuning

ON_DISK = "the policy's weights do not fit into half of the memory and stay on disk"


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
    recipe: str = DEFAULT_RECIPE,
    dataset: str | Path | None = None,
    bpw: float | None = None,
    target_size_bytes: int | None = None,
    max_action_error: float | None = None,
    verify: str | None = None,
    work: str | Path | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    settings: CompressionSettings | None = None,
    memory_bytes: int | None = None,
    loaded: LoadedPolicy | None = None,
    renames: Renames | None = None,
    progress: Progress | None = None,
    force: bool = False,
    **facts: Unpack[CheckpointFacts],
) -> CompressionReport:
    """Compresses a checkpoint into the GGUF `out`.

    recipe: of RECIPES; dataset: folder of a LeRobotDataset, for recipes that need statistics and to
    measure the action error; bpw, target_size_bytes, max_action_error: one of them, for recipes
    that need a budget (see `Goal`); verify: of VERIFY, by default `full` with a dataset and
    `quick` without; work: folder of resumable artefacts, which may be shared between recipes and
    budgets (with a dataset the default is an entry of the cache; without one nothing is kept);
    cache: its folder, where that is not the user's (see `cache_folder`); memory_bytes: what the
    statistics of one pass may take (see `collect`); loaded: the checkpoint where it was loaded for
    this dataset before; renames: names in the dataset -> the policy's; force: see `check_output`;
    facts: see CheckpointFacts. An existing file is replaced at the very end, when the new one is
    whole and within the budget. A run that goes on from a work folder gives the file the date at
    which the first one began. Where `accelerate launch` started several processes, they share
    statistics, errors, encoding and tuning; the first one proves and writes.

    Raises UsageError, OutputError or BusyError for `out`, `work` and `cache` before anything is
    read; CheckpointError, DatasetError, CalibrationError, CaptureError, ParityError (the program
    or the file does not agree with PyTorch: nothing is written), BudgetError (with the feasible
    range, before anything slow), QuantizationError, ModelFileError.
    """
    out, settings = Path(out), settings or CompressionSettings()
    goal = Goal(bpw, target_size_bytes, max_action_error)
    chosen = check_request(recipe, dataset, goal, verify)
    verify = verify or default_verification(dataset)
    check_places(checkpoint, dataset, out, work, cache, force=force)
    clock, processes = Clock(progress), Processes.join()
    with ExitStack() as held:
        if processes.is_main:
            held.enter_context(sole_writer(out))
        if work is not None and processes.is_main:
            held.enter_context(sole_user(Path(work), SCRATCH))
        with clock("load"):
            if loaded is not None and dataset is not None:
                data = _calibrate(loaded, dataset, settings, seed, renames)
            else:
                loaded, data = _load(checkpoint, dataset, facts, settings, seed, renames)
        if work is None and data is not None:
            with processes.main_first():
                work = open_entry(
                    cache_folder(cache),
                    _sources(loaded, data, settings, seed),
                    checkpoint=loaded.title,
                    dataset=data.info.folder.resolve().name,
                    seed=seed,
                )
                if processes.is_main:
                    held.enter_context(sole_user(work, SCRATCH))
        folder = None if work is None else WorkFolder(Path(work))
        reused: list[str] = []
        with clock("capture"), processes.main_first():
            if folder is not None and capture_into(folder, loaded):
                reused.append("program")
            captured = capture_policy(loaded)
            tensors = quantizable(loaded, chosen.matrices)
        provenance = _provenance(captured, chosen, goal, data, settings, seed, verify)
        if folder is not None and processes.is_main:
            provenance = held.enter_context(dated(folder.folder, provenance))
        job = _Job(
            loaded=loaded,
            captured=captured,
            tensors=tensors,
            recipe=chosen,
            data=data,
            work=folder,
            settings=settings,
            seed=seed,
            memory_bytes=memory_bytes,
            inputs=VERIFY[verify],
            provenance=provenance,
            clock=clock,
            processes=processes,
            reused=reused,
            remarks=list(loaded.remarks),
        )
        return job.run(out, goal)


def _load(
    checkpoint: str | Path,
    dataset: str | Path | None,
    facts: CheckpointFacts,
    settings: CompressionSettings,
    seed: int,
    renames: Renames | None,
) -> tuple[LoadedPolicy, CalibrationData | None]:
    """Loads the policy, and the dataset if there is one.

    Without a dataset the weights stay on disk, with one `load_policy` decides by their size.
    """
    if dataset is None:
        if renames:
            raise DatasetError("--rename is of a dataset's names; give --dataset, too")
        loaded = load_policy(checkpoint, **facts, streamed=True)
        if loaded.control_rate_hz is None:
            raise CheckpointError(f"{checkpoint} does not say its control rate; give it in Hz")
        return loaded, None
    options = facts.pop("options", None)
    if given := [name for name, value in facts.items() if value is not None]:
        raise DatasetError(f"{', '.join(given)}: the dataset {dataset} says it already")
    loaded = load_for_dataset(checkpoint, dataset, options=options, streamed=None, renames=renames)
    return loaded, _calibrate(loaded, dataset, settings, seed, renames)


def _calibrate(
    loaded: LoadedPolicy,
    dataset: str | Path,
    settings: CompressionSettings,
    seed: int,
    renames: Renames | None,
) -> CalibrationData:
    counts = {"n_frames": settings.n_frames, "n_held_out": settings.n_held_out}
    return calibrate(loaded, dataset, **counts, seed=seed, renames=renames)


def _provenance(
    captured: CapturedPolicy,
    recipe: Recipe,
    goal: Goal,
    data: CalibrationData | None,
    settings: CompressionSettings,
    seed: int,
    verify: str,
) -> dict[str, Any]:
    """Returns what the file says of its making; without a dataset no seed or setting has a say."""
    others = {name: value for name, value in asdict(goal).items() if value and name != "bpw"}
    chosen: dict[str, Any] = {"bpw": goal.bpw, **others}
    if data is not None:
        chosen = {"seed": seed, **chosen, **asdict(settings)}
        if not recipe.tuned:
            del chosen["tuning"]
    made = {
        "recipe": recipe.name,
        "recipe_sha256": hash_json({"recipe": recipe.name, **chosen}),
        "settings": chosen,
        "verified": verify,
    }
    if data is None:
        return {**captured.metadata.provenance, **made}
    named = {"renames": dict(data.info.renames)} if data.info.renames else {}
    return {
        **captured.metadata.provenance,
        **named,
        "dataset": data.info.folder.resolve().name,
        "dataset_sha256": data.info.sha256,
        **made,
        "calibration_episodes": list(data.calibration_episodes),
        "held_out_episodes": list(data.held_out_episodes),
    }


def _sources(
    loaded: LoadedPolicy, data: CalibrationData | None, settings: CompressionSettings, seed: int
) -> dict[str, str]:
    """Returns hashes of the checkpoint and, where data has a say, of everything about that."""
    sources = {
        "producer": __version__,
        "checkpoint": loaded.checkpoint_sha256,
        "config": loaded.settings_sha256,
    }
    if data is None:
        return sources
    chosen = {"draws": settings.draws, "batch_size": settings.batch_size}
    named = {"renames": hash_json(dict(data.info.renames))} if data.info.renames else {}
    return {
        **sources,
        **named,
        "interface": hash_json(asdict(loaded.interface)),
        "dataset": data.info.sha256,
        "frames": data.calibration.fingerprint,
        "settings": hash_json({"seed": seed, **chosen}),
    }


def _distance(report: ParityReport | None) -> Distance | None:
    return None if report is None else report.distance


@dataclass(frozen=True)
class _Ready:
    """What a file is written from."""

    contents: FileContents
    sizes: Sequence[TensorSize]
    budget: Budget | None
    allocation: Allocation
    encoder: TensorEncoder
    tuned: Tuned | None


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
    memory_bytes: int | None
    inputs: int
    provenance: dict[str, Any]
    clock: Clock
    processes: Processes
    reused: list[str]
    remarks: list[str] = field(default_factory=list)

    def run(self, out: Path, goal: Goal) -> CompressionReport:
        """Makes the file and moves it to `out` when it has proved itself."""
        proof = Proof(self.loaded, self.captured, self.inputs, self.recipe.float_type, self.work)
        with self.clock("parity"):
            program = self.processes.from_main(proof.prove_program)
        contents = self._contents(proof, program)
        sizes = self._sizes({})
        budget = self._budget(contents, goal, sizes)
        allocation = self.recipe.allocate(sizes, budget)  # refuses a budget before the slow part
        statistics = self._statistics()
        if statistics is not None and self.recipe.scores is not None:
            sizes = self._sizes(self.recipe.scores(self.tensors, statistics, self.settings))
            allocation = self.recipe.allocate(sizes, budget)
        encoder = TensorEncoder(
            self.recipe,
            self.captured.params,
            statistics,
            self.work,
            self._encoding_sources(),
            self.processes,
        )
        if self.recipe.errors is not None:
            with self.clock("errors of types", shown=False):
                sizes = encoder.measured(sizes, self.clock.progress)
            allocation = self.recipe.allocate(sizes, budget)
        if goal.action_error is not None:
            with self.clock("search", shown=False):
                budget = self._search(encoder, contents, sizes, goal.action_error)
            allocation = self.recipe.allocate(sizes, budget)
        if self.recipe.scale_inputs is not None:
            with self.clock("input scales", shown=False):
                encoder.scale_inputs(self.captured, allocation.types)
        with self.clock("quantize", shown=False):
            self._prepare(encoder, allocation)
        tuned = self._tune(encoder, allocation, contents.fixed)

        ready = _Ready(contents, sizes, budget, allocation, encoder, tuned)
        return self.processes.from_main(lambda: self._finish(out, proof, program, ready))

    def _finish(
        self, out: Path, proof: Proof, program: ParityReport | None, ready: _Ready
    ) -> CompressionReport:
        """Writes the file, lets it prove itself, and moves it to `out`."""
        sizes, allocation, encoder = ready.sizes, ready.allocation, ready.encoder
        with atomic_path(out) as temporary:
            with self.clock("write", shown=False):
                self._write(temporary, ready)
            with self.clock("verify"):
                file = proof.prove_file(temporary)
            with self.clock("held-out error"):
                held_out = self._action_error(temporary)
            found = {} if held_out is None else {"action_error": held_out.stored().model_dump()}
            types, errors = allocation.types, encoder.errors
            golden = golden_values(file)
            reports = ready.contents.finish(temporary, sizes, types, errors, golden, found)
            look_again()
        return CompressionReport.of_file(
            out,
            allocation,
            sizes,
            ready.budget,
            self.captured.metadata.parameter_count,
            recipe=self.recipe.name,
            held_out=held_out,
            capture=self.captured.report,
            program_error=_distance(program or file),
            file_error=_distance(file),
            tensors=reports,
            tuning=None if ready.tuned is None else ready.tuned.report,
            timings_s=self.clock.timings_s,
            reused=self.reused,
            unreached=encoder.unguided,
            remarks=self.remarks,
            processes=self.processes.count,
            provenance={**self.provenance, **found},
        )

    def _contents(self, proof: Proof, program: ParityReport | None) -> FileContents:
        # Golden values, scores and errors of the file are about as long as those planned; without a
        # work folder they must not be longer, since the file is too large to be written again.
        golden_bytes, number, growth_bytes = proof.longest_golden_bytes(), LONGEST_NUMBER, 0
        if program is not None and self.work is not None:
            golden_bytes = len(json.dumps(golden_values(program)))
            number, growth_bytes = USUAL_NUMBER, GROWTH_BYTES
        provenance = self.provenance
        if held_out := self._held_out():
            longest = StoredActionError(
                mean=LONGEST_NUMBER, standard_error=LONGEST_NUMBER, n=len(held_out)
            )
            provenance = {**provenance, "action_error": longest.model_dump()}
        return FileContents(
            captured=self.captured,
            tensors=self.tensors,
            fixed=self._fixed(),
            provenance=provenance,
            scored=self.data is not None,  # so that all recipes have one budget
            float_type=self.recipe.float_type,
            golden_bytes=golden_bytes,
            number=number,
            growth_bytes=growth_bytes,
        )

    def _fixed(self) -> list[str]:
        if self.recipe.float_type:
            return []
        return matrices_of_fixed_type(self.loaded, [tensor.name for tensor in self.tensors])

    def _sizes(self, scores: Mapping[str, float]) -> list[TensorSize]:
        kept = self.captured.single_precision
        return [
            TensorSize(t.name, *t.shape, t.layer, scores.get(t.name, 0.0), t.name in kept)
            for t in self.tensors
        ]

    def _sources(self) -> dict[str, str]:
        """Hashes of everything that statistics depend on."""
        data = self.data if self.recipe.needs_dataset else None
        return _sources(self.loaded, data, self.settings, self.seed)

    def _encoding_sources(self) -> dict[str, str]:
        """The same for what is encoded: other encoders, or a recipe that looks at other statistics,
        may choose other blocks."""
        looked_at = {kind: list(names) for kind, names in self.recipe.matrices.items()}
        return {
            **self._sources(),
            "encoders": encoders_sha256(),
            "statistics": hash_json(looked_at),
        }

    def _statistics(self) -> Statistics | None:
        if not self.recipe.needs_dataset or self.data is None or self.work is None:
            return None
        with self.clock("statistics", shown=False):
            statistics = collect(
                self.loaded,
                self.tensors,
                self.data.calibration,
                self.recipe.matrices,
                self.work,
                self._sources(),
                draws=self.settings.draws,
                seed=self.seed,
                batch_size=self.settings.batch_size,
                memory_bytes=self.memory_bytes,
                processes=self.processes,
                progress=self.clock.progress,
            )
        self.reused += statistics.kept
        return statistics

    def _prepare(self, encoder: TensorEncoder, allocation: Allocation) -> None:
        """Encodes into the work folder; without one, tensors are encoded as they are written."""
        if self.work is not None:
            encoder.prepare(allocation.types, self.clock.progress)
            self.reused += ["encoding"] if encoder.all_kept else []

    def _tune(
        self, encoder: TensorEncoder, allocation: Allocation, fixed: Sequence[str]
    ) -> Tuned | None:
        """Tunes what the recipe wants tuned; the encoder then scales its blocks."""
        if not self.recipe.tuned or self.data is None or self.work is None:
            return None
        if self.loaded.streamed is not None:
            if self.settings.tuning.minutes:
                self.remarks.append(f"not tuned: {ON_DISK}")
            return None
        tuning = self._tuning(encoder, allocation, fixed)
        if not len(tuning.validation):
            self.remarks.append("not tuned: no calibration frames are left to judge it by")
            return None
        with self.clock("tune", shown=False):
            tuned = tuning.run(self.clock.progress)
        encoder.factors = tuned.factors
        return tuned

    def _tuning(
        self, encoder: TensorEncoder, allocation: Allocation, fixed: Sequence[str]
    ) -> Tuning:
        assert self.data is not None and self.work is not None
        settings = self.settings.tuning
        training, validation = self.data.split_calibration(
            settings.frames, self.settings.n_held_out, self.seed
        )
        return Tuning(
            loaded=self.loaded,
            tensors=self.tensors,
            encodings={n: encoder.encoded(n, t) for n, t in allocation.types.items()},
            fixed={name: encoder.fixed_encoded(name) for name in fixed},
            free=free_vectors(self.captured),
            training=training,
            validation=validation,
            settings=settings,
            seed=self.seed,
            work=self.work,
            processes=self.processes,
            made_from={
                **self._sources(),
                "dataset": self.data.info.sha256,
                "frames": hash_json([training.fingerprint, validation.fingerprint]),
                "tuning": hash_json({"seed": self.seed, **asdict(settings)}),
            },
            encoded_from=hash_json(
                {"recipe": self.recipe.name, **self._encoding_sources(), **allocation.types}
            ),
        )

    def _budget(
        self, contents: FileContents, goal: Goal, sizes: Sequence[TensorSize]
    ) -> Budget | None:
        """Returns the bytes there are; where an error is the goal, as many as could be of use."""
        if not self.recipe.needs_budget:
            return None
        count = self.captured.metadata.parameter_count
        if goal.action_error is not None:
            return contents.budget(LARGEST_BPW, sizes)
        bpw = 8 * goal.size_bytes / count if goal.size_bytes is not None else goal.bpw
        assert bpw is not None, "the request was checked"
        return contents.budget(bpw, sizes)

    def _search(
        self,
        encoder: TensorEncoder,
        contents: FileContents,
        sizes: Sequence[TensorSize],
        limit: float,
    ) -> Budget:
        """Returns the smallest budget whose error, before tuning and input scales, stays below a
        limit, on frames that neither training nor the held-out error takes."""
        if self.loaded.streamed is not None:
            raise BudgetError(
                f"no file is searched for by its action error: {ON_DISK}; give a size"
            )

        def error(allocation: Allocation) -> float:
            self._prepare(encoder, allocation)
            return self._tuning(encoder, allocation, contents.fixed).untuned_error()

        return smallest_budget(self.recipe, contents, sizes, error, limit)

    def _write(self, path: Path, ready: _Ready) -> None:
        types, encoder, contents = ready.allocation.types, ready.encoder, ready.contents
        # Without a work folder a file of floats is rounded as it is written.
        chosen = types if self.work is not None or self.recipe.float_type is None else {}
        encodings = {name: encoder.encoding(name, type_name) for name, type_name in chosen.items()}
        encodings |= {name: encoder.fixed(name) for name in contents.fixed}
        values = encoder.folding.values | ({} if ready.tuned is None else ready.tuned.values)
        errors, progress = dict(encoder.errors), self.clock.progress
        contents.write(path, ready.sizes, types, encodings, errors, values, progress)

    def _held_out(self) -> Frames | None:
        """Returns the frames that nothing is fitted to; None where there are none."""
        return None if self.data is None or not len(self.data.held_out) else self.data.held_out

    def _action_error(self, path: Path) -> ActionError | None:
        frames = self._held_out()
        if frames is None:
            return None
        return measure_action_error(
            runtime_act(path),
            self.loaded,
            frames,
            seed=self.seed,
            reference=self._reference_chunks(frames),
        )

    def _reference_chunks(self, frames: Frames) -> np.ndarray:
        """Returns the f32 policy's chunks of the held-out frames, kept in the work folder."""

        def compute() -> Contents:
            samples = [frames[position] for position in range(len(frames))]
            return {"chunks": reference_chunks(self.loaded, samples, self.seed)}, {}

        if self.work is None:
            return compute()[0]["chunks"]
        made_from = {
            **_sources(self.loaded, self.data, self.settings, self.seed),
            "held_out": frames.fingerprint,
        }
        found, _ = self.work.build("held-out", "chunks", made_from, compute)
        return found.arrays["chunks"]
