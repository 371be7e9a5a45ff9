"""Which rows and columns of a large matrix its statistics are taken of."""

from __future__ import annotations

import numpy as np

SAMPLED_WEIGHTS = 1 << 18
"""Of a matrix with more weights, some rows stand for all where only the error of each type is
asked: to encode more would take microseconds a weight."""
LARGEST_SPAN = 4096
"""Columns whose second moments are taken together; those of more would take gigabytes."""


def sampled_rows(rows: int, columns: int) -> np.ndarray | None:
    """Returns which rows [n] of a matrix stand for all, in order: so many that they have about
    SAMPLED_WEIGHTS weights, chosen at random but always the same. None for all rows."""
    count = -(-SAMPLED_WEIGHTS // columns)
    if count >= rows:
        return None
    return np.sort(np.random.default_rng([rows, columns]).choice(rows, count, replace=False))


def column_spans(columns: int) -> list[slice]:
    """Returns the spans of a matrix's columns whose second moments are taken together: equal parts
    of at most LARGEST_SPAN, in whole blocks of 256."""
    count = -(-columns // LARGEST_SPAN)
    width = columns if count == 1 else 256 * -(-columns // (256 * count))
    return [slice(begin, min(begin + width, columns)) for begin in range(0, columns, width)]
