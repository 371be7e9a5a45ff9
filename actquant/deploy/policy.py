"""A policy file as the control loop sees it: timed chunks on observations, with known noise."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actquant.control.noise import chunk_noise

if TYPE_CHECKING:
    from actquant_runtime import PreviousChunk

Actions = NDArray[np.float32]
Noise = Callable[[int], NDArray[np.float32] | None]
"""The noise of an episode's chunk, by its number; None for the runtime's own."""


@dataclass(frozen=True, eq=False)
class Seen:
    """An observation as the policy takes it, and when it was made (time.monotonic).

    `camera_time_s`: when the oldest of its pictures came; None where the cameras do not say.
    """

    raw: Mapping[str, Any]
    made_s: float
    camera_time_s: float | None


@dataclass(frozen=True)
class Inference:
    """When a chunk was computed, and on how old a picture (time.monotonic)."""

    begin_s: float
    end_s: float
    camera_time_s: float | None


class Policy:
    """Opens a file. Raises actquant_runtime.ModelFileError if it is none."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        from actquant_runtime import Runtime

        self._runtime = Runtime(str(path), threads=threads)
        self.about = about = self._runtime.describe()
        self.name: str = about["name"]
        self.state_names: list[str] = about["state"]["names"]
        self.action_names: list[str] = about["action"]["names"]
        self.cameras: list[str] = about["cameras"]
        self.optional_cameras: int = about["optional_cameras"]
        self.rate_hz: float = about["control_rate_hz"]
        self.steps_per_chunk: int = about["action"]["steps_per_chunk"]
        self.chunk_length: int = about["action"]["chunk_length"]
        self.observation_steps: int = about["observation_steps"]
        self.supports_guidance: bool = about["supports_guidance"]
        image = about["image"]
        self.image_size: tuple[int, int] = (image["source_height"], image["source_width"])
        self._lock = threading.Lock()
        self._inferences: dict[float, Inference] = {}
        self.begin_episode(lambda chunk: None)

    def begin_episode(self, noise: Noise) -> None:
        """Chunks are counted from 0 again."""
        with self._lock:
            self._noise, self._chunk_count = noise, 0
            self._inferences.clear()

    def act(self, seen: Seen, previous: "PreviousChunk | None" = None) -> Actions:
        """Actions [H, A] in the robot's units. May be called from another thread."""
        with self._lock:
            noise = self._noise(self._chunk_count)
            self._chunk_count += 1
        begin = time.monotonic()
        actions = self._runtime.act(seen.raw, noise=noise, previous=previous)
        with self._lock:
            self._inferences[seen.made_s] = Inference(begin, time.monotonic(), seen.camera_time_s)
        return actions

    def take_inference(self, made_s: float) -> Inference | None:
        """The times of the chunk that answered the observation made then; once."""
        with self._lock:
            return self._inferences.pop(made_s, None)

    def seeded_noise(self, seed: int, task: str, start: int) -> Noise:
        """Noise that follows from (seed, task, start, chunk), the same as `actquant eval` draws."""
        shape = tuple(self.about["noise_shape"])

        def noise(chunk: int) -> NDArray[np.float32]:
            return chunk_noise(shape, seed, task, start, chunk)

        return noise
