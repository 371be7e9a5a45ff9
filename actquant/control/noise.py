"""The noise that a policy samples from, so that two models are compared on the same draws."""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def chunk_noise(
    shape: Sequence[int], seed: int, task: str, start: int, chunk: int
) -> NDArray[np.float32]:
    """Draws the noise of a chunk: it follows from (seed, task, start, chunk) alone.

    shape: the policy's `noise_shape`; chunk: its number within the episode, from 0.
    """
    generator = np.random.default_rng([seed, zlib.crc32(task.encode()), start, chunk])
    return generator.standard_normal(tuple(shape), dtype=np.float32)
