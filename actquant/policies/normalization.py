"""How a checkpoint normalises states, actions and images, read from its processors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode
from torch import Tensor

from actquant.common.errors import CheckpointError
from actquant.policies.processors import find_step

STATE, ACTION = "observation.state", "action"
RANGES = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
"""Modes that map a range to [-1, 1], with the names of its ends."""


@dataclass
class Faults:
    """What is wrong with statistics, one phrase each, by kind."""

    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    of_datasets: set[str] = field(default_factory=set)
    """Names of datasets that have the missing ones."""

    def check(self, folder: Path) -> None:
        """Raises CheckpointError naming everything that was found wrong."""
        phrases = list(self.others)
        if self.missing:
            phrases.insert(0, f"normalisation statistics are missing: {', '.join(self.missing)}")
        if not phrases:
            return
        if self.of_datasets:
            phrases.append(
                f"there are statistics of {', '.join(sorted(self.of_datasets))} alone: a base "
                "policy of several datasets; fine-tune it on the robot's own first"
            )
        else:
            phrases.append("the dataset it was trained on has them, in meta/stats.json")
        raise CheckpointError(f"{folder}: {'; '.join(phrases)}")


@dataclass(frozen=True)
class Normalization:
    """State in = (x − mean) / (std + eps), action out = y × std + mean."""

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    eps: float

    @classmethod
    def read(
        cls, pre: Any, post: Any, config: Any, folder: Path, *, visual: bool = False
    ) -> Normalization:
        """Reads the normalizer steps. visual: the family normalises images in its stage `vision`;
        otherwise images that are normalised are refused.

        Raises CheckpointError naming every statistic that is missing or makes no sense.
        """
        steps = {STATE: find_step(pre, "norm_map"), ACTION: find_step(post, "norm_map")}
        features = {STATE: config.robot_state_feature, ACTION: config.action_feature}
        absent = [key for key, feature in features.items() if feature is None]
        if absent or any(step is None for step in steps.values()):
            raise CheckpointError(f"{folder}: no feature or normalizer for {absent or list(steps)}")
        images = steps[STATE].norm_map.get(FeatureType.VISUAL, NormalizationMode.IDENTITY)
        if not visual and images != NormalizationMode.IDENTITY:
            raise CheckpointError(
                f"{folder}: images normalised by {images.value} are not supported"
            )
        faults = Faults()
        found = {key: statistics(steps[key], key, features[key], faults) for key in (STATE, ACTION)}
        faults.check(folder)
        eps = float(steps[STATE].eps)
        if mode(steps[STATE], features[STATE]) in RANGES:
            found[STATE] = _from_lower_end(*found[STATE], eps)
        return cls(*found[STATE], *found[ACTION], eps=eps)


def _from_lower_end(
    mean: Sequence[float], std: Sequence[float], eps: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A range of states [mean − std, mean + std] as single-precision numbers that make its lower
    end −1, as LeRobot does: pi0.5 counts bins from there, and resting joints and grippers are there
    exactly. An element that never varied is all lower end; what differs from it is far outside.
    """
    low = (np.array(mean) - np.array(std)).astype(np.float32).astype(np.float64)
    narrow = 2.0**-16 * np.maximum(1, np.abs(low))
    half = np.where(np.array(std) <= eps, narrow, std)
    centre = (low + half).astype(np.float32)
    wanted = centre - low - np.float64(np.float32(eps))
    rounded = wanted.astype(np.float32)
    rounded = np.where(rounded < wanted, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return tuple(centre.tolist()), tuple(rounded.tolist())


def mode(step: Any, feature: Any) -> NormalizationMode:
    """Returns how a normalizer step treats a feature."""
    return step.norm_map.get(feature.type, NormalizationMode.IDENTITY)


def statistics(
    step: Any, key: str, feature: Any, faults: Faults
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of an affine normalisation; ranges become centre and half width.

    What is wrong is added to `faults`.
    """
    kind = mode(step, feature)
    size = feature.shape[0]
    if kind == NormalizationMode.IDENTITY:
        return (0.0,) * size, (1.0,) * size
    wanted = RANGES.get(kind, ("mean", "std"))
    given = step.state_dict()
    lacking = [f"{key}.{name}" for name in wanted if f"{key}.{name}" not in given]
    if lacking:
        faults.missing += lacking
        faults.of_datasets |= _datasets(given, lacking)
    elif key != ACTION and key not in step.features:
        faults.others.append(f"the normalizer does not list {key} among its features")
    else:
        first, second = (given[f"{key}.{name}"].double().reshape(-1) for name in wanted)
        wrong = _nonsense(key, wanted, (first, second), size)
        faults.others += wrong
        if not wrong:
            return _affine(kind, first, second, step.eps)
    return (), ()


def _affine(
    kind: NormalizationMode, first: Tensor, second: Tensor, eps: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if kind in RANGES:
        width = second - first
        width = torch.where(width == 0, eps, width)
        first, second = first + width / 2, width / 2
    return tuple(first.tolist()), tuple(second.tolist())


def _nonsense(
    key: str, names: tuple[str, str], values: tuple[Tensor, Tensor], size: int
) -> list[str]:
    """Returns what no normalisation can be made of: numbers that are not finite, too few of them, a
    range or a deviation below zero."""
    wrong = []
    for name, numbers in zip(names, values, strict=True):
        bad = [
            f"element {i} is {'NaN' if numbers[i].isnan() else 'infinite'}"
            for i in (~numbers.isfinite()).nonzero()[:, 0].tolist()
        ]
        if len(numbers) != size:
            wrong.append(f"{key}.{name} has {len(numbers)} numbers, wanted {size}")
        elif numbers.isinf().all():
            wrong.append(f"{key}.{name} is infinite (saved before statistics were filled in)")
        elif bad:
            wrong.append(f"{key}.{name} is not finite: {_some(bad)}")
    if wrong:
        return wrong
    low = values[1] < (values[0] if names[1] != "std" else 0)
    return [
        f"{key}.{names[1]} is below {names[0] if names[1] != 'std' else 0} in element {i}"
        for i in low.nonzero()[:, 0].tolist()
    ]


def _some(phrases: Sequence[str]) -> str:
    return ", ".join([*phrases[:3], "…"] if len(phrases) > 3 else phrases)


def _datasets(given: Iterable[str], lacking: Sequence[str]) -> set[str]:
    """Returns the datasets whose names stand before the missing statistics, as in
    `so100.buffer.action.mean`."""
    return {
        name[: -len(lost) - len(".buffer.")]
        for name in given
        for lost in lacking
        if name.endswith(f".buffer.{lost}")
    }
