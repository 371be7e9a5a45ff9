"""Pictures in another size, as OpenCV's INTER_AREA and INTER_LINEAR make them, without OpenCV.

Pillow's box filter is not the same: it counts a pixel wholly or not at all.
"""

import numpy as np
from numpy.typing import NDArray


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Returns a picture [H, W, 3] as [height, width, 3].

    An axis that shrinks is averaged over the area of each new pixel, one that grows is
    interpolated between the centres of the old ones.
    """
    rows = _along_first_axis(picture.astype(np.float32), height)
    both = _along_first_axis(rows.swapaxes(0, 1), width).swapaxes(0, 1)
    return np.ascontiguousarray(both.round(), np.uint8)


def _along_first_axis(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    sources, weights = _taps(len(values), size)
    result = np.zeros((size, *values.shape[1:]), np.float32)
    for source, weight in zip(sources, weights, strict=True):
        result += weight[:, None, None] * values[source]
    return result


def _taps(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Returns of which pixels, and how much of each, every new one is made: two arrays [n, new]."""
    ratio = old / new
    if ratio >= 1:
        begins = np.arange(new) * ratio
        taps = np.floor(begins) + np.arange(int(np.ceil(ratio)) + 1)[:, None]
        overlaps = np.minimum(taps + 1, begins + ratio) - np.maximum(taps, begins)
        weights = np.maximum(overlaps, 0.0) / ratio
    else:
        centres = (np.arange(new) + 0.5) * ratio - 0.5
        taps = np.floor(centres) + np.arange(2)[:, None]
        weights = 1.0 - np.abs(taps - centres)
    return taps.clip(0, old - 1).astype(np.intp), weights.astype(np.float32)
