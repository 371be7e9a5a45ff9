"""From a LeRobot checkpoint and episodes of its robot to one model file: all stages in order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from actquant.allocation.allocate import RECIPES, UNIFORM, Allocation, Budget, TensorSize, allocate
from actquant.calibration.curvature import PARTIAL_STAGE, curvature
from actquant.calibration.frames import CalibrationData, calibrate
from actquant.calibration.sensitivity import DEFAULT_SCORE, SIGMA, Score, TensorScore, sensitivity
from actquant.capture.policy import capture_policy, convert_f32, quantizable
from actquant.capture.report import CaptureReport
from actquant.common.clock import Clock
from actquant.common.errors import BudgetError, ModelFileError
from actquant.compression.artifacts import Artifact, WorkFolder, atomic_path, hash_json, hash_path
from actquant.compression.assemble import Assembly, TensorReport
from actquant.encoders.blocks import Encoded, quantize
from actquant.fidelity.action_error import (
    ActionError,
    held_out_action_error,
    load_for_dataset,
    measure_action_error,
    runtime_act,
)
from actquant.fidelity.parity import check_parity
from actquant.format.model_file import EncodedTensor, read_model
from actquant.policies.base import LoadedPolicy

__all__ = ["CompressionReport", "Settings", "TensorReport", "compress", "held_out_action_error"]


@dataclass(frozen=True)
class Settings:
    """What a compression may be told beside its budget.

    n_frames, n_held_out: frames of the calibration and of the held-out episodes; draws: draws of
    noise and time per frame for the curvature; sigma: width of the RBF kernel, None for the median
    heuristic; score: which sensitivity the paper's allocation uses.
    """

    n_frames: int = 128
    n_held_out: int = 64
    draws: int = 2
    batch_size: int = 4
    sigma: float | None = SIGMA
    score: Score = DEFAULT_SCORE


class CompressionReport(BaseModel):
    """What was made, how large it is and how it was found.

    Bits per weight come in two kinds: whole_file_bpw is 8 x file bytes / all parameters of the
    policy, quantized_tensor_bpw counts the quantized tensors alone. parity: errors of the f32
    program relative to the actions' root mean square. file_error: the file's own error in the worst
    chunk, in the same unit, on golden inputs. capture: the programs, and what the file does
    without. held_out: see ActionError. unreached: tensors whose curvature is zero throughout (no
    gradient came to them), encoded as if all weights counted the same.
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
    parity: dict[str, Any]
    capture: CaptureReport
    tensors: list[TensorReport]
    timings_s: dict[str, float]
    reused: list[str]
    unreached: list[str]
    provenance: dict[str, Any]
    file_error: float | None = None

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
        """Of a file that is written and an allocation of tensors of these sizes; `found`: the
        fields that do not follow from them."""
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


