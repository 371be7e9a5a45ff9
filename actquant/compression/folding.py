"""Scales of layers' inputs, folded into the weights that make and read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from actquant.capture.input_scales import ScalableInput
from actquant.capture.policy import CapturedPolicy


@dataclass(frozen=True)
class Folding:
    """What other weights a policy gets that computes the same.

    columns, rows: name of a matrix -> float32, which its columns are multiplied or its rows divided
    by; values: vectors in the place of the policy's own.
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def weight(self, name: str, weight: np.ndarray) -> np.ndarray:
        """Returns a matrix [rows, columns] as it is to be encoded."""
        if name in self.columns:
            weight = weight * self.columns[name]
        if name in self.rows:
            weight = weight / self.rows[name][:, None]
        return weight


def fold(
    captured: CapturedPolicy,
    inputs: Sequence[ScalableInput],
    scales: Callable[[ScalableInput], np.ndarray],
) -> Folding:
    """Folds the scales of each input into the layers that read it and into what makes it."""
    folding = Folding()
    for scaled in inputs:
        found = scales(scaled)
        folding.columns.update(dict.fromkeys(scaled.layers, found))
        for name in scaled.maker.vectors:
            folding.values[name] = captured.params[name].detach().numpy() / found
        if scaled.maker.matrix is not None:
            folding.rows[scaled.maker.matrix] = found
    return folding
