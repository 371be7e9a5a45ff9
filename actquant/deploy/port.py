"""What a deployment asks of a robot. Each kind of robot has one adapter, in `adapters`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import StoppedError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RobotState:
    """The measured state of an arm with J joints.

    Attributes:
        time_s: when it was measured (time.monotonic).
        joints, joint_speeds: [J] (rad, rad/s).
        commanded: joint positions [J] (rad) that the arm was last told.
        gripper_opening_m: between the pads; None without a gripper.
        is_moving: whether commanded motion has not ended.
    """

    time_s: float
    joints: Array
    joint_speeds: Array
    commanded: Array
    gripper_opening_m: float | None
    is_moving: bool


@dataclass(frozen=True)
class RobotEvent:
    """Something that happened to the robot at `time_s` (time.monotonic)."""

    time_s: float
    kind: str
    detail: str


@dataclass(frozen=True)
class Fact:
    """Something that a person should know of the robot before it moves."""

    what: str
    value: str
    is_usual: bool = True


class RobotPort(Protocol):
    """A robot with its cameras, under the names and in the order of one policy.

    States are vectors [S] and actions [A] in the policy's order and units: names are matched once,
    where the port is made. Every method may raise RobotError and what derives from it.

    Attributes:
        period_s: the time by `clock` that one action takes, with the speed in it.
        max_action_age_s: how long after its time an action may come.
        max_joint_step_rad: farthest that one action may lead; more is a jump.
        stop_after_s: after so long without an action the robot stops by itself.
        cameras: by the policy's names, in the order of their pictures.
    """

    period_s: float
    max_action_age_s: float
    max_joint_step_rad: float
    stop_after_s: float
    cameras: Mapping[str, Any]

    def clock(self) -> float:
        """Returns the robot's own time (s), in which its actions take their periods.

        It passes as time.monotonic does, but slower while the robot itself is slowed down, and
        stands where that holds it.
        """
        ...

    def gripper_lacks(self) -> str:
        """Says why connecting would move the gripper's fingers; empty if it would not."""
        ...

    def connect(self) -> None:
        """Connects everything; the arm does not move. Raises StoppedError for a stopped robot."""
        ...

    def bring_back(self) -> None:
        """Makes a stopped robot ready for `connect`, after an operator's word."""
        ...

    def disconnect(self) -> None:
        """Stops in a controlled way and closes everything."""
        ...

    def recover(self, operator: str) -> None:
        """Makes a connected robot ready to move again after a stop, on the word of an operator."""
        ...

    @property
    def stopped(self) -> StoppedError | None:
        """Why the robot does not move until `recover`; None where it may."""
        ...

    def identity(self) -> str:
        """Returns what the connected robot says that it is."""
        ...

    def facts(self) -> list[Fact]:
        """Returns what a person should know before the connected robot moves, limits included."""
        ...

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Returns the newest picture uint8 [H, W, 3] of each camera.

        Raises StaleStateError for a picture that is too old, StoppedError after a stop.
        """
        ...

    def measure(self) -> Array:
        """Returns the state [S]. Raises StaleStateError."""
        ...

    def state(self) -> RobotState:
        """Returns the arm's state. Raises StaleStateError."""
        ...

    def send(self, actions: Array) -> Array:
        """Moves as the first of actions [n, A] says, then as the others do unless more come.

        Returns the first action [A] as far as it was taken over. Raises RefusedError with all
        reasons, and StoppedError.
        """
        ...

    def check(self, actions: Array, start: Array | None = None) -> Array:
        """Raises as `send` would, and moves nothing.

        `start`: joints [J] (rad) from which the first action leads on; by default where the arm was
        told to go. Returns the joints [J] (rad) to which it leads.
        """
        ...

    def hold(self) -> None:
        """Brings the robot to rest; the next action begins where it stands then."""
        ...

    def interrupt(self) -> None:
        """Brings the robot to rest, from any thread; the control loop's `hold` follows."""
        ...

    def hold_position(self, duration_s: float) -> None:
        """Keeps the robot, which has come to rest, where it was told to go.

        No action is due for `duration_s` of `clock`.
        """
        ...

    def stop(self, reason: str) -> None:
        """Stops in a controlled way, from any thread. Motion needs `recover` then."""
        ...

    def events(self) -> list[RobotEvent]:
        """Returns what has happened since the last call."""
        ...

    def jitter(self) -> dict[str, float]:
        """Returns how regular the robot's own control loop is, by name of the figure."""
        ...
