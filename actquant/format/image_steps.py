"""The steps from a camera's image to the policy's (docs/format.md), in PyTorch and Pillow.

What any other implementation is compared with; the native runtime does not use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from actquant.common.errors import ModelFileError

Options = Mapping[str, str]
PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
KERNELS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, lambda x: 1 - x),
    "bicubic": (2, lambda x: torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, _outer_cubic(x))),
    "lanczos": (3, lambda x: torch.sinc(x) * torch.sinc(x / 3)),
}
"""Of an antialiased filter: its radius in pixels, and its weight at a distance within it."""


def _outer_cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5, from 1 to 2."""
    return -0.5 * (((x - 5) * x + 8) * x - 4)


def antialiasing_weights(source: int, target: int, kind: str) -> Tensor:
    """Returns f64 [target, source] weights of a resize with half-pixel centres, widened to
    shrink."""
    radius, kernel = KERNELS[kind]
    ratio = source / target
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio - 0.5
    distances = (torch.arange(source, dtype=torch.float64) - centres[:, None]).abs()
    distances /= max(ratio, 1.0)
    weights = torch.where(distances < radius, kernel(distances), 0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def apply_image_steps(image: np.ndarray, steps: Sequence[str]) -> Tensor:
    """Applies the steps: uint8 [h, w, 3] -> f32 [3, H, W], values 0 … 255.

    Raises ModelFileError for a wrong step.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    for step in steps:
        name, *words = step.split()
        options = dict(word.split("=", 1) for word in words)
        try:
            pixels = STEPS[name](pixels, options)
        except (KeyError, ValueError) as error:
            raise ModelFileError(
                f"image step {step!r} is unknown or incomplete: {error}"
            ) from error
        if options.get("round") == "1":
            pixels = pixels.round().clamp(0, 255)
        pixels = pixels.float()
    return pixels


def _target(options: Options) -> tuple[int, int]:
    return int(options["height"]), int(options["width"])


def _scale(pixels: Tensor, size: tuple[int, int], options: Options) -> Tensor:
    kind, (height, width) = options["filter"], size
    if options["antialias"] == "1":
        if options["round"] == "2":
            whole = Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy())
            scaled = np.asarray(whole.resize((width, height), PILLOW[kind]))
            return torch.from_numpy(scaled.copy()).permute(2, 0, 1).float()
        rows = antialiasing_weights(pixels.shape[1], height, kind)
        columns = antialiasing_weights(pixels.shape[2], width, kind)
        return rows @ pixels.double() @ columns.T
    if kind == "lanczos":
        raise ValueError("lanczos needs antialias=1")
    return F.interpolate(pixels[None], size=size, mode=kind, align_corners=False)[0]


def _resize(pixels: Tensor, options: Options) -> Tensor:
    return _scale(pixels, _target(options), options)


def _resize_pad(pixels: Tensor, options: Options) -> Tensor:
    (height, width), (h, w) = _target(options), pixels.shape[1:]
    ratio = max(w / width, h / height)
    size = (max(int(h / ratio), 1), max(int(w / ratio), 1))
    scaled = _scale(pixels, size, options)
    missing = (height - size[0], width - size[1])
    top, left = {"end": missing, "center": (missing[0] // 2, missing[1] // 2)}[options["anchor"]]
    padding = torch.tensor([float(value) for value in options["value"].split(",")])
    if len(padding) not in (1, len(pixels)):
        raise ValueError(f"value={options['value']} is neither one number nor one for each channel")
    padded = padding.reshape(-1, 1, 1).repeat(len(pixels) // len(padding), height, width)
    padded[:, top : top + size[0], left : left + size[1]] = scaled
    return padded


def _center_crop(pixels: Tensor, options: Options) -> Tensor:
    (height, width), (h, w) = _target(options), pixels.shape[1:]
    if h < height or w < width:
        raise ValueError(f"the image is only {h} x {w}")
    top, left = round((h - height) / 2), round((w - width) / 2)
    return pixels[:, top : top + height, left : left + width]


def _crop_resize(pixels: Tensor, options: Options) -> Tensor:
    side = float(options["fraction"]) ** 0.5
    axes = [torch.linspace(-side, side, size) for size in _target(options)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack((x, y), dim=-1)[None]
    return F.grid_sample(pixels[None], grid, "bilinear", "border", align_corners=True)[0]


STEPS: dict[str, Callable[[Tensor, Options], Tensor]] = {
    "resize": _resize,
    "resize_pad": _resize_pad,
    "center_crop": _center_crop,
    "crop_resize": _crop_resize,
}
