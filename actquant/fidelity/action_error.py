"""How far a model's actions are from the f32 policy's, on frames that nothing was fitted to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import Frames, Sample, calibrate
from actquant.calibration.losses import draw_noise
from actquant.common.errors import CalibrationError
from actquant.fidelity.distance import action_scale, chunk_distances
from actquant.format.stored_error import StoredActionError
from actquant.policies.base import LoadedPolicy, Observation

Act = Callable[[Observation, np.ndarray], np.ndarray]
"""(raw observation, noise of `noise_shape`) -> action chunk [H, A] in the robot's units."""
NOISE_DRAW = 1_000_000
"""Far from the draws of calibration, so that the noise is new as well."""
HELD_OUT_FRAMES = 64


class ActionError(BaseModel):
    """Distances in units of the standard deviation of each action dimension.

    to_reference: mean over frames of the root mean square difference to the f32 PyTorch policy's
    chunk from the same noise, with its standard error; worst: the frame where it is largest.
    l1_to_truth: mean absolute difference to the demonstrated chunk, padding left out;
    reference_l1_to_truth: the same for the f32 policy.
    """

    model_config = ConfigDict(extra="forbid")

    to_reference: float
    to_reference_standard_error: float
    worst: float
    l1_to_truth: float
    reference_l1_to_truth: float
    n_frames: int

    def stored(self) -> StoredActionError:
        """Returns what a file says of it."""
        return StoredActionError(
            mean=float(f"{self.to_reference:.6g}"),
            standard_error=float(f"{self.to_reference_standard_error:.6g}"),
            n=self.n_frames,
        )


def reference_chunks(loaded: LoadedPolicy, frames: Sequence[Sample], seed: int) -> np.ndarray:
    """Returns the f32 PyTorch policy's chunks [n, H, A] in the robot's units, one noise per
    frame."""
    chunks = []
    for sample in frames:
        noise, _ = draw_noise(loaded, [sample.frame], seed, NOISE_DRAW)
        chunks.append(loaded.family.predict(loaded, [sample.observation], noise)[0])
    return np.stack(chunks)


def measure_action_error(
    act: Act,
    loaded: LoadedPolicy,
    frames: Frames,
    *,
    seed: int = 0,
    reference: np.ndarray | None = None,
) -> ActionError:
    """Compares a model with the f32 policy, and both with the demonstration, on held-out frames.

    reference: the result of `reference_chunks`, where it is already known.

    Raises CalibrationError if there are no frames or the model answers with NaN.
    """
    if not len(frames):
        raise CalibrationError("there are no held-out frames to measure the action error on")
    samples = [frames[position] for position in range(len(frames))]
    if reference is None:
        reference = reference_chunks(loaded, samples, seed)
    scale = action_scale(loaded.interface)
    chunks, errors, reference_errors = [], [], []
    for sample, expected in zip(samples, reference, strict=True):
        noise, _ = draw_noise(loaded, [sample.frame], seed, NOISE_DRAW)
        chunk = np.asarray(act(sample.observation, noise[0].numpy()), np.float64)
        if not np.isfinite(chunk).all():
            raise CalibrationError(
                f"episode {sample.frame.episode}, frame {sample.frame.frame}: the model's actions "
                "hold NaN or infinity"
            )
        chunk_of = slice(sample.now, sample.now + len(expected))
        valid, truth = ~sample.is_pad[chunk_of], sample.actions[chunk_of]
        chunks.append(chunk)
        errors.append(np.mean(np.abs((chunk - truth) / scale)[valid]))
        reference_errors.append(np.mean(np.abs((expected - truth) / scale)[valid]))
    distances = chunk_distances(np.stack(chunks), reference, scale)
    spread = np.std(distances, ddof=1) / np.sqrt(len(distances)) if len(distances) > 1 else 0.0
    return ActionError(
        to_reference=float(distances.mean()),
        to_reference_standard_error=float(spread),
        worst=float(distances.max()),
        l1_to_truth=float(np.mean(errors)),
        reference_l1_to_truth=float(np.mean(reference_errors)),
        n_frames=len(samples),
    )


def runtime_act(model: str | Path) -> Act:
    """Returns a function that answers as the model file does."""
    from actquant_runtime import Runtime

    runtime = Runtime(str(model))
    return lambda observation, noise: runtime.act(dict(observation), noise=noise)


def held_out_action_error(
    model: str | Path,
    checkpoint: str | Path,
    dataset: str | Path,
    *,
    seed: int = 0,
    n_frames: int = HELD_OUT_FRAMES,
) -> float:
    """Returns `ActionError.to_reference` of a model file on the episodes that `compress` with the
    same seed kept apart.

    Raises what loading the checkpoint and the dataset raises.
    """
    loaded = load_for_dataset(checkpoint, dataset)
    frames = calibrate(loaded, dataset, n_held_out=n_frames, seed=seed).held_out
    return measure_action_error(runtime_act(model), loaded, frames, seed=seed).to_reference
