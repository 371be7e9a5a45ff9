"""Trains block scales, norms and biases so that a quantized policy acts as the f32 one does.

The levels of the weights stay what they are. The loss is the root mean square difference to the f32
policy's own chunk from the same noise, after all flow steps; a demonstration has no say in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.utils import parametrize

from actquant.calibration.devices import beside, device_of, find_device, placed
from actquant.calibration.frames import Batch, Frames
from actquant.calibration.hooks import frozen, sharing_weight
from actquant.calibration.losses import draw_noise, through_no_grad
from actquant.calibration.work_folder import Artifact, Contents, WorkFolder
from actquant.common.errors import CalibrationError
from actquant.common.files import hash_json
from actquant.common.processes import ALONE, Processes
from actquant.common.progress import bar
from actquant.format.encoding import EncodedTensor
from actquant.format.tensor_types import get_format
from actquant.policies.base import LoadedPolicy, QuantizableTensor
from actquant.tuning.settings import TuningSettings

LEARNING_RATE = 7e-4
BETAS = (0.9, 0.98)
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of Adam's state."""
WARM_UP_STEPS = 10
LARGEST_GRADIENT = 1.0
SMALLEST_SQUARE = 1e-6
FEWEST_STEPS = 10
"""With fewer, nothing is tuned: the learning rate would still be rising."""
SAVE_EVERY = 10
STAGE, PARTIAL_STAGE, PLAN_STAGE = "tuned", "tuned-partial", "tuning-plan"
NOISE_DRAW = 500_000
"""Far from the draws of the statistics and of the held-out error."""


