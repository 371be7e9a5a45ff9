"""The recipe of ActQuant (arXiv:2605.24011): HSIC sensitivity, Fisher of the action loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.layer_balanced import allocate_layer_balanced
from actquant.calibration.hsic import SIGMA, HsicScorer, TensorScore
from actquant.encoders.blocks import Encoded, encode_with_importance
from actquant.recipes.recipe import Recipe, within_budget

if TYPE_CHECKING:
    from actquant.calibration.statistics import Statistics
    from actquant.policies.base import QuantizableTensor
    from actquant.recipes.settings import CompressionSettings

MEANS, FISHER = "mean_activations", "fisher"
"""What is collected (`calibration.accumulators.ACCUMULATORS`)."""


def hsic_scores(
    tensors: Sequence[QuantizableTensor], statistics: Statistics, sigma: float | None = SIGMA
) -> dict[str, TensorScore]:
    """Compares every tensor with X, the input of the first block, and Y, the demonstrated chunk.

    The first block is that of the language model, whose input is the whole prefix; a policy without
    a language model takes the first block of all.
    """
    first = next((t.name for t in tensors if t.group == "language"), tensors[0].name)
    x = statistics.of(first, MEANS)["inputs"]
    scorer = HsicScorer(x, statistics.actions, sigma=sigma)
    scores = {}
    for tensor in tensors:
        means = statistics.of(tensor.name, MEANS)
        scores[tensor.name] = scorer.score(means["inputs"], means["outputs"])
    return scores


def score_tensors(
    tensors: Sequence[QuantizableTensor], statistics: Statistics, settings: CompressionSettings
) -> Mapping[str, float]:
    """Returns the sensitivity that the settings name, never negative."""
    found = hsic_scores(tensors, statistics, settings.sigma)
    return {name: score.score(settings.score) for name, score in found.items()}


def encode(name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None) -> Encoded:
    """Encodes a weight with its Fisher as the importance of every single element."""
    assert statistics is not None, "the pipeline collects what the recipe names"
    fisher = statistics.of(name, FISHER)[FISHER]
    return encode_with_importance(name, weight, type_name, fisher)


PAPER = Recipe(
    name="paper",
    summary="HSIC sensitivity, Fisher of the action loss as importance (ActQuant)",
    allocate=within_budget(allocate_layer_balanced),
    encode=encode,
    matrices={"linear": (MEANS, FISHER)},
    scores=score_tensors,
)