def compress(
    checkpoint: str | Path,
    dataset: str | Path,
    bpw: float | None,
    out: str | Path,
    *,
    recipe: str = "paper",
    work: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> CompressionReport:
    """Compress a checkpoint into the GGUF `out`, at most `bpw` bits per weight of the whole file.

    bpw: 8 x file bytes / parameters (no meaning for recipes of UNIFORM); recipe: of RECIPES;
    work: folder of resumable artefacts (default `out` with `.work` appended), which may be shared
    between recipes and budgets; progress: a rich Progress. An existing file is replaced at the very
    end, when the new one is whole and within the budget.

    Raises CheckpointError, DatasetError, CalibrationError, CaptureError, ParityError (the captured
    program does not agree with PyTorch: nothing is written), BudgetError (with the feasible range,
    before anything slow), QuantizationError, ModelFileError.
    """
    out = Path(out)
    if recipe not in RECIPES:
        raise BudgetError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    if recipe not in UNIFORM and bpw is None:
        raise BudgetError(f"recipe {recipe} needs a budget in bits per weight")
    if out.is_dir():
        raise ModelFileError(f"{out} is a folder; give the path of the file to write")
    settings, clock = settings or Settings(), Clock(progress)
    with clock("load"):
        loaded = load_for_dataset(checkpoint, dataset)
        data = calibrate(
            loaded, dataset, n_frames=settings.n_frames, n_held_out=settings.n_held_out, seed=seed
        )
    with clock("capture"):
        captured, tensors = capture_policy(loaded), quantizable(loaded)
    folder = WorkFolder(Path(work) if work else out.with_name(out.name + ".work"))
    with clock("parity"), folder.scratch("f32.gguf") as f32:
        parity = check_parity(convert_f32(loaded, f32), loaded)
    chosen = {"seed": seed, "bpw": None if recipe in UNIFORM else bpw, **asdict(settings)}
    provenance = {
        **captured.metadata.provenance,
        "dataset": data.info.folder.resolve().name,
        "dataset_sha256": data.info.sha256,
        "recipe": recipe,
        "recipe_sha256": hash_json({"recipe": recipe, **chosen}),
        "settings": chosen,
        "calibration_episodes": list(data.calibration_episodes),
        "held_out_episodes": list(data.held_out_episodes),
    }
    assembly = Assembly(loaded, captured, tensors, provenance, parity)
    return _Job(loaded, assembly, data, folder, settings, seed, recipe, bpw, clock).run(out)


@dataclass
class _Job:
    """One compression after loading: its stages, each with its artefact in the work folder."""

    loaded: LoadedPolicy
    assembly: Assembly
    data: CalibrationData
    work: WorkFolder
    settings: Settings
    seed: int
    recipe: str
    bpw: float | None
    clock: Clock
    reused: list[str] = field(default_factory=list)

    def run(self, out: Path) -> CompressionReport:
        guided, sizes = self.recipe == "paper", self._sizes({})
        budget = self._budget(sizes)
        allocate(sizes, self.recipe, budget)  # an impossible budget is refused before the slow part
        fisher = None
        if guided:
            scores = self._sensitivity()
            sizes = self._sizes({n: s.score(self.settings.score) for n, s in scores.items()})
            fisher = self._curvature()
        with atomic_path(out) as temporary:
            with self.clock("quantize", shown=False):
                allocation, encoded = self.assembly.fit(
                    temporary,
                    sizes,
                    self.recipe,
                    budget,
                    lambda allocation, done: self._encode(allocation, fisher, done),
                )
            with self.clock("held-out error"):
                held_out = self._action_error(temporary)
        self.work.discard(PARTIAL_STAGE)
        return CompressionReport.of_file(
            out,
            allocation,
            sizes,
            budget,
            self.assembly.captured.metadata.parameter_count,
            recipe=self.recipe,
            held_out=held_out,
            parity={k: v for k, v in asdict(self.assembly.parity).items() if k != "golden"},
            capture=self.assembly.captured.report,
            tensors=self.assembly.reports(sizes, allocation.types, encoded),
            timings_s=self.clock.timings_s,
            reused=self.reused,
            unreached=[name for name, f in (fisher or {}).items() if not f.any()],
            provenance=self.assembly.provenance,
        )

    def _sizes(self, scores: Mapping[str, float]) -> list[TensorSize]:
        kept = self.assembly.captured.single_precision
        return [
            TensorSize(t.name, *t.shape, t.layer, scores.get(t.name, 0.0), t.name in kept)
            for t in self.assembly.tensors
        ]

    def _budget(self, sizes: list[TensorSize]) -> Budget | None:
        if self.recipe in UNIFORM or self.bpw is None:
            return None
        fixed = self.assembly.fixed_bytes(sizes)
        return Budget(self.bpw, self.assembly.captured.metadata.parameter_count, fixed)

    def _sources(self, *settings: str) -> dict[str, str]:
        """Hashes of what every stage depends on, and of the settings it names."""
        config = self.loaded.folder / "config.json"
        chosen = {name: getattr(self.settings, name) for name in settings}
        return {
            "checkpoint": self.loaded.checkpoint_sha256,
            "config": hash_path(config) if config.is_file() else "",
            "interface": hash_json(asdict(self.loaded.interface)),
            "dataset": self.data.info.sha256,
            "frames": self.data.calibration.fingerprint,
            "tensors": hash_json([asdict(tensor) for tensor in self.assembly.tensors]),
            "settings": hash_json({"seed": self.seed, **chosen}),
        }

    def _stage(
        self,
        name: str,
        made_from: Mapping[str, str],
        make: Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]],
    ) -> Artifact:
        with self.clock(name, shown=False):
            artifact, kept = self.work.build(name, made_from, make)
        if kept:
            self.reused.append(name)
        return artifact

    def _sensitivity(self) -> dict[str, TensorScore]:
        def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            scores = sensitivity(
                self.loaded,
                self.assembly.tensors,
                self.data.calibration,
                sigma=self.settings.sigma,
                seed=self.seed,
                batch_size=self.settings.batch_size,
                progress=self.clock.progress,
            )
            return {}, {name: score.model_dump() for name, score in scores.items()}

        stored = self._stage("sensitivity", self._sources("sigma"), make)
        return {name: TensorScore(**values) for name, values in stored.info.items()}

    def _curvature(self) -> dict[str, np.ndarray]:
        sources = self._sources("draws", "batch_size")

        def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            fisher = curvature(
                self.loaded,
                self.assembly.tensors,
                self.data.calibration,
                draws=self.settings.draws,
                seed=self.seed,
                batch_size=self.settings.batch_size,
                work=self.work,
                made_from=sources,
                progress=self.clock.progress,
            )
            return fisher, {}

        return self._stage("curvature", sources, make).arrays

    def _encode(
        self,
        allocation: Allocation,
        fisher: Mapping[str, np.ndarray] | None,
        done: Mapping[str, Encoded],
    ) -> dict[str, Encoded]:
        """Encode what `done` does not already hold in the wanted type."""
        params = self.assembly.captured.params
        weights = {t.name: params[t.name].detach().numpy() for t in self.assembly.tensors}

        def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            wanted = {
                name: type_name
                for name, type_name in allocation.types.items()
                if name not in done or done[name].tensor.type != type_name
            }
            whole = {
                **done,
                **quantize(weights, wanted, fisher, progress=self.clock.progress),
            }
            errors = {name: whole[name].error for name in allocation.types}
            return {name: whole[name].tensor.data for name in allocation.types}, {"errors": errors}

        sources = self._sources("draws", "batch_size") if fisher is not None else self._sources()
        sources["types"] = hash_json(allocation.types)
        suffix = "" if self.recipe in UNIFORM else f"-{self.bpw:g}"
        stored = self._stage(f"encoded-{self.recipe}{suffix}", sources, make)
        return {
            name: Encoded(
                EncodedTensor(type_name, stored.arrays[name], weights[name].shape),
                float(stored.info["errors"][name]),
            )
            for name, type_name in allocation.types.items()
        }

    def _action_error(self, path: Path) -> ActionError | None:
        frames = self.data.held_out
        if not len(frames):
            return None
        return measure_action_error(runtime_act(path), self.loaded, frames, seed=self.seed)
