"""A policy file, loaded and ready to act."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actquant_runtime import _core
from actquant_runtime.golden import golden_observation
from actquant_runtime.prompt import PromptTokenizer

STATE_KEY = "observation.state"
TASK_KEY = "task"
IMAGE_PREFIX = "observation.image"
_NUMPY_DTYPES = {"f32": np.float32, "i64": np.int64, "b8": np.bool_}


class Runtime:
    """Runs one policy on the CPU. Safe to use from several threads; calls run one by one."""

    def __init__(self, path: str | Path, threads: int = 0):
        """threads = 0: as many as a model of this size has work for."""
        self._session = _core.Session(str(path), threads)
        self._description = self._read_description()
        self._tokenize = PromptTokenizer(
            self._session.tokenizer_json(), **self._description["tokenizer"]
        )

    def describe(self) -> dict[str, Any]:
        """What the file says: layout, statistics, provenance, allocation, stages, tensors."""
        return self._description

    def act(
        self,
        observation: Mapping[str, Any],
        noise: ArrayLike | None = None,
        seed: int | None = None,
    ) -> NDArray[np.float32]:
        """Actions [chunk_length, action dimension] in the robot's units.

        `observation`: each camera's uint8 image [H, W, 3], "observation.state" [S] and "task".
        `noise` [chunk_length, padded action dimension] is where the flow starts; without it, it is
        drawn from `seed`, or at random.
        """
        tokens, token_mask = self._tokenize(self._task_of(observation))
        return self._session.act(
            self._images_of(observation),
            self._state_of(observation),
            tokens,
            token_mask,
            None if noise is None else np.ascontiguousarray(noise, np.float32),
            seed,
        )

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

    @property
    def timings_ms(self) -> dict[str, float]:
        """vision, prefix, denoise and total of the last action, in milliseconds."""
        return self._session.timings_ms()

    def self_test(self, tolerance: float = 0.01) -> dict[str, Any]:
        """Runs the file's golden cases and compares the actions with those stored.

        The error is ‖a − b‖ / ‖b‖ over the normalised actions. A case passes when its error
        against the stored actions, which this runtime made at conversion, is below `tolerance`;
        `error_to_reference` is against the uncompressed policy and is what compression costs.
        """
        cases = [self._run_golden_case(case) for case in self._description["golden"]]
        return {
            "passed": bool(cases) and all(case["error"] <= tolerance for case in cases),
            "tolerance": tolerance,
            "cases": cases,
        }

    def _run_golden_case(self, case: Mapping[str, Any]) -> dict[str, Any]:
        seed, prompt = case["seed"], case["prompt"]
        observation, noise = golden_observation(
            self._description, seed, prompt, case.get("masked_cameras", ())
        )
        actions = self.act(observation, noise=noise)
        result = {
            "seed": seed,
            "prompt": prompt,
            "error": self._relative_error(actions, case["actions"]),
            "latency_ms": self.timings_ms["total"],
        }
        if case.get("actions_reference") is not None:
            result["error_to_reference"] = self._relative_error(actions, case["actions_reference"])
        return result

    def _relative_error(self, actions: NDArray[np.float32], expected: ArrayLike) -> float:
        layout = self._description["action"]
        scale = np.array(layout["std"]) + self._description["normalization_eps"]
        wanted = (np.array(expected, np.float64) - layout["mean"]) / scale
        got = (actions.astype(np.float64) - layout["mean"]) / scale
        return float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))

    def _read_description(self) -> dict[str, Any]:
        description = json.loads(self._session.describe())
        for key in ("provenance", "allocation", "golden"):
            try:
                description[key] = json.loads(description[key])
            except json.JSONDecodeError as error:
                raise _core.ModelFileError(f"actquant.{key} is no JSON: {error}") from error
        return description

    def _expected_keys(self) -> str:
        return ", ".join([*self._description["cameras"], STATE_KEY, TASK_KEY])

    def _task_of(self, observation: Mapping[str, Any]) -> str:
        task = observation.get(TASK_KEY)
        if not isinstance(task, str):
            raise _core.ArgumentError(
                f"the observation lacks '{TASK_KEY}' (a str); expected {self._expected_keys()}"
            )
        return task

    def _state_of(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        if STATE_KEY not in observation:
            raise _core.ArgumentError(
                f"the observation lacks '{STATE_KEY}'; expected {self._expected_keys()}"
            )
        state = np.ascontiguousarray(observation[STATE_KEY], np.float32)
        size = len(self._description["state"]["names"])
        if state.shape != (size,):
            raise _core.ArgumentError(f"{STATE_KEY} is {state.shape}, expected ({size},)")
        return state

    def _images_of(self, observation: Mapping[str, Any]) -> list[NDArray[np.uint8] | None]:
        cameras = self._description["cameras"]
        given = {key for key in observation if key.startswith(IMAGE_PREFIX)}
        missing = [camera for camera in cameras if camera not in observation]
        # A misspelt camera must not pass for one that was left out on purpose.
        if given - set(cameras) or len(missing) > self._description["optional_cameras"]:
            raise _core.ArgumentError(
                f"the observation has the images {sorted(given)}; expected {cameras}, of which "
                f"{self._description['optional_cameras']} may be absent"
            )
        return [self._image_of(observation, camera) for camera in cameras]

    def _image_of(self, observation: Mapping[str, Any], camera: str) -> NDArray[np.uint8] | None:
        if camera not in observation:
            return None
        image = np.asarray(observation[camera])
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise _core.ArgumentError(
                f"{camera} is {image.dtype} {image.shape}, expected uint8 [height, width, 3]"
            )
        return np.ascontiguousarray(image)
