"""What an episode looked like: a small video, with the actions and latencies that belong to it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from actquant.common.files import atomic_path, write_text
from actquant.common.outputs import RECORDING, check_output

if TYPE_CHECKING:
    from actquant.evaluation.rollout import Episode

LARGEST_VIDEO_BYTES = 100_000
_QUALITIES = ((256, 28), (256, 34), (192, 36), (128, 38), (96, 44))
"""Longest side in pixels and H.264's constant rate factor, the best first."""


class Recording(BaseModel):
    """What is kept beside a video. actions: [steps][A], in the robot's units; latencies_ms: one a
    chunk; asked: the step in which each was asked for, every `steps_per_chunk` if left out."""

    model_config = ConfigDict(extra="forbid")

    task: str
    start: int
    instruction: str
    success: bool
    failure: str
    model_sha256: str
    seed: int
    control_rate_hz: float
    steps_per_chunk: int
    action_names: list[str]
    actions: list[list[float]]
    latencies_ms: list[float]
    asked: list[int] | None = None

    @classmethod
    def beside(cls, video: Path) -> Recording | None:
        """Returns what is kept beside a video, None where there is no such file."""
        try:
            return cls.model_validate_json(video.with_suffix(".json").read_bytes())
        except (OSError, ValidationError):
            return None


@dataclass
class Film:
    """What is seen and done in one episode.

    frames: uint8 [H, W, 3], the first one before any action, no side longer than 256; instruction:
    what the environment asks for; asked: the step in which each chunk was asked for.
    """

    instruction: str = ""
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def see(self, picture: NDArray[np.uint8]) -> None:
        """Adds a picture."""
        self.frames.append(_scaled(picture, _QUALITIES[0][0]))


@dataclass(frozen=True)
class Videos:
    """Where recordings go, and of which episodes.

    folder: of videos; prefix: of their names; beside: the folder that results name them from;
    all: successes too.
    """

    folder: Path
    prefix: str
    beside: Path
    all: bool = False

    def path(self, task: str, start: int) -> Path:
        """Returns where the video of an episode goes."""
        return self.folder / f"{self.prefix}-{task}-{start}.mp4"

    def check(self, episodes: Iterable[tuple[str, int]], *, force: bool = False) -> None:
        """Makes the folder; raises what `check_output` raises for a video or what goes beside it,
        and ModuleNotFoundError where no video can be made."""
        import av  # noqa: F401

        self.folder.mkdir(parents=True, exist_ok=True)
        for task, start in episodes:
            video = self.path(task, start)
            for path in (video, video.with_suffix(".json")):
                check_output(path, RECORDING, [], force=force)

    def keep(self, film: Film, about: Recording) -> str:
        """Writes a recording; returns its video's place for the result."""
        video = self.path(about.task, about.start)
        write_video(video, film.frames, about.control_rate_hz)
        write_text(video.with_suffix(".json"), about.model_dump_json())
        return self._place(video)

    def take_over(self, task: str, start: int, video: bytes, about: bytes) -> str:
        """Writes a recording that `keep` made on another machine; returns as it does."""
        path = self.path(task, start)
        with atomic_path(path) as temporary:
            temporary.write_bytes(video)
        with atomic_path(path.with_suffix(".json")) as temporary:
            temporary.write_bytes(about)
        return self._place(path)

    def _place(self, video: Path) -> str:
        return Path(os.path.relpath(video, self.beside)).as_posix()

    def wants(self, episode: Episode) -> bool:
        """Returns whether an episode is kept."""
        return self.all or not episode.success


def write_video(path: Path, frames: list[NDArray[np.uint8]], rate_hz: float) -> None:
    """Writes frames uint8 [H, W, 3] as H.264 in MP4, in the best of a few qualities that takes no
    more than LARGEST_VIDEO_BYTES, else in the last."""
    with atomic_path(path) as temporary:
        for side, factor in _QUALITIES:
            _encode(temporary, frames, rate_hz, side, factor)
            if temporary.stat().st_size <= LARGEST_VIDEO_BYTES:
                return


def _encode(
    path: Path, frames: list[NDArray[np.uint8]], rate_hz: float, side: int, factor: int
) -> None:
    from fractions import Fraction

    import av

    # The index stands in front, so that a page can play what it holds.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(rate_hz).limit_denominator(1000),
            options={"crf": str(factor), "preset": "slow"},
        )
        stream.height, stream.width = _scaled(frames[0], side).shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(_scaled(frame, side), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _scaled(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns a picture with even sides of at most `side` pixels."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    wanted = (_even(scale * width), _even(scale * height))
    if wanted == (width, height):
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(wanted, Image.Resampling.BOX))


def _even(length: float) -> int:
    return max(2, round(length) // 2 * 2)