class TuningReport(BaseModel):
    """What tuning did on frames of episodes that it was not trained on.

    error_before, error_after: mean root mean square difference to the f32 policy's chunk, in
    standard deviations of each action. kept: whether the tuned values went into the file, which
    they do only when the error fell.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int
    n_training_frames: int
    n_validation_frames: int
    error_before: float
    error_after: float
    kept: bool


@dataclass(frozen=True)
class Tuned:
    """What was found: factors [rows, blocks of a row] by tensor, values of norms and biases by
    parameter; both empty if nothing was better than before."""

    factors: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    report: TuningReport | None


class BlockScales(nn.Module):
    """A weight's blocks, each times a factor: [rows, blocks of a row]."""

    def __init__(self, rows: int, columns: int, block: int) -> None:
        super().__init__()
        self.columns, self.block = columns, block
        self.factors = nn.Parameter(torch.ones(rows, -(-columns // block)))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.reshape(len(weight), self.columns)
        factors = self.factors.repeat_interleave(self.block, dim=1)[:, : self.columns]
        return (matrix * factors).reshape(weight.shape)


@dataclass
class Tuning:
    """One policy, its encoded weights, and the frames it is tuned and judged on.

    tensors, encodings: the quantized weights, in the same order; fixed: other parameters as the
    file has them; free: names of the norms and biases that may change; work, made_from: where what
    is found is kept, and hashes of what it depends on; encoded_from: hash of what the encodings
    depend on beside that; processes: which share the frames of a step.
    """

    loaded: LoadedPolicy
    tensors: Sequence[QuantizableTensor]
    encodings: Mapping[str, EncodedTensor]
    fixed: Mapping[str, EncodedTensor]
    free: Sequence[str]
    training: Frames
    validation: Frames
    settings: TuningSettings
    seed: int
    work: WorkFolder
    made_from: Mapping[str, str]
    encoded_from: str
    processes: Processes = ALONE

    @property
    def _depends_on(self) -> dict[str, str]:
        """What all depends on but the f32 policy's chunks."""
        return {**self.made_from, "encoded": self.encoded_from}

    @property
    def _item(self) -> str:
        """Of the artefacts: those of other encodings of the same policy stay."""
        return hash_json(self.encoded_from)[:16]

    def run(self, progress: Progress | None = None) -> Tuned:
        """Tunes, or returns what the work folder has; an interrupted run goes on where it was.

        Raises CalibrationError if an action is NaN or infinite.
        """
        if not self.settings.minutes or not self.settings.steps:
            return Tuned({}, {}, None)
        stored = self.work.load(STAGE, self._item, self._depends_on)
        if any(self.processes.gather([stored is None])):
            with placed(self.loaded, find_device(self.loaded)):
                found = self._tune(progress)
            stored = self._save_for_all(STAGE, self._item, self._depends_on, found)
            self.work.discard(PARTIAL_STAGE, self._item)
        assert stored is not None, "the main process has saved it"
        report = TuningReport.model_validate(stored.info) if stored.info else None
        factors = _with_prefix(stored.arrays, "factors ")
        return Tuned(factors, _with_prefix(stored.arrays, "values "), report)

    def untuned_error(self) -> float:
        """Returns the error on the validation frames without any tuning, kept as well."""

        def measure() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            with placed(self.loaded, find_device(self.loaded)):
                expected = self._targets("validation", self.validation, self._every(), None)
                with self._quantized():
                    return {}, {"error": self._error(expected)}

        found, _ = self.work.build("untuned-error", self._item, self._depends_on, measure)
        return float(found.info["error"])

    def _tune(self, progress: Progress | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        steps = self._steps()
        if steps < FEWEST_STEPS:
            return {}, {}
        groups = self._groups(steps)
        wanted = self._targets("training", self.training, groups, progress)
        expected = self._targets("validation", self.validation, self._every(), progress)
        with self._quantized() as parameters:
            before = self._error(expected)
            self._descend(parameters, groups, wanted, steps, progress)
            after = self._error(expected)
            found = {name: p.detach().cpu().numpy().copy() for name, p in parameters.items()}
        report = TuningReport(
            steps=steps,
            n_training_frames=sum(map(len, groups)),
            n_validation_frames=len(self.validation),
            error_before=before,
            error_after=after,
            kept=after < before,
        )
        return (found if report.kept else {}), report.model_dump()

    def _steps(self) -> int:
        """Returns how many steps the time allows, by that of the first; kept, so that a run that
        goes on after an interruption makes as many."""

        def measure() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            groups = self._groups(1)
            start = time.perf_counter()
            with self._quantized():
                for group in groups:
                    batch = self.training.batch([self.training[p] for p in group])
                    with through_no_grad():
                        self._chunk(batch).square().sum().backward()
            # A step's chunks of the f32 policy take another third of its time.
            possible = 60 * self.settings.minutes / (4 / 3 * (time.perf_counter() - start))
            return {}, {"steps": min(self.settings.steps, int(possible))}

        def plan() -> int:
            found, _ = self.work.build(PLAN_STAGE, self._item, self._depends_on, measure)
            return int(found.info["steps"])

        return self.processes.from_main(plan)

    def _groups(self, steps: int) -> list[list[int]]:
        """Returns the training frames of all steps, in groups of one instruction each."""
        size = self.settings.at_once
        groups = self.training.groups(size)
        count = steps * -(-self.settings.batch_size // size)
        rng = np.random.default_rng([self.seed, NOISE_DRAW])
        order = [i for _ in range(-(-count // len(groups))) for i in rng.permutation(len(groups))]
        return [groups[i] for i in order[:count]]

    def _every(self) -> list[list[int]]:
        return self.validation.groups(self.settings.at_once)

    def _targets(
        self, which: str, frames: Frames, groups: Sequence[Sequence[int]], progress: Progress | None
    ) -> list[Tensor]:
        """Returns the f32 policy's chunks [B, H, A] of groups of frames, kept in the work folder;
        a group that comes again has other noise."""

        stage, item = f"tuning-{which}", f"chunks-{len(groups)}"
        found = self.work.load(stage, item, self.made_from)
        if any(self.processes.gather([found is None])):
            own = self.processes.share(range(len(groups)))
            chunks: list[tuple[int, np.ndarray]] = []
            with torch.no_grad(), bar(progress, "chunks to tune to", len(own)) as advance:
                for place in own:
                    batch = frames.batch([frames[p] for p in groups[place]])
                    chunks.append((place, self._chunk(batch, place).cpu().numpy()))
                    advance(1)
            every = {str(place): chunk for place, chunk in self.processes.gather(chunks)}
            found = self._save_for_all(stage, item, self.made_from, (every, {}))
        assert found is not None, "the main process has saved it"
        device = device_of(self.loaded)
        places = range(len(groups))
        return [torch.from_numpy(found.arrays[str(place)]).to(device) for place in places]

    def _save_for_all(
        self, stage: str, item: str, made_from: Mapping[str, str], contents: Contents
    ) -> Artifact | None:
        """Saves what the main process found, and returns that to all."""
        if self.processes.is_main:
            self.work.save(stage, item, made_from, contents)
        self.processes.wait()
        return self.work.load(stage, item, made_from)

    @contextmanager
    def _quantized(self) -> Iterator[dict[str, nn.Parameter]]:
        """Gives the policy the weights of the file; yields what may be tuned, by its name in the
        artefact, which alone needs gradients. Afterwards the policy is as it was."""
        policy = self.loaded.policy
        every = dict(policy.named_parameters())
        before = {name: every[name].data for name in (*self.encodings, *self.fixed, *self.free)}
        tuned: dict[str, nn.Parameter] = {}
        scaled: list[nn.Module] = []
        try:
            for name, encoded in {**self.encodings, **self.fixed}.items():
                decoded = _decode(encoded).reshape(every[name].shape)
                every[name].data = decoded.to(every[name].device)
            for name in self.free:
                every[name].data = before[name].clone()
            for tensor in self.tensors:
                block = get_format(self.encodings[tensor.name].type).block_size
                scales = BlockScales(*tensor.shape, block).to(device_of(self.loaded))
                for module in sharing_weight(policy, policy.get_submodule(tensor.module)):
                    parametrize.register_parametrization(module, "weight", scales)
                    scaled.append(module)
                tuned[f"factors {tensor.name}"] = scales.factors
            tuned |= {f"values {name}": every[name] for name in self.free}
            with frozen(policy):
                for parameter in tuned.values():
                    parameter.requires_grad_(True)
                yield tuned
        finally:
            for module in scaled:
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            for name, data in before.items():
                every[name].data, every[name].grad = data, None

    def _chunk(self, batch: Batch, place: int = 0) -> Tensor:
        noise, _ = draw_noise(self.loaded, batch.frames, self.seed, NOISE_DRAW + place)
        tensors = beside(self.loaded, batch.tensors)
        noise = noise.to(device_of(self.loaded))
        chunk = self.loaded.family.predict_chunk(self.loaded, tensors, noise)
        if not torch.isfinite(chunk).all():
            frame = batch.frames[0]
            raise CalibrationError(
                f"at or near episode {frame.episode}, frame {frame.frame}: the actions of the "
                "policy are NaN or infinite"
            )
        return chunk

    def _error(self, expected: Sequence[Tensor]) -> float:
        """Returns the mean over the validation frames of the rms difference to the f32 chunks."""
        distances = []
        with torch.no_grad():
            for place, (group, wanted) in enumerate(zip(self._every(), expected, strict=True)):
                batch = self.validation.batch([self.validation[p] for p in group])
                distances.append(rms(self._chunk(batch, place), wanted))
        return float(torch.cat(distances).cpu().double().mean())

    def _descend(
        self,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[Sequence[int]],
        wanted: Sequence[Tensor],
        steps: int,
        progress: Progress | None,
    ) -> None:
        """Adam with a warm-up and a cosine to zero; saved every few steps, and resumed."""
        tuned = list(parameters.values())
        optimizer = torch.optim.Adam(tuned, LEARNING_RATE, betas=BETAS)
        done = self._resume(parameters, optimizer)
        self.processes.wait()  # until all have read what the first one will write again
        a_step = len(groups) // steps
        with bar(progress, "tune", steps, done) as advance:
            for step in range(done, steps):
                places = range(step * a_step, (step + 1) * a_step)
                frames = sum(len(groups[place]) for place in places)
                for place in self.processes.share(places):
                    batch = self.training.batch([self.training[p] for p in groups[place]])
                    with through_no_grad():
                        distance = rms(self._chunk(batch, place), wanted[place], SMALLEST_SQUARE)
                    (distance.sum() / frames).backward()
                self.processes.add_gradients(tuned)
                nn.utils.clip_grad_norm_(tuned, LARGEST_GRADIENT)
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * schedule(step, steps)
                optimizer.step()
                optimizer.zero_grad()
                advance(1)
                is_due = (step + 1) % SAVE_EVERY == 0 and step + 1 < steps
                if is_due and self.processes.is_main:
                    self._save(parameters, optimizer, step + 1)

    def _save(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Adam, steps: int
    ) -> None:
        arrays = {}
        for name, parameter in parameters.items():
            arrays[f"{name} value"] = parameter.detach().cpu().numpy()
            state = optimizer.state.get(parameter, {})
            for moment in MOMENTS:  # of a parameter that no gradient came to there are none
                value = state.get(moment, torch.zeros_like(parameter))
                arrays[f"{name} {moment}"] = value.cpu().numpy()
        self.work.save(PARTIAL_STAGE, self._item, self._depends_on, (arrays, {"steps": steps}))

    def _resume(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Adam) -> int:
        """Takes over a saved state; returns how many steps are in it."""
        stored = self.work.load(PARTIAL_STAGE, self._item, self._depends_on)
        if stored is None:
            return 0
        for name, parameter in parameters.items():
            parameter.data.copy_(torch.from_numpy(stored.arrays[f"{name} value"]))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(stored.info["steps"])),
                **{
                    moment: torch.from_numpy(stored.arrays[f"{name} {moment}"]).to(
                        parameter, copy=True
                    )
                    for moment in MOMENTS
                },
            }
        return int(stored.info["steps"])


def schedule(step: int, steps: int) -> float:
    """Returns the share of the learning rate at a step: up linearly, down to zero as a cosine."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def rms(chunks: Tensor, wanted: Tensor, smallest: float = 0.0) -> Tensor:
    """Returns the root mean square difference [B] of chunks [B, H, A]; smallest: added to the mean
    square, for a gradient where there is no difference."""
    return ((chunks - wanted).square().flatten(1).mean(dim=1) + smallest).sqrt()


def _decode(encoded: EncodedTensor) -> Tensor:
    import actquant_runtime

    rows, columns = encoded.shape
    decoded = actquant_runtime.dequantize(encoded.data, encoded.type, columns)
    return torch.from_numpy(decoded).reshape(rows, columns)


def _with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
