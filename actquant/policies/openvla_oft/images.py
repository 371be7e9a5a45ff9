"""From a camera's image to the policy's, as the published evaluation does it with TensorFlow.

Its round trip through JPEG is left out; it imitates the training data and is no part of the policy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actquant.format.image_steps import antialiasing_weights

CROP_FRACTION = 0.9
"""Area of the middle part that is kept, where training cropped images at random."""


def crop_weights(size: int, fraction: float) -> Tensor:
    """Returns [size, size] weights that sample the middle part, corners included, linearly."""
    side = math.sqrt(fraction)
    start = (1 - side) / 2 * (size - 1)
    points = start + torch.arange(size, dtype=torch.float64) * side
    lower = points.floor().long().clamp(0, size - 2)
    upper_share = (points - lower)[:, None]
    weights = torch.zeros(size, size, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], 1 - upper_share)
    weights.scatter_(1, lower[:, None] + 1, upper_share)
    return weights.float()


def prepare(image: Tensor, size: int, center_crop: bool) -> Tensor:
    """Prepares an image: uint8 [H, W, 3] -> float32 [3, size, size] in [0, 1]."""
    pixels = image.permute(2, 0, 1).float()
    height, width = pixels.shape[1:]
    if (height, width) != (size, size):
        rows, columns = (antialiasing_weights(n, size, "lanczos") for n in (height, width))
        pixels = (rows @ pixels.double() @ columns.T).round().clamp(0, 255).float()
    if center_crop:
        weights = crop_weights(size, CROP_FRACTION)
        pixels = weights @ pixels @ weights.T
    return pixels / 255


def steps(size: int, center_crop: bool) -> tuple[str, ...]:
    """Returns the same as a file's `image.steps`."""
    resize = f"resize height={size} width={size} filter=lanczos antialias=1 round=1"
    crop = f"crop_resize fraction={CROP_FRACTION} height={size} width={size}"
    return (resize, crop) if center_crop else (resize,)
