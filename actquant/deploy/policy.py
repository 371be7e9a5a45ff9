"""A policy file as the control loop sees it: timed chunks on observations, with known noise."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from actquant_runtime import PreviousChunk
from numpy.typing import NDArray

from actquant.control.noise import chunk_noise
from actquant.control.policy import Actions, RuntimePolicy

Noise = Callable[[int], NDArray[np.float32] | None]
"""The noise of an episode's chunk, by its number; None for the runtime's own."""


@dataclass(frozen=True, eq=False)
class Seen:
    """An observation as the policy takes it, and when it was made (time.monotonic).

    `clock_s`: the same by the robot's own clock.
    `camera_time_s`: when the oldest of its pictures came; None where the cameras do not say.
    """

    raw: Mapping[str, Any]
    made_s: float
    camera_time_s: float | None
    clock_s: float


@dataclass(frozen=True)
class Inference:
    """When an observation was made, a chunk computed, and on how old a picture (time.monotonic)."""

    made_s: float
    begin_s: float
    end_s: float
    camera_time_s: float | None


class TimedPolicy:
    """A policy of a file whose chunks are counted and timed, for one episode at a time.

    Raises actquant_runtime.ModelFileError if the file is none.

    Attributes:
        about: all that the file says, the statistics of its training data included.
    """

    def __init__(self, path: Path, threads: int = 0, device: str = "cpu") -> None:
        self._policy = RuntimePolicy(path, threads, device)
        self.about = self._policy.runtime.describe()
        described = self._policy.describe()
        self.name = described.name
        self.state_names, self.action_names = described.state_names, described.action_names
        self.cameras, self.optional_cameras = described.cameras, described.optional_cameras
        self.image_size = described.image_size
        self.rate_hz: float = self.about["control_rate_hz"]
        self.steps_per_chunk = described.steps_per_chunk
        self.chunk_length = described.chunk_length
        self.observation_steps = described.observation_steps
        self.supports_guidance = described.supports_guidance
        self._noise_shape = described.noise_shape
        self._lock = threading.Lock()
        self._inferences: dict[float, Inference] = {}
        self.begin_episode(lambda chunk: None)

    def begin_episode(self, noise: Noise) -> None:
        """Begins an episode: chunks are counted from 0 again."""
        with self._lock:
            self._noise, self._chunk_count = noise, 0
            self._inferences.clear()

    def act(self, seen: Seen, previous: PreviousChunk | None = None) -> Actions:
        """Returns actions [H, A] in the robot's units. May be called from another thread."""
        with self._lock:
            noise = self._noise(self._chunk_count)
            self._chunk_count += 1
        begin = time.monotonic()
        actions = self._policy.act(seen.raw, noise=noise, previous=previous)
        with self._lock:
            self._inferences[seen.clock_s] = Inference(
                seen.made_s, begin, time.monotonic(), seen.camera_time_s
            )
        return actions

    @property
    def lost_tokens(self) -> int:
        """How many tokens the last chunk's prompt lost, for which the policy has no room."""
        return self._policy.runtime.lost_tokens

    def self_test(self) -> dict[str, Any] | None:
        """Runs the file's golden inputs, see `Runtime.self_test`; None if it has none."""
        return self._policy.runtime.self_test() if self.about["golden"] else None

    def take_inference(self, clock_s: float) -> Inference | None:
        """Returns the times of the chunk that answered the observation made then; once."""
        with self._lock:
            return self._inferences.pop(clock_s, None)

    def seeded_noise(self, seed: int, task: str, start: int) -> Noise:
        """Returns noise that follows from (seed, task, start, chunk), as in an evaluation."""

        def noise(chunk: int) -> NDArray[np.float32]:
            return chunk_noise(self._noise_shape, seed, task, start, chunk)

        return noise
