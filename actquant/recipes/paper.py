"""The recipe of ActQuant (arXiv:2605.24011): HSIC sensitivity, Fisher of the action loss."""

from collections.abc import Mapping, Sequence

import numpy as np

from actquant.allocation.layer_balanced import allocate_layer_balanced
from actquant.calibration.accumulators import Fisher, MeanActivations
from actquant.calibration.hsic import SIGMA, HsicScorer, TensorScore
from actquant.calibration.statistics import Statistics
from actquant.encoders.blocks import Encoded, encode_with_importance
from actquant.policies.base import QuantizableTensor
from actquant.recipes.recipe import Recipe, within_budget
from actquant.recipes.settings import CompressionSettings


def hsic_scores(
    tensors: Sequence[QuantizableTensor], statistics: Statistics, sigma: float | None = SIGMA
) -> dict[str, TensorScore]:
    """Compares every tensor with X, the input of the first block, and Y, the demonstrated chunk.

    The first block is that of the language model, whose input is the whole prefix; a policy without
    a language model takes the first block of all.
    """
    first = next((t.name for t in tensors if t.group == "language"), tensors[0].name)
    x = statistics.of(first, MeanActivations)["inputs"]
    scorer = HsicScorer(x, statistics.actions, sigma=sigma)
    scores = {}
    for tensor in tensors:
        means = statistics.of(tensor.name, MeanActivations)
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
    fisher = statistics.of(name, Fisher)["fisher"]
    return encode_with_importance(name, weight, type_name, fisher)


PAPER = Recipe(
    name="paper",
    summary="HSIC sensitivity, Fisher of the action loss as importance (ActQuant)",
    allocate=within_budget(allocate_layer_balanced),
    encode=encode,
    statistics=(MeanActivations, Fisher),
    scores=score_tensors,
)
