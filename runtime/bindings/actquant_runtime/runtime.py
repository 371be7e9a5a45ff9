"""A policy file, loaded and ready to act."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actquant_runtime import _core
from actquant_runtime.hub import find_model
from actquant_runtime.previous import PreviousChunk

STATE_KEY = "observation.state"
TASK_KEY = "task"
IMAGE_PREFIX = "observation.image"
_SEEDS = 2**64
_NUMPY_DTYPES = {"f32": np.float32, "i64": np.int64, "b8": np.bool_}


class PromptCutWarning(UserWarning):
    """A prompt is longer than the policy takes and loses its end."""


class DeviceWarning(UserWarning):
    """A device lacks operators of a policy, which then run on the processor."""


class Runtime:
    """Runs one policy. Safe to use from several threads; calls run one by one."""

    def __init__(self, path: str | Path, threads: int = 0, device: str = "cpu"):
        """path: a file, or `organisation/name[@revision][:FILE.gguf]` of the Hugging Face hub (see
        `hub.find_model`). threads = 0: as many as a model of this size has work for. device: "cpu",
        "vulkan" or "cuda" (the first of the kind), "auto" (the first GPU, or else the processor),
        or one of several, e.g. "vulkan1".

        Raises ModelFileError if the file is none of ours or damaged, HubError, which is one, if the
        hub does not give it, ArgumentError, which names the devices there are, if there is no such.
        Warns (DeviceWarning) of operators that the device leaves to the processor.
        """
        self._session = _core.Session(str(find_model(path)), threads, device)
        self._description = self._read_description()
        if left := self._description["operators_on_cpu"]:
            warnings.warn(
                f"{path}: {self._description['device']} leaves to the processor: {', '.join(left)}",
                DeviceWarning,
                stacklevel=2,
            )

    def describe(self) -> dict[str, Any]:
        """Returns layout, statistics, provenance, allocation, stages and tensors of the file."""
        return self._description

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the noise of one chunk: [rows, dim], [1 + fresh, rows, dim] where steps draw noise of
        their own, (0,) for a policy that does not sample."""
        return tuple(self._description["noise_shape"])

    def act(
        self,
        observation: Mapping[str, Any],
        noise: ArrayLike | None = None,
        seed: int | None = None,
        previous: PreviousChunk | None = None,
    ) -> NDArray[np.float32]:
        """Samples a chunk from `noise`, else from noise drawn from `seed`, else from random noise.

        Returns actions [chunk_length, action dimension] in the robot's units. The same noise, or
        the same seed, gives the same actions; a policy that does not sample needs neither.

        `observation`: each camera's uint8 image [H, W, 3], "observation.state" [S] and "task", as
        far as the policy takes them. For a policy with T > 1 observation steps, images are
        [T, H, W, 3] and the state is [T, S], oldest step first. `noise`: of `noise_shape`. `seed`:
        0 … 2⁶⁴ − 1, the same noise on every machine.

        With `previous`, the chunk is guided to begin as the one before goes on (real-time
        chunking), which a policy with "supports_guidance" in `describe` takes.

        Raises ArgumentError naming what does not fit the policy. Warns (PromptCutWarning) once for
        each task whose prompt is longer than the policy takes.
        """
        guidance = {} if previous is None else {"previous": self._native(previous)}
        actions = self._session.act(
            self._images_of(observation),
            self._state_of(observation),
            self._task_of(observation),
            None if noise is None else self._checked_noise(noise),
            None if seed is None else _checked_seed(seed),
            **guidance,
        )
        if lost := self.lost_tokens:
            warnings.warn(
                _cut(self._description["prompt"], lost, observation), PromptCutWarning, stacklevel=2
            )
        return actions

    def tokenize(self, observation: Mapping[str, Any]) -> NDArray[np.int64]:
        """Returns the prompt of an observation's task and state, without padding."""
        task = self._task_of(observation)
        if task is None:
            raise _core.ArgumentError("this policy takes no language")
        return self._session.tokenize(task, self._state_of(observation))

    def run_stage(self, name: str, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Runs one stage alone, to compare it with a reference."""
        stages = self._description["stages"]
        if name not in stages:
            raise _core.ArgumentError(f"there is no stage '{name}'; there are {list(stages)}")
        dtypes = {value["name"]: value["dtype"] for value in stages[name]["inputs"]}
        arrays = {
            key: np.ascontiguousarray(value, _NUMPY_DTYPES[dtypes.get(key, "f32")])
            for key, value in inputs.items()
        }
        return self._session.run_stage(name, arrays)

    def profile(self, observation: Mapping[str, Any], runs: int = 3) -> dict[str, Any]:
        """Acts operator by operator and returns what each costs in one action.

        "operators": stage, op, kernel, calls, ms, operations (multiplications and additions;
        elements where it does not multiply), weight_bytes (of the file's tensors, as they are
        stored), and least_ms, what these would take at "reach_per_s": the operations that each kind
        of product reaches with so many threads and all operands in the first cache, and the bytes
        that come from memory. "stages": the sums.
        """
        return json.loads(
            self._session.profile(
                self._images_of(observation),
                self._state_of(observation),
                self._task_of(observation),
                runs,
            )
        )

    @property
    def timings_ms(self) -> dict[str, float]:
        """vision, prefix, denoise and total of the last action, in milliseconds."""
        return self._session.timings_ms()

    @property
    def lost_tokens(self) -> int:
        """How many tokens the last action's prompt lost, for which the policy has no room."""
        return self._session.lost_tokens()

    def self_test(self) -> dict[str, Any]:
        """Runs the file's golden inputs and compares with what it answered where it was made.

        Returns `passed`, `inputs`, `mean` and `worst` (distances of the chunks: root mean square
        differences in standard deviations of each action), the `limit` of `worst`, and
        `reference_mean` and `reference_worst`, from the policy before compression.

        Raises ModelFileError if the file has no golden values.
        """
        return _core.self_test(self._session)

    def _read_description(self) -> dict[str, Any]:
        description = json.loads(self._session.describe())
        for key in ("provenance", "allocation", "golden"):
            try:
                description[key] = json.loads(description[key])
            except ValueError as error:  # a byte order mark
                raise _core.ModelFileError(f"actquant.{key} cannot be read: {error}") from error
        return description

    @property
    def _takes_language(self) -> bool:
        return self._description["prompt"] is not None

    def _expected_keys(self) -> str:
        keys = list(self._description["cameras"])
        keys += [STATE_KEY] if self._description["state"]["names"] else []
        keys += [TASK_KEY] if self._takes_language else []
        return ", ".join(keys)

    def _task_of(self, observation: Mapping[str, Any]) -> str | None:
        if not self._takes_language:
            return None
        task = observation.get(TASK_KEY)
        if not isinstance(task, str):
            raise _core.ArgumentError(
                f"the observation lacks '{TASK_KEY}' (a str); expected {self._expected_keys()}"
            )
        if "\0" in task:
            raise _core.ArgumentError(f"'{TASK_KEY}' has a NUL character: {task[:80]!r}")
        return task

    def _checked_noise(self, noise: ArrayLike) -> NDArray[np.float32]:
        values = _array("noise", noise, np.float32)
        if values.shape != self.noise_shape:
            raise _core.ArgumentError(f"noise is {values.shape}, expected {self.noise_shape}")
        return values

    def _native(self, previous: PreviousChunk) -> _core.PreviousChunk:
        actions = _array("the previous actions", previous.actions, np.float32)
        size = len(self._description["action"]["names"])
        if actions.ndim != 2 or actions.shape[1] != size:
            raise _core.ArgumentError(
                f"the previous actions are {actions.shape}, expected [n, {size}]"
            )
        return _core.PreviousChunk(
            actions,
            previous.delay,
            previous.execution_horizon,
            previous.max_guidance,
            previous.schedule,
        )

    def _state_of(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """[T, S]"""
        steps = self._description["observation_steps"]
        size = len(self._description["state"]["names"])
        if size == 0:
            return np.zeros((steps, 0), np.float32)
        if STATE_KEY not in observation:
            raise _core.ArgumentError(
                f"the observation lacks '{STATE_KEY}'; expected {self._expected_keys()}"
            )
        state = _array(STATE_KEY, observation[STATE_KEY], np.float32)
        expected = (size,) if steps == 1 else (steps, size)
        if state.shape != expected:
            raise _core.ArgumentError(f"{STATE_KEY} is {state.shape}, expected {expected}")
        return state.reshape(steps, size)

    def _images_of(self, observation: Mapping[str, Any]) -> list[NDArray[np.uint8] | None]:
        """Observation steps x cameras, oldest step first."""
        cameras = self._description["cameras"]
        given = {key for key in observation if key.startswith(IMAGE_PREFIX)}
        missing = [camera for camera in cameras if camera not in observation]
        # A misspelt camera must not pass for one that was left out on purpose.
        if given - set(cameras) or len(missing) > self._description["optional_cameras"]:
            raise _core.ArgumentError(
                f"the observation has the images {sorted(given)}; expected {cameras}, of which "
                f"{self._description['optional_cameras']} may be absent"
            )
        by_camera = [self._images_of_camera(observation, camera) for camera in cameras]
        return [image for step in zip(*by_camera, strict=True) for image in step]

    def _images_of_camera(
        self, observation: Mapping[str, Any], camera: str
    ) -> list[NDArray[np.uint8] | None]:
        steps = self._description["observation_steps"]
        if camera not in observation:
            return [None] * steps
        images = _array(camera, observation[camera])
        layout = "[height, width, 3]" if steps == 1 else f"[{steps}, height, width, 3]"
        if steps == 1:
            images = images[None]
        fits = images.ndim == 4 and images.shape[0] == steps and images.shape[3] == 3
        if images.dtype != np.uint8 or not fits:
            raise _core.ArgumentError(
                f"{camera} is {images.dtype} {np.shape(observation[camera])}, expected uint8 "
                f"{layout}"
            )
        return [np.ascontiguousarray(image) for image in images]


def _array(name: str, value: Any, dtype: Any = None) -> NDArray[Any]:
    try:
        return np.ascontiguousarray(value, dtype)
    except (TypeError, ValueError) as error:  # of rows of different lengths, or no numbers
        raise _core.ArgumentError(f"{name} is no array of numbers: {error}") from error


def _cut(prompt: Mapping[str, Any], lost: int, observation: Mapping[str, Any]) -> str:
    return (
        f"the policy takes {prompt['max_length']} tokens, {lost} fewer than the prompt of the task "
        f"{observation[TASK_KEY]!r} has: it does not see the end"
    )


def _checked_seed(seed: int) -> int:
    if not 0 <= seed < _SEEDS:
        raise _core.ArgumentError(f"seed is {seed}, expected 0 to {_SEEDS - 1}")
    return int(seed)
