"""One client's connection: its names for what the policy takes, its window, its last chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from actquant_runtime import ObservationWindow, PreviousChunk
from actquant_runtime.previous import Schedule
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actquant.serve.messages import MessageError
from actquant.serve.settings import ServeError

OPTIONS = "actquant"
"""Key of what a message says beside the observation; see `Options`."""
TASK, STATE, PROMPT = "task", "observation.state", "prompt"


class Options(BaseModel):
    """What a client may ask for beside a chunk."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    seed: int | None = Field(default=None, ge=0, lt=2**64)
    """Of the noise; without one it is drawn at random."""
    noise: np.ndarray | None = None
    """The noise itself, of `noise_shape`."""
    whole: bool = False
    """The observation has all its steps, [T, H, W, 3] and [T, S] of a policy that takes T > 1."""
    reset: bool = False
    """An episode begins: earlier observations and chunks are forgotten."""
    executed: int | None = Field(default=None, ge=0)
    """How many actions of the last chunk were executed when this observation was made: the new
    chunk is guided to begin as the rest goes on (real-time chunking)."""
    delay: int = Field(default=0, ge=0)
    """How many of that rest will have been executed when the new chunk is there."""
    execution_horizon: int = Field(default=PreviousChunk.execution_horizon, ge=1)
    previous: np.ndarray | None = None
    """The rest itself, [n, A], of whatever chunk; instead of `executed`."""
    max_guidance: float = Field(default=PreviousChunk.max_guidance, gt=0, allow_inf_nan=False)
    schedule: Schedule = "linear"


class Names:
    """A policy's inputs by all the names that a client may use for them.

    Those are the policy's own, the same with slashes for dots (as openpi writes them), the last
    part alone (`scene` for `observation.images.scene`, `state`), `prompt` for the task, and what
    `renamed` (a client's name -> the policy's, or nothing to leave it out) says.

    Raises ServeError if `renamed` leads to what the policy does not take.
    """

    def __init__(self, about: Mapping[str, Any], renamed: Mapping[str, str]) -> None:
        self.wanted = list(about["cameras"])
        self.wanted += [STATE] if about["state"]["names"] else []
        self.wanted += [TASK] if about["prompt"] is not None else []
        for theirs, ours in renamed.items():
            if ours and ours not in self.wanted:
                raise ServeError(
                    f"--rename {theirs}={ours}: this policy takes {', '.join(self.wanted)}"
                )
        self._known: dict[str, str] = {}
        for name in self.wanted:
            self._known |= {name.rpartition(".")[2]: name}
        for name in self.wanted:
            self._known |= {name: name, name.replace(".", "/"): name}
        if TASK in self.wanted:
            self._known[PROMPT] = TASK
        self._known |= renamed  # to nothing: left out
        # A policy that takes no task or no state still gets them from a client that always sends.
        self._ignored = {TASK, PROMPT, STATE, STATE.replace(".", "/"), "state"} - set(self._known)

    def observation(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a message as `Runtime.act` names it. Raises MessageError for other names."""
        observation: dict[str, Any] = {}
        for key, value in message.items():
            if key == OPTIONS or key in self._ignored:
                continue
            name = self._known.get(key)
            if name == "":
                continue
            if name is None:
                raise MessageError(
                    f"unknown key {key!r:.80}; this policy takes {', '.join(self.wanted)} "
                    "(--rename on the server)"
                )
            if name in observation:
                raise MessageError(f"{name} is there twice, also as {key!r:.80}")
            observation[name] = value
        return observation


@dataclass(frozen=True, eq=False)
class Asked:
    """What a message asks for; see `Runtime.act`."""

    observation: dict[str, Any]
    noise: np.ndarray | None
    seed: int | None
    previous: PreviousChunk | None


class Session:
    """What the server keeps of a client between its messages.

    steps: how many consecutive observations the policy takes.
    """

    def __init__(self, names: Names, steps: int) -> None:
        self._names, self._steps = names, steps
        self._forget()

    def _forget(self) -> None:
        self._window = ObservationWindow(self._steps)
        self._chunk: np.ndarray | None = None

    def take(self, message: Mapping[str, Any]) -> Asked:
        """Takes a message; returns what it asks for.

        Raises MessageError for what does not fit.
        """
        options = _options(message.get(OPTIONS, {}))
        observation = self._names.observation(message)
        for name, value in observation.items():
            if name == TASK and not isinstance(value, str):
                raise MessageError(f"{TASK} is {type(value).__name__}, expected a text")
            if name != TASK and not isinstance(value, np.ndarray | list):
                raise MessageError(f"{name} is {type(value).__name__}, expected an array")
        if STATE in observation:
            observation[STATE] = _numbers(observation[STATE])
        if options.reset:
            self._forget()
        if not options.whole:
            try:
                self._window.append(observation)
                observation = self._window.observation
            except ValueError as error:  # of shapes that change from one step to the next
                raise MessageError(str(error)) from error
        return Asked(observation, options.noise, options.seed, self._previous(options))

    def keep(self, actions: np.ndarray) -> None:
        """Keeps the chunk [H, A] that was sent."""
        self._chunk = actions

    def _previous(self, options: Options) -> PreviousChunk | None:
        rest = options.previous
        if rest is None and options.executed is not None and self._chunk is not None:
            rest = self._chunk[options.executed :]
        if rest is not None and rest.ndim != 2:
            raise MessageError(f"{OPTIONS}.previous is {rest.shape}, expected [n, A]")
        if rest is None or len(rest) == 0:
            return None
        return PreviousChunk(
            rest,
            min(options.delay, len(rest)),
            options.execution_horizon,
            options.max_guidance,
            options.schedule,
        )


def _options(given: Any) -> Options:
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise MessageError(f"{OPTIONS}.{where}: {first['msg']}") from error


def _numbers(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"an array of {array.dtype}")
        return array.astype(np.float32)
    except ValueError as error:
        raise MessageError(f"{STATE}: {error}") from error
