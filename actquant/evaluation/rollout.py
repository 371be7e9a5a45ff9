"""One closed-loop episode: a policy in a simulated world, from a numbered start."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from actquant_runtime import ArgumentError
from numpy.typing import NDArray

from actquant.common.errors import ActquantError, EvaluationError, SimulatorError, brief
from actquant.common.renames import Renames, camera_mismatch, rename_keys, wrong_renames
from actquant.control.chunk_scheduler import ChunkScheduler, Tick
from actquant.control.loop import run_loop
from actquant.control.noise import chunk_noise
from actquant.control.policy import Policy, PolicyDescription
from actquant.control.simulated_time import SteppedInference
from actquant.control.window import Observation, ObservationWindow
from actquant.environments.base import Environment, Step, Suite
from actquant.evaluation.recording import Film
from actquant.evaluation.timing import EXECUTION_HORIZON, Timing

STATE, ACTION = "observation.state", "action"
_NO_TIME = Timing(latency=0, step_ms=1)
"""Simulated time stands still while the policy thinks."""
NOT_FINITE = "the policy gave a non-finite action"
"""How the runtime's error begins for a policy that gives NaN or an infinity."""


@dataclass
class Episode:
    """What one closed-loop episode gave.

    latencies_ms: one a chunk, as measured; the others as in `result.EpisodeRecord`.
    """

    task: str
    start: int
    success: bool
    steps: int
    latencies_ms: list[float] = field(default_factory=list)
    failure: str = ""
    recording: str = ""
    held: int = 0
    max_reward: float | None = None
    sum_reward: float | None = None


class _NotFiniteError(Exception):
    """A policy gave numbers that no robot can execute."""


@dataclass(frozen=True)
class Ablation:
    """What to take from the policy, to prove that it uses it.

    grey_camera: a camera of the observation, by the policy's name, to grey out; wrong_instruction:
    whether to ask for something else (`Suite.mislead`).
    """

    grey_camera: str | None = None
    wrong_instruction: bool = False

    def apply(self, observation: Observation, suite: Suite) -> Observation:
        """Returns the observation without what is taken from it."""
        observation = dict(observation)
        if self.grey_camera is not None:
            observation[self.grey_camera] = np.full_like(observation[self.grey_camera], 128)
        if self.wrong_instruction:
            observation["task"] = suite.mislead(observation["task"])
        return observation


def check_shown(about: PolicyDescription, observation: Observation, renames: Renames) -> None:
    """Raises EvaluationError, saying what to rename, where an observation of an environment is not
    what the policy is to be shown."""
    check_fits(about, {key: np.shape(value) for key, value in observation.items()}, renames)


def check_fits(
    about: PolicyDescription, features: Mapping[str, tuple[int, ...]], renames: Renames
) -> None:
    """Raises EvaluationError, with both sides, where what an environment shows and takes is not
    what the policy is to be shown and gives.

    features: shapes by their names; that of the action is looked at if it is there.
    """
    wrong = wrong_renames(renames, [key for key in features if key != ACTION], "the environment")
    shown = rename_keys(features, renames)
    cameras = [key for key in shown if key.startswith("observation.image")]
    absent = [camera for camera in about.cameras if camera not in cameras]
    if mismatch := camera_mismatch(cameras, about.cameras, "the environment"):
        wrong.append(mismatch)
    elif len(absent) > about.optional_cameras:
        wrong.append(f"the environment has no {', '.join(absent)}; it has {', '.join(cameras)}")
    if about.state_names and shown.get(STATE) != (len(about.state_names),):
        wanted = len(about.state_names)
        found = f"'s is {shown[STATE]}" if STATE in shown else " has none"
        wrong.append(f"the policy reads a state of {wanted} numbers, the environment{found}")
    if shown.get(ACTION, (len(about.action_names),)) != (len(about.action_names),):
        wrong.append(
            f"the policy gives actions of {len(about.action_names)} numbers, the environment takes "
            f"{shown[ACTION]}"
        )
    if wrong:
        raise EvaluationError("; ".join(wrong))


@dataclass
class _Answers:
    """The policy of one episode: what it is shown, the noise of each chunk, how long each took."""

    policy: Policy
    show: Callable[[Observation], Observation]
    noise: Callable[[int], NDArray[np.float32]]
    latencies_ms: list[float] = field(default_factory=list)

    def __call__(self, window: ObservationWindow, previous: Any) -> NDArray[np.float32]:
        observation = self.show(window.observation)
        noise = self.noise(len(self.latencies_ms))
        begin = time.perf_counter()
        try:
            chunk = self.policy.act(observation, noise=noise, previous=previous)
        except ArgumentError as error:  # e.g. pictures of another size
            raise EvaluationError(
                f"the policy cannot take what the environment shows: {error}"
            ) from error
        except RuntimeError as error:
            if not str(error).startswith(NOT_FINITE):
                raise
            raise _NotFiniteError(f"{error} of chunk {len(self.latencies_ms)}") from error
        taken_ms = (time.perf_counter() - begin) * 1e3
        if not np.isfinite(chunk).all():  # the runtime says so itself; PyTorch does not
            step, element = np.argwhere(~np.isfinite(chunk))[0]
            name = self.policy.describe().action_names[element]
            number = len(self.latencies_ms)
            raise _NotFiniteError(f"{NOT_FINITE}: step {step}, {name} of chunk {number}")
        self.latencies_ms.append(taken_ms)
        return chunk


@contextmanager
def _simulating(doing: str) -> Iterator[None]:
    """Takes what is raised inside for the simulator's failure, but for our own errors."""
    try:
        yield
    except (ActquantError, MemoryError):
        raise
    except Exception as error:
        raise SimulatorError(f"{doing}: {type(error).__name__}: {brief(error)}") from error


