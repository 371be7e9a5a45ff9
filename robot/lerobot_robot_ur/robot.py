"""The arm with its cameras: observations and actions by name, without LeRobot.

`lerobot_plugin` makes LeRobot's robots of it. Cameras are those of `cameras`, LeRobot's, or
anything else with their methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .arm import Arm
from .errors import ConfigError, ConnectionFailed, Refused, StaleState
from .gripper import STROKES_M
from .layout import (
    GRIPPER_OPENING,
    JOINT_POSITIONS,
    MEASURED,
    ActionSpace,
    JointTargets,
    Layout,
    Measurement,
    Target,
    demand_numbers,
    find_layout,
    indices,
    lerobot_names,
    measured_names,
    optional_names,
    optional_values,
    read_action,
)
from .messages import REFUSED
from .tool_motion import PERIOD_S, ToolMotion

Array = NDArray[np.float64]

_FULL_SPEED, _SAME_TIME, _POLL_S = 0.99, 0.05, 0.002
_MAX_LEAD = 3  # control periods by which tool motions may be sent ahead of their time


class Camera(Protocol):
    """What is used of a camera; `lerobot.cameras.Camera` has it too."""

    width: int | None
    height: int | None

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def read_latest(self, max_age_ms: int = ...) -> NDArray[Any]: ...


def close_camera(camera: Camera) -> None:
    """Disconnects a camera once its reading thread has ended.

    LeRobot's ZMQCamera waits 2 s for that thread and closes its socket even if the thread still
    waits for a picture in it (up to `timeout_ms`, 5 s by default), which aborts the process.
    """
    thread, stop = getattr(camera, "thread", None), getattr(camera, "stop_event", None)
    timeout_ms = getattr(getattr(camera, "config", None), "timeout_ms", None)
    if thread is not None and stop is not None and timeout_ms is not None:
        stop.set()
        thread.join(1e-3 * timeout_ms + 1.0)
    camera.disconnect()


class ArmWithCameras:
    """An arm and its cameras, read and commanded by the names of a layout.

    Args:
        arm: the arm, not yet connected.
        cameras: by name, with width and height set; opened by `connect`.
        layout: one of `layout.LAYOUTS`. Where there is no gripper, `joints` goes without it.
        control_rate_hz: how many actions of `joints` come in a second; `tool_motion` has a rate
            of its own, 10 Hz. With the arm's `speed` below 1 each takes that much longer.

        extra_state: groups in `layout.OPTIONAL` that the state has besides those of the layout.

    Attributes:
        period_s: time that one action takes.
        measured: names of what `measure_all` gives (LeRobot's).

    Raises:
        ConfigError: an unknown layout, one that needs a gripper where there is none, or a control
            rate that is not above 0.
    """

    def __init__(
        self,
        arm: Arm,
        cameras: Mapping[str, Camera] | None = None,
        *,
        layout: str = "joints",
        control_rate_hz: float = 10.0,
        extra_state: Sequence[str] = (),
    ):
        self.arm = arm
        self.cameras = dict(cameras or {})
        fitting = _fitting(find_layout(layout), arm)
        state = (*fitting.state, *optional_names(extra_state))
        self.layout = Layout(fitting.name, state, fitting.action)
        self.measured = (*measured_names(arm.config.gripper != "none"), *optional_names())
        self._state_indices = indices(self.layout.state, self.measured)
        self._joint_targets = JointTargets(_fitting(find_layout("joints"), arm).action)
        self._space, period_s = self._make_space(control_rate_hz)
        self.period_s = period_s / arm.config.speed
        # The arm would hold before it came to what is later than that.
        self._ahead = 1 + math.ceil(arm.limits.hold_after_s / self.period_s)
        self._due_s, self._sent_s = 0.0, -math.inf
        self._refused_in_motion = 0
        self._stack = ExitStack()
        self._connected = False

    def _make_space(self, control_rate_hz: float) -> tuple[ActionSpace, float]:
        """Returns what turns this layout's actions into targets, and the time (s) of an action."""
        if self.layout.name == "tool_motion":
            config = self.arm.config
            if not self.arm.model.is_small:
                raise ConfigError(
                    f"the layout 'tool_motion' is that of a table for a UR3e or UR3, the arm is a "
                    f"{config.model}: take 'joints'"
                )
            return ToolMotion(self.arm.model, config.tcp, STROKES_M[config.gripper]), PERIOD_S
        if not control_rate_hz > 0:
            raise ConfigError(f"control_rate_hz is {control_rate_hz}, it must be above 0")
        return self._joint_targets, 1.0 / control_rate_hz

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self) -> None:
        """Opens the cameras, then the arm; where one fails, closes what was open.

        Raises:
            ConnectionFailed: naming the camera, or as `Arm.connect`.
        """
        with ExitStack() as stack:
            for name, camera in self.cameras.items():
                try:
                    camera.connect()
                except (ConnectionError, RuntimeError, TimeoutError, ConnectionFailed) as error:
                    raise ConnectionFailed(f"camera '{name}': {error}") from error
                stack.callback(close_camera, camera)
            self.arm.connect()
            stack.callback(self.arm.disconnect)
            self._stack = stack.pop_all()
        self._connected = True
        self._begin_anew()

    def disconnect(self) -> None:
        """Stops the arm and closes everything."""
        self._connected = False
        self._stack.close()

    def get_observation(self) -> dict[str, Any]:
        """Returns state by LeRobot's names (float) and a picture uint8 [H, W, 3] for each camera.

        Raises:
            Stopped: the arm has stopped and needs `recover`.
            StaleState: the arm's state or a camera's newest picture is too old.
            ConfigError: a camera's pictures are not as large as its configuration says.
        """
        pictures = self.pictures()
        values = self.measure_all()[self._state_indices]
        return dict(zip(self.layout.state, map(float, values), strict=True)) | pictures

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Returns the newest picture uint8 [H, W, 3] of each camera.

        Raises:
            Stopped, StaleState, ConfigError: as `get_observation`.
        """
        self._check_running()
        return {name: self._picture(name, camera) for name, camera in self.cameras.items()}

    def measure(self, names: Sequence[str]) -> Array:
        """Returns quantities [n] of the arm by either of their names, whatever the layout.

        Raises:
            StaleState
            ConfigError: a name that measures nothing.
        """
        return self.measure_all()[indices(names, self.measured)]

    def measure_all(self) -> Array:
        """Returns all quantities of the arm [n], in the order of `measured`. Raises StaleState."""
        state = self.arm.state()
        tool = self.arm.guard.kinematics.tool(state.joints)
        usual = Measurement(state.joints, *tool, state.gripper_opening_m).all()
        bits = state.digital_inputs, state.digital_outputs
        return np.concatenate([usual, optional_values(state.tool_force, *bits)])

    def _picture(self, name: str, camera: Camera) -> NDArray[np.uint8]:
        max_age_ms = round(1e3 * self.arm.limits.max_camera_age_s)
        try:
            picture = camera.read_latest(max_age_ms=max_age_ms)
        except (TimeoutError, RuntimeError) as error:
            raise StaleState(f"camera '{name}': {error}") from error
        expected = (camera.height, camera.width, 3)
        if picture.shape != expected or picture.dtype != np.uint8:
            raise ConfigError(
                f"camera '{name}' gives {picture.dtype} {list(picture.shape)}, "
                f"its configuration says uint8 {list(expected)}"
            )
        return picture

    def send_action(
        self, action: Mapping[str, Any], upcoming: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, float]:
        """Moves as one action says, and after it as the `upcoming` ones do unless others come;
        until the arm holds, `limits.hold_after_s` after the first.

        In the layout `tool_motion` an action of joint targets is taken too, and what it says of
        the tool's pose is not used: LeRobot returns to where it began by sending back what it
        observed.

        While the arm is led by hand nothing is sent.

        Returns:
            The action under the names it came with, as far as it could be taken over: tool motion
            is clipped and ends at the workspace's edge.

        Raises:
            Refused: values that are not numbers, targets beyond a limit, or tool motions sent
                faster than they can be carried out; the arm goes on with what it was told before.
            Stopped: the arm has stopped and needs `recover`.
            ConfigError: missing or unknown names.
        """
        if self.arm.is_led:  # what is measured is the action
            return {name: float(value) for name, value in action.items()}
        space, action = self._space_of(action)
        known = (action, *upcoming[: self._ahead])
        taken = self._send(space, np.stack([read_action(each, space.names) for each in known]))
        values = dict(zip(space.names, map(float, taken), strict=True))
        own = lerobot_names(action, space.names)
        return {name: values[key] for name, key in zip(action, own, strict=True)}

    def send_actions(self, actions: Array) -> Array:
        """Moves as the first of actions [n, A] says, and then as the others do unless more come.

        Args:
            actions: one or more, in the order of `layout.action`.

        Returns:
            The first action [A] as far as it could be taken over.

        Raises:
            Refused, Stopped: as `send_action`.
        """
        return self._send(self._space, np.asarray(actions[: 1 + self._ahead], np.float64))

    def _send(self, space: ActionSpace, actions: Array) -> Array:
        self._check_running()
        self._keep_pace()
        if self._refused_in_motion != self.arm.refused_in_motion:
            self._begin_anew()  # the arm is not where the last action led
        try:
            targets, due = self._plan(space, actions)
        except Refused as refused:
            self.arm.note(REFUSED, str(refused))
            raise
        openings = [target.gripper_opening_m for target in targets]
        self.arm.move_through(
            np.stack([target.joints for target in targets]),
            due + self.period_s * np.arange(len(targets)),
            [o for o in openings if o is not None] or None,
        )
        self._due_s, self._sent_s = due, due - self.period_s
        space.accept()
        if space is not self._space:
            self._space.forget()
        return targets[0].action

    def _plan(self, space: ActionSpace, actions: Array) -> tuple[list[Target], float]:
        """Returns targets of actions [n, A], and when (of the arm's clock) the first is due."""
        demand_numbers(actions, space.names)
        targets = space.plan(actions, self.arm.commanded())
        now = self.arm.clock()  # planning took its time
        return targets, self._due(now) if space is self._space else now + self.period_s

    def check_actions(self, actions: Array, *, start: Array | None = None) -> Array:
        """Raises as `send_actions` would of values and targets; nothing is sent, nothing moves.

        Args:
            actions: as for `send_actions`.
            start: joint positions [6] (rad) from which the action leads on; by default where the
                arm was told to go.

        Returns:
            Joint positions [6] (rad) to which the first action leads.
        """
        values = np.asarray(actions[: 1 + self._ahead], np.float64)
        demand_numbers(values, self.layout.action)
        before = self.arm.commanded() if start is None else start
        joints = np.stack([target.joints for target in self._space.plan(values, before)])
        self.arm.guard.check_waypoints(before, joints, self.period_s)
        return joints[0]

    def _space_of(self, action: Mapping[str, Any]) -> tuple[ActionSpace, Mapping[str, Any]]:
        """Returns what takes an action of these names, and the part of it that it takes."""
        if self._space is not self._joint_targets and set(JOINT_POSITIONS) <= set(action):
            names = self._joint_targets.names
            pose = {name for name in MEASURED if name not in names}
            return self._joint_targets, {k: v for k, v in action.items() if k not in pose}
        return self._space, action

    def _due(self, now: float) -> float:
        """Returns when (of the arm's clock) the next action ends: a period after the last one's.

        Actions come late by what inference takes, and then two in short order; each is given its
        whole period. Absolute targets may come as often as they like.
        """
        if self._space is self._joint_targets:
            return now + self.period_s
        due = max(self._due_s, now) + self.period_s
        if due > now + _MAX_LEAD * self.period_s:
            rate = 1.0 / self.period_s
            raise Refused(
                [f"tool motions come faster than {rate:g} a second; run the loop at {rate:g} fps"]
            )
        return due

    def hold(self) -> None:
        """Comes to rest on the path and stays there."""
        self.arm.hold()
        self._begin_anew()

    def recover(self, operator: str) -> None:
        """Makes the arm ready to move again after a stop, on the word of an operator (a name).

        Where it was not connected it is not so afterwards either, but `connect` is free to.
        """
        self.arm.recover(operator)
        if not self.is_connected:
            self.arm.disconnect()
        self._begin_anew()

    def _keep_pace(self) -> None:
        """Waits, while the controller slows the arm down, until the last action had its time.

        Actions at full pace would leave the arm behind. Where nothing is slowed the caller's own
        loop keeps the pace.
        """
        while True:
            left = self._sent_s + self.period_s - self.arm.clock()
            if left <= _SAME_TIME * self.period_s or self.arm.state().speed_scaling > _FULL_SPEED:
                return
            time.sleep(min(max(left, _POLL_S), self.period_s))
            self._check_running()

    def _begin_anew(self) -> None:
        self._due_s, self._sent_s = 0.0, -math.inf
        self._refused_in_motion = self.arm.refused_in_motion
        self._space.forget()

    def _check_running(self) -> None:
        if (stopped := self.arm.stopped) is not None:
            raise stopped


def _fitting(layout: Layout, arm: Arm) -> Layout:
    """Returns the layout without gripper where the arm has none."""
    if arm.config.gripper != "none":
        return layout
    if layout.name != "joints":
        raise ConfigError(f"the layout '{layout.name}' needs a gripper, and none is configured")
    return Layout(
        layout.name,
        tuple(name for name in layout.state if name != GRIPPER_OPENING),
        tuple(name for name in layout.action if name != GRIPPER_OPENING),
    )
