"""Does a file compute what PyTorch computes? Whole action chunks, on inputs capture never saw."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from actquant_runtime import PromptCutWarning

from actquant.common.errors import ParityError
from actquant.fidelity.distance import Distance, action_scale, measure_distance
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.format.golden import GoldenInput, golden_inputs
from actquant.policies.base import LoadedPolicy

__all__ = [
    "ParityReport",
    "ReferenceRunner",
    "Runner",
    "check_parity",
    "chunks_of",
    "golden_observations",
    "measure_parity",
    "runtime",
]

F32_THRESHOLD = 1e-4
"""On the distance of the worst chunk, where only the order of sums differs."""
PROMPTS = (
    "put the bowl on the plate",
    "pick up the red block and place it in the left tray, then close the drawer",
    "push",
    "open the top drawer and put the mug inside",
)


class Runner(Protocol):
    """Anything that answers like `actquant_runtime.Runtime`."""

    def act(self, observation: Mapping[str, Any], *, noise: np.ndarray) -> np.ndarray:
        """Answers an observation (`policies.base`), noise of `noise_shape`, with float32 [H, A]."""
        ...


@dataclass(frozen=True)
class ParityReport:
    """How far an executor is from PyTorch; golden: what `model_file.with_golden` stores."""

    distance: Distance
    executor: str
    golden: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.executor}: {self.distance}"


def golden_observations(
    loaded: LoadedPolicy, prompts: Sequence[str] = PROMPTS, n: int = 16
) -> list[GoldenInput]:
    """Makes n inputs from seeds, over prompts of several lengths, some with a masked camera."""
    return golden_inputs(loaded.interface, prompts, n)


def check_parity(
    model_path: str | Path,
    loaded: LoadedPolicy,
    *,
    prompts: Sequence[str] = PROMPTS,
    n: int = 16,
    threshold: float = F32_THRESHOLD,
    runner: Runner | None = None,
    reference: np.ndarray | None = None,
) -> ParityReport:
    """Compares a file's actions with PyTorch's.

    runner: what executes the file; `actquant_runtime.Runtime` if absent. threshold: on the distance
    of the worst chunk; the default suits float32 files.

    Raises ParityError with the distance if the threshold is passed or a result is not finite.
    """
    report = measure_parity(
        model_path,
        loaded,
        prompts=prompts,
        n=n,
        threshold=threshold,
        runner=runner,
        reference=reference,
    )
    if not report.distance.passed:
        raise ParityError(f"{model_path} does not compute what PyTorch computes: {report}")
    return report


def chunks_of(runner: Runner, inputs: Sequence[GoldenInput]) -> np.ndarray:
    """Returns the chunks [n, H, A] on golden inputs, whose prompts may be long on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)
        return np.stack([runner.act(x.observation, noise=x.noise) for x in inputs])


def measure_parity(
    model_path: str | Path,
    loaded: LoadedPolicy,
    *,
    prompts: Sequence[str] = PROMPTS,
    n: int = 16,
    threshold: float | None = None,
    runner: Runner | None = None,
    reference: np.ndarray | None = None,
) -> ParityReport:
    """Measures as `check_parity` does without judging: a quantized file is what it is.

    reference: the result of `reference_actions`, where it is already known.
    """
    runner = runner or runtime(model_path)
    inputs = golden_observations(loaded, prompts, n)
    actions = chunks_of(runner, inputs)
    if reference is None:
        reference = reference_actions(loaded, prompts, n)
    try:
        distance = measure_distance(actions, reference, action_scale(loaded.interface), threshold)
    except ParityError as error:
        raise ParityError(f"{model_path}: {error}") from error
    return ParityReport(
        distance=distance,
        executor=type(runner).__name__,
        golden=[
            {
                "seed": x.seed,
                "prompt": x.prompt,
                "masked_cameras": list(x.masked_cameras),
                "actions": a.tolist(),
                "actions_reference": r.tolist(),
            }
            for x, a, r in zip(inputs, actions, reference, strict=True)
        ],
    )


def reference_actions(
    loaded: LoadedPolicy, prompts: Sequence[str] = PROMPTS, n: int = 16
) -> np.ndarray:
    """PyTorch's chunks [n, H, A] for `golden_observations`."""
    inputs = golden_observations(loaded, prompts, n)
    return np.stack([loaded.family.act(loaded, dict(x.observation), x.noise) for x in inputs])


def runtime(model_path: str | Path) -> Runner:
    """Opens a file in the native runtime. Raises ParityError if it is not installed."""
    try:
        import actquant_runtime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ParityError(f"actquant_runtime is not installed: {error}") from error
    return actquant_runtime.Runtime(str(model_path))
