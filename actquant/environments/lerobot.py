"""Environments of LeRobot's factory and of its plugins, as suites.

LeRobot makes them, from options as `lerobot-eval --env.KEY=VALUE` takes them, and turns what they
show into a policy's inputs and a policy's actions into theirs. An environment is stepped alone, not
as the vector of one in which LeRobot puts it: that one begins the next episode as soon as one ends.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import EvaluationError, brief
from actquant.common.extras import explain_missing
from actquant.control.window import Observation
from actquant.environments.base import SUITES, Step, SuiteFacts, require_task

PICTURE = "observation.image"
ACTION = "action"
NOT_A_PICTURE = "it is no uint8 [H, W, 3]"


class LeRobotEnvironment:
    """One task. Start k is a reset with the seed k, as `lerobot-eval --seed=k` begins.

    vector: LeRobot's vector of one environment; processors: LeRobot's for observations and for
    actions.
    """

    def __init__(self, name: str, vector: Any, processors: tuple[Any, Any]) -> None:
        """Raises EvaluationError for what is not stepped alone, or has no end."""
        if len(getattr(vector, "envs", ())) != 1:
            raise EvaluationError(
                f"environment '{name}' is made by LeRobot as {type(vector).__name__}, of which no "
                "single one can be stepped"
            )
        self.name = name
        self._vector, self._env = vector, vector.envs[0]
        self._prepare, self._finish = processors
        self.most_steps = self._attribute("_max_episode_steps")
        if self.most_steps is None:
            raise EvaluationError(
                f"environment '{name}' does not say when an episode is over at the latest "
                "(_max_episode_steps), without which LeRobot does not evaluate in it either"
            )
        self.steps, self._success = 0, False

    @property
    def raw(self) -> Any:
        """The environment itself, without wrappers."""
        return self._env.unwrapped

    @property
    def instruction(self) -> str:
        """What the environment asks for; empty if it has no words."""
        told = self._attribute("task_description")
        return str(self._attribute("task") or "") if told is None else str(told)

    def features(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of what is observed and of the action, without an episode.

        Raises EvaluationError for observations that are not as LeRobot takes them.
        """
        from gymnasium.vector.utils import create_empty_array

        try:
            empty = create_empty_array(self._env.observation_space, n=1)
            seen = self._observation(empty)
        except EvaluationError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"observations of environment '{self.name}' are not as LeRobot takes them: "
                f"{type(error).__name__}: {brief(error)}"
            ) from error
        shapes = {key: np.shape(value) for key, value in seen.items()}
        return {**shapes, ACTION: self._env.action_space.shape}

    def reset(self, start: int) -> Observation:
        """Begins an episode with the start as its seed."""
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        seen, _ = self._env.reset(seed=start, options={NEW_ROLLOUT_OPTION: True})
        self.steps, self._success = 0, False
        return self._observation(self._batch(seen))

    def step(self, action: NDArray[np.float32], *, look: bool = True) -> Step:
        """Executes an action [A] for one control period; the environment draws its pictures whether
        or not somebody looks.

        An episode has succeeded if the environment says so (`is_success`) after any of its steps.
        """
        import torch

        finished = self._finish({ACTION: torch.from_numpy(np.array(action, np.float32)[None])})
        given = finished[ACTION].numpy()[0]
        if given.shape != self._env.action_space.shape:
            raise EvaluationError(
                f"the policy gives actions of {given.size} numbers, environment '{self.name}' "
                f"takes {self._env.action_space.shape}"
            )
        seen, reward, terminated, truncated, info = self._env.step(given)
        self.steps += 1
        self._success |= bool(np.any(info.get("is_success", False)))
        return Step(
            self._observation(self._batch(seen)) if look else None,
            done=bool(terminated or truncated) or self.steps >= self.most_steps,
            success=self._success,
            reward=float(reward),
        )

    def hold(self, last: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Raises EvaluationError: LeRobot does not say which action moves nothing."""
        raise EvaluationError(f"nobody says which action holds the robot of '{self.name}'")

    def render(self) -> NDArray[np.uint8]:
        """Returns the environment's own picture. Raises EvaluationError if it draws none."""
        try:
            picture = self._env.render()
        except NotImplementedError:
            picture = None
        if not _is_picture(picture):
            raise EvaluationError(
                f"environment '{self.name}' draws no picture for people: {NOT_A_PICTURE}"
            )
        return picture

    def overview(self) -> NDArray[np.uint8]:
        """Returns the same."""
        return self.render()

    def close(self) -> None:
        """Ends the environment."""
        from lerobot.envs import close_envs

        with _unheard():
            close_envs([self._vector])

    def _attribute(self, name: str) -> Any:
        """Returns what the environment says under that name, as LeRobot asks it; None if it has
        nothing."""
        try:
            return self._vector.call(name)[0]
        except (AttributeError, NotImplementedError):
            return None

    def _batch(self, seen: Any) -> Any:
        """Returns an observation in a vector of one, its numbers of the types that are declared."""
        from gymnasium.vector.utils import concatenate, create_empty_array

        space = self._env.observation_space
        return concatenate(space, [seen], create_empty_array(space, n=1))

    def _observation(self, batch: Any) -> Observation:
        """Returns what LeRobot makes of a batch of one for a policy: pictures uint8 [H, W, 3],
        vectors float32, the task's text."""
        import torch
        from lerobot.envs.utils import preprocess_observation

        found = self._prepare({**preprocess_observation(batch), "task": [self.instruction]})
        shown: Observation = {}
        for key, value in found.items():
            if isinstance(value, torch.Tensor):
                value = value[0].cpu()
                if key.startswith(PICTURE):
                    value = value.mul(255).round().byte().permute(1, 2, 0)
                shown[key] = np.ascontiguousarray(value.numpy())
            elif key == "task":
                shown[key] = str(value[0])
        return shown


class LeRobotSuite:
    """The tasks of one type of environment, as LeRobot makes them from its options."""

    def __init__(self, name: str, options: Mapping[str, str] | None = None) -> None:
        """Makes the environments. options: field of the type's configuration -> value as YAML.

        Raises EvaluationError for an unknown type or option, a package that is not installed, and
        for what is not as LeRobot takes it.
        """
        self.name = name
        self._config = _configuration(name, options or {})
        self._environments = self._make()
        self._last: LeRobotEnvironment | None = None
        self.tasks: tuple[str, ...] = tuple(self._environments)
        first = self._environments[self.tasks[0]]
        features = first.features()
        self.cameras = tuple(key for key in features if key.startswith(PICTURE))
        self.distribution = type(first.raw).__module__.partition(".")[0]
        self._instructions = [each.instruction for each in self._environments.values()]
        limits = [each.most_steps for each in self._environments.values()]
        self.about = SuiteFacts(
            {
                "start": "a reset with its number as the seed",
                "most steps": " to ".join(dict.fromkeys(map(str, (min(limits), max(limits))))),
                "rate": f"{self._config.fps:g} Hz",
            },
            one_task_at_a_time=len(self.tasks) > 1,
            control_rate_hz=float(self._config.fps),
            features=features,
            holds=False,
        )

    def environment(self, task: str) -> LeRobotEnvironment:
        """Returns the task's environment; only the last one is kept."""
        require_task(self.name, self.tasks, task)
        if self._last is not None and self._last is not self._environments.get(task):
            self._last.close()
            self._environments = {
                name: each for name, each in self._environments.items() if each is not self._last
            }
        if task not in self._environments:
            self.close()
            self._environments = self._make()
        self._last = self._environments[task]
        return self._last

    def mislead(self, instruction: str) -> str:
        """Returns the instruction of the next task. Raises EvaluationError if there is no other."""
        acting = next((n for n, each in self._environments.items() if each is self._last), "")
        place = self.tasks.index(acting) if acting else 0
        other = self._instructions[(place + 1) % len(self._instructions)]
        if other == instruction:
            raise EvaluationError(
                f"--wrong-instruction: environment '{self.name}' asks for nothing else"
            )
        return other

    def close(self) -> None:
        """Ends the environments."""
        for environment in self._environments.values():
            environment.close()
        self._environments = {}

    def _make(self) -> dict[str, LeRobotEnvironment]:
        """Returns task -> environment."""
        from lerobot.envs import make_env

        try:
            with _unheard():
                suites = make_env(self._config, n_envs=1)
            processors = self._config.get_env_processors()
            found = {
                (suite, number): LeRobotEnvironment(self.name, vector, processors)
                for suite, vectors in suites.items()
                for number, vector in vectors.items()
            }
        except EvaluationError:
            raise
        except ImportError as error:
            raise EvaluationError(_what_to_install(self.name, error)) from error
        except Exception as error:
            raise EvaluationError(
                f"environment '{self.name}' cannot be made: {type(error).__name__}: {brief(error)}"
            ) from error
        if not found:
            raise EvaluationError(f"environment '{self.name}' has no task with these options")
        if len(found) == 1:
            return {str(self._config.task or self.name): each for each in found.values()}
        names = [str(each._attribute("task") or "") for each in found.values()]
        if "" in names or len(set(names)) < len(names):
            names = [f"{suite}_{number}" for suite, number in found]
        return dict(zip(names, found.values(), strict=True))


def require_type(name: str) -> None:
    """Raises EvaluationError, listing what there is, for an environment that LeRobot and its
    plugins do not know."""
    known, failures = _known_types(name)
    if name not in known:
        failed = f" ({'; '.join(failures)})" if failures else ""
        raise EvaluationError(
            f"there is no environment '{name}'; choose one of {sorted(SUITES)}, or of LeRobot's: "
            f"{', '.join(sorted(set(known) - set(SUITES)))}{failed}"
        )


def _known_types(wanted: str) -> tuple[list[str], list[str]]:
    """Returns the types of environments that LeRobot knows, with those of its plugins unless the
    wanted one is its own, and what plugins could not be imported."""
    try:
        from lerobot.envs.configs import EnvConfig
        from lerobot.utils.import_utils import register_third_party_plugins
    except ImportError as error:
        raise EvaluationError(
            f"there is no environment '{wanted}'; choose one of {sorted(SUITES)}; others are "
            f"LeRobot's: {explain_missing(error)}"
        ) from error
    if wanted in EnvConfig.get_known_choices():
        return [wanted], []
    with _logged() as records, _unheard():
        register_third_party_plugins()
    failures = [
        f"{record.getMessage()}: {brief(record.exc_info[1])}"
        for record in records
        if record.exc_info and record.exc_info[1]
    ]
    return list(EnvConfig.get_known_choices()), failures


@contextmanager
def _unheard() -> Iterator[None]:
    """Takes what packages print and warn of when they are imported: a result may go to stdout."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """Keeps what is logged inside, which is shown to nobody: failures come with their stacks."""
    keeper, root = _Keeper(), logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [keeper]
    try:
        yield keeper.records
    finally:
        root.handlers[:] = before


def _configuration(name: str, options: Mapping[str, str]) -> Any:
    """Returns the configuration of an environment, its options read as LeRobot reads them."""
    require_type(name)
    import draccus
    import yaml
    from lerobot.envs.configs import EnvConfig, HubEnvConfig

    choice = EnvConfig.get_choice_class(name)
    if issubclass(choice, HubEnvConfig):
        raise EvaluationError(
            f"environment '{name}' is code that LeRobot fetches from a hub, which is not run here"
        )
    known = [field.name for field in dataclasses.fields(choice) if field.init]
    for key in options:
        if key not in known:
            raise EvaluationError(
                f"--env-option: environment '{name}' has no option '{key}'; it has "
                f"{', '.join(known)}"
            )
    try:
        values = {key: yaml.safe_load(text) for key, text in options.items()}
        return draccus.decode(choice, values)
    except Exception as error:
        told = ", ".join(f"{key}={text}" for key, text in options.items())
        raise EvaluationError(f"--env-option {told}: {brief(error)}") from error


def _what_to_install(name: str, error: ImportError) -> str:
    """Returns one line on what an environment lacks."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    lacking = f"environment '{name}' needs {cause.name or brief(cause)}, which is not installed"
    if name in (metadata.metadata("lerobot").get_all("Provides-Extra") or ()):
        return f"{lacking}: pip install 'lerobot[{name}]=={metadata.version('lerobot')}'"
    return f"{lacking}; LeRobot has no extra that brings it, its documentation says what does"


def _is_picture(value: Any) -> TypeGuard[NDArray[np.uint8]]:
    if not isinstance(value, np.ndarray):
        return False
    return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
