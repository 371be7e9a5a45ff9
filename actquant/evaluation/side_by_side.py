"""One start played by several models, beside each other, each under its own caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actquant.common.files import atomic_path
from actquant.common.outputs import FILM_COMMENT
from actquant.control.policy import open_policy
from actquant.environments.base import Suite
from actquant.evaluation.rollout import run_episode

FONT_SHARE = 1 / 24
"""Of a picture's height."""
HELD_S = 1.5
SUCCESS_COLOUR, FAILURE_COLOUR, CAPTION_COLOUR = (120, 220, 120), (255, 120, 100), (255, 255, 255)


@dataclass
class Panel:
    """One model's episode. caption: lines that stand over it; frames: uint8 [H, W, 3], the one
    after each control step."""

    caption: Sequence[str]
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    success: bool = False

    def at(self, step: int, period_s: float) -> NDArray[np.uint8]:
        """Returns the picture of a step with its caption; the last one when the episode is over,
        which then says how it ended."""
        from PIL import Image, ImageDraw, ImageFont

        last = len(self.frames) - 1
        picture = Image.fromarray(self.frames[min(step, last)])
        size = FONT_SHARE * picture.height
        lines = [(line, CAPTION_COLOUR) for line in self.caption]
        if step >= last:
            word = "success" if self.success else "failure"
            colour = SUCCESS_COLOUR if self.success else FAILURE_COLOUR
            lines.append((f"{word} after {len(self.frames) * period_s:.1f} s", colour))
        drawing, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
        for number, (line, colour) in enumerate(lines):
            place = (size / 2, size / 2 + 1.25 * size * number)
            drawing.text(place, line, fill=colour, font=font, stroke_width=1, stroke_fill=(0, 0, 0))
        return np.asarray(picture)


def play(suite: Suite, model: Path, caption: Sequence[str], task: str, start: int) -> Panel:
    """Returns the episode of a model from a numbered start, seen from where all of the robot is."""
    panel = Panel(caption)
    episode = run_episode(
        suite,
        open_policy(model),
        task,
        start,
        on_step=lambda environment: panel.frames.append(environment.overview()),
    )
    panel.success = episode.success
    return panel


def write_gif(path: Path, panels: Sequence[Panel], period_s: float) -> None:
    """Writes panels of one height beside each other, at the pace of their control steps; the end
    is held for HELD_S."""
    import imageio.v3 as imageio

    length = max(len(panel.frames) for panel in panels) + round(HELD_S / period_s)
    frames = [np.concatenate([p.at(i, period_s) for p in panels], axis=1) for i in range(length)]
    with atomic_path(path) as temporary:
        imageio.imwrite(
            temporary,
            np.stack(frames),
            extension=".gif",
            duration=1e3 * period_s,
            loop=0,
            comment=FILM_COMMENT,
        )