class _SimulatedWorld:
    """An environment from a numbered start: time passes when an action is executed, and while the
    policy thinks as long as `inference` says.

    What is raised is nobody's ending but the evaluation's, unless the policy gave no numbers.
    """

    def __init__(
        self,
        environment: Environment,
        start: int,
        observation_steps: int,
        on_step: Callable[[Environment], None] | None,
        film: Film | None,
        inference: SteppedInference,
    ) -> None:
        self._inference = inference
        self._environment, self._on_step, self._film = environment, on_step, film
        self._observation_steps = observation_steps
        self.window = ObservationWindow(observation_steps)
        with _simulating(f"reset to start {start}"):
            self.shown = environment.reset(start)
        self._take(self.shown)
        self._last: Step | None = None
        self._action: NDArray[np.float32] | None = None
        self.steps = self.held = 0
        self.rewards: list[float] = []
        self.failure = ""
        self._show()

    def next_tick(self) -> Step | None:
        return self._last if self._last is not None and self._last.done else None

    def prepare(self) -> None:
        return None

    def observe(self) -> tuple[ObservationWindow, None]:
        return self.window, None

    def execute(self, tick: Tick) -> None:
        for left in range(self._inference.take_pause(), 0, -1):
            self._hold(left + len(tick.upcoming))
            if self._last is not None and self._last.done:
                return
        # Where nobody waits for the policy, it may be asked in every step.
        self._step(tick.action, len(tick.upcoming) if self._inference.is_sync else 0)

    def wait_for_policy(self) -> None:
        self._hold(0)

    def _hold(self, following: int) -> None:
        self.held += 1
        self._step(self._environment.hold(self._action), following)

    def _step(self, action: NDArray[np.float32], following: int) -> None:
        """Executes an action; `following`: how many follow at least before the policy is asked."""
        # Only what the policy will be asked about is looked at.
        with _simulating(f"step {self.steps}"):
            self._last = self._environment.step(action, look=following < self._observation_steps)
        if self._last.observation is not None:
            self._take(self._last.observation)
        if self._last.reward is not None:
            self.rewards.append(self._last.reward)
        self.steps += 1
        self._action = action
        self._inference.advance()
        if self._film is not None:
            self._film.actions.append(action)
        self._show()

    def policy_failed(self, error: Exception) -> Step:
        if not isinstance(error, _NotFiniteError):
            raise error
        self.failure = str(error)
        return Step(None, done=True, success=False)

    def failed(self, error: Exception) -> None:
        raise error

    def _take(self, observation: Observation) -> None:
        """Raises SimulatorError for numbers that a policy could make nothing of."""
        for key, value in observation.items():
            if not isinstance(value, str) and not np.isfinite(value).all():
                raise SimulatorError(f"{key} is not finite")
        self.window.append(observation)

    def _show(self) -> None:
        if self._film is not None:
            with _simulating("picture"):
                self._film.see(self._environment.render())
        if self._on_step:
            self._on_step(self._environment)


def run_episode(
    suite: Suite,
    policy: Policy,
    task: str,
    start: int,
    *,
    seed: int = 0,
    steps_per_chunk: int | None = None,
    ablation: Ablation | None = None,
    renames: Renames | None = None,
    on_step: Callable[[Environment], None] | None = None,
    film: Film | None = None,
    timing: Timing | None = None,
    warm_up: bool = False,
) -> Episode:
    """Runs the policy from start `start` until the environment says that it is over, or the policy
    gives NaN or an infinity, which is a failure.

    The noise of each chunk follows from (seed, task, start, chunk) alone. steps_per_chunk: actions
    executed of each chunk, by default the policy's. renames: names in the environment -> the
    policy's. on_step: gets the environment after the reset and after every step; film: gets what
    is seen and done. timing: what passes while the policy thinks, nothing if left out; warm_up:
    whether to ask once before anything counts, since a first answer takes longer.

    Raises EvaluationError for an unknown task, and for an environment that does not show what the
    policy is to be shown; SimulatorError, saying where, for whatever else the environment raises,
    and for observations that are not finite.
    """
    about, take, named = policy.describe(), ablation or Ablation(), renames or {}
    answers = _Answers(
        policy,
        lambda observation: take.apply(rename_keys(observation, named), suite),
        lambda chunk: chunk_noise(about.noise_shape, seed, task, start, chunk),
    )
    with _simulating(f"environment of {task}"):
        environment = suite.environment(task)
    passing = timing or _NO_TIME

    def delay() -> int:
        if film is not None:
            film.asked.append(world.steps)
        return passing.steps(answers.latencies_ms, seed, task, start)

    inference = SteppedInference(delay, mode=passing.mode)
    world = _SimulatedWorld(environment, start, about.observation_steps, on_step, film, inference)
    if film is not None:
        film.instruction = str(world.shown.get("task", ""))
    check_shown(about, world.shown, named)
    executed = min(steps_per_chunk or about.steps_per_chunk, about.chunk_length)
    if warm_up:
        answers.policy.act(answers.show(world.window.observation), noise=answers.noise(0))
    with ChunkScheduler(
        answers,
        mode=passing.mode,
        steps_per_chunk=executed,
        execution_horizon=passing.execution_horizon or EXECUTION_HORIZON,
        supports_guidance=about.supports_guidance,
        executor=inference,
    ) as scheduler:
        last = run_loop(world, scheduler)
    return Episode(
        task,
        start,
        last.success,
        world.steps,
        answers.latencies_ms,
        failure=world.failure,
        held=world.held,
        max_reward=max(world.rewards, default=None),
        sum_reward=sum(world.rewards) if world.rewards else None,
    )
