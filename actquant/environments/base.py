"""What a simulated world is to an evaluation, and the table of those there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import EvaluationError
from actquant.control.window import Observation


@dataclass(frozen=True)
class Step:
    """What one control step gave.

    observation: under the policy's keys, without an axis of steps; None if nobody looked.
    done: whether the episode is over; success: whether the task is fulfilled; reward: None where
    the environment gives none.
    """

    observation: Observation | None
    done: bool
    success: bool
    reward: float | None = None


class Environment(Protocol):
    """One task in a simulated world; start k of it is the same on every machine."""

    def reset(self, start: int) -> Observation:
        """Begins an episode at a numbered start and returns what is seen there."""
        ...

    def step(self, action: NDArray[np.float32], *, look: bool = True) -> Step:
        """Executes an action [A] for one control period.

        look: whether anybody will read the observation; pictures cost more than physics.
        """
        ...

    def hold(self, last: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Returns the action [A] with which the robot stands still after `last`, None for none."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """Returns a picture for people, uint8 [H, W, 3]."""
        ...

    def overview(self) -> NDArray[np.uint8]:
        """Returns a picture of the whole robot, uint8 [H, W, 3]."""
        ...


def hold_relative(last: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Returns the action [7] that moves nothing, of six relative motions and a gripper, which stays
    as `last` had it and is open (−1) where there is none."""
    return np.array([0] * 6 + [-1 if last is None else last[6]], np.float32)


@dataclass(frozen=True)
class SuiteFacts:
    """What results say of a suite beside its name.

    conventions: what a success depends on and no option changes; versions: of distributions that
    are not of this Python; marks: what nobody may overlook who reads a number from it. starts: how
    many there are, None for no end; published_starts: those of the protocol that published numbers
    follow, empty if there are none. one_task_at_a_time: whether another task's environment costs
    much to make; memory_bytes: what a process that simulates the suite takes, 0 if it is little;
    control_rate_hz: steps in a second of simulated time, None where nobody says; features: shapes
    of what is observed and of `action`, by their names, where they are known before an episode;
    holds: whether it is known with which action the robot stands still.
    """

    conventions: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    starts: int | None = None
    published_starts: str = ""
    one_task_at_a_time: bool = False
    memory_bytes: int = 0
    control_rate_hz: float | None = None
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    holds: bool = True


class Suite(Protocol):
    """The tasks of one kind of world.

    tasks: their names, in the order in which results list them; cameras: keys of the pictures in
    every observation; distribution: the Python package whose version results name.
    """

    tasks: tuple[str, ...]
    cameras: tuple[str, ...]
    distribution: str
    about: SuiteFacts

    def environment(self, task: str) -> Environment:
        """Returns the task's environment, made once. Raises EvaluationError for an unknown task."""
        ...

    def mislead(self, instruction: str) -> str:
        """Returns an instruction for something else, or the same where there is none.

        A policy that reads its instruction must fail with it.
        """
        ...

    def close(self) -> None:
        """Ends what the suite started; no environment of it is of use after that."""
        ...


SUITES = {
    "ur3e": "actquant.environments.ur3e:UR3eSuite",
    "libero_spatial": "actquant.environments.libero:libero_spatial",
    "libero_object": "actquant.environments.libero:libero_object",
    "libero_goal": "actquant.environments.libero:libero_goal",
    "libero_10": "actquant.environments.libero:libero_10",
}
"""Name -> module and what makes the suite, imported when it is asked for."""

LEROBOT = "actquant.environments.lerobot"
"""The module of all others."""
PERTURBED_SUITES = ("ur3e",)
"""Those that take `perturb`."""
HIGHEST_LEVEL = 3
"""Of a perturbation."""


def open_suite(
    name: str,
    perturb: Mapping[str, int] | None = None,
    options: Mapping[str, str] | None = None,
) -> Suite:
    """Opens the suite of that name: one of SUITES, or a type of LeRobot's environments.

    perturb: kind -> level, above 0, of what is otherwise than in training, alike for every policy;
    options: of LeRobot's environments, field of the configuration -> value.
    Raises EvaluationError if there is no such suite, kind or option, or if what it needs is not
    installed.
    """
    require_suite(name)
    if perturb and name not in PERTURBED_SUITES:
        raise EvaluationError(
            f"--perturb: environment '{name}' has no perturbations; {', '.join(PERTURBED_SUITES)} "
            "has"
        )
    if name not in SUITES:
        return import_module(LEROBOT).LeRobotSuite(name, options)
    if options:
        raise EvaluationError(
            f"--env-option: environment '{name}' has no options; those of LeRobot have"
        )
    module, _, suite = SUITES[name].partition(":")
    make = getattr(import_module(module), suite)
    return make(perturb) if perturb else make()


def parse_perturb(text: str) -> dict[str, int]:
    """Parses `camera=1,light=2`; level 0, which is nothing, is left out.

    Raises EvaluationError for what is no such list, names a kind twice, or for a level that is none
    of 0 to HIGHEST_LEVEL.
    """
    levels: dict[str, int] = {}
    for pair in text.split(",") if text else []:
        kind, _, level = pair.partition("=")
        if not kind or level not in map(str, range(HIGHEST_LEVEL + 1)):
            raise EvaluationError(
                f"--perturb '{text}': '{pair}' is no KIND=LEVEL, of the levels 0 to {HIGHEST_LEVEL}"
            )
        if kind in levels:
            raise EvaluationError(f"--perturb '{text}' has {kind} twice")
        levels[kind] = int(level)
    return {kind: level for kind, level in levels.items() if level}


def require_suite(name: str) -> None:
    """Raises EvaluationError, listing the suites, for a name that none has."""
    if name not in SUITES:
        import_module(LEROBOT).require_type(name)


def require_task(suite: str, tasks: tuple[str, ...], task: str) -> None:
    """Raises EvaluationError, listing the tasks, for one that the suite does not have."""
    if task not in tasks:
        raise EvaluationError(f"environment '{suite}' has no task '{task}'; it has {list(tasks)}")


def require_camera(suite: str, cameras: Iterable[str], camera: str) -> None:
    """Raises EvaluationError, listing the cameras, for one that observations do not have."""
    if camera not in (known := list(cameras)):
        raise EvaluationError(f"environment '{suite}' has no camera '{camera}'; it has {known}")
