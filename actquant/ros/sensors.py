"""The newest of each topic, and the observation that they make; or why they make none."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import RosError
from actquant.control.policy import PolicyDescription
from actquant.deploy.resizing import resized
from actquant.ros.joints import JointMap, unknown_joint
from actquant.ros.link import Subscription
from actquant.ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    STRING,
    MessageError,
    read_compressed_picture,
    read_joints,
    read_picture,
    read_text,
    stamp,
)
from actquant.ros.settings import RosSettings


class NotReadyError(RosError):
    """There is no observation to act upon; the message has every reason."""


@dataclass(frozen=True, eq=False)
class _Heard:
    """What was heard last: its value, when (s, of the clock), and the time in its header."""

    value: Any
    time_s: float
    stamp: tuple[int, int] | None


class Sensors:
    """Hears cameras, joints and the instruction.

    A message counts as new where its header's time is another than that of the one before, or
    none: a driver that repeats its last picture is found out. Ages are by arrival, since clocks of
    two computers may differ.

    Attributes:
        subscriptions: what is to be heard.
    """

    def __init__(
        self,
        settings: RosSettings,
        policy: PolicyDescription,
        state: JointMap,
        moved: Sequence[str],
        about: Callable[[Subscription], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """moved: joints whose position has to be known, whether the policy sees it or not."""
        self._settings, self._policy, self._clock = settings, policy, clock
        self._state, self._about = state, about
        self._wanted = tuple(dict.fromkeys((*(state.names if policy.state_names else ()), *moved)))
        self._lock = threading.Lock()
        self._pictures: dict[str, _Heard] = {}
        self._joints: dict[str, _Heard] = {}
        self._decoded: dict[str, tuple[_Heard, NDArray[np.uint8]]] = {}
        self._wrong: dict[str, str] = {}
        self._task = settings.task
        self._cameras = {
            name: Subscription(topic, picture_type(topic), self._hearer(name))
            for name, topic in settings.cameras.items()
        }
        self._joint_states = Subscription(settings.joint_states, JOINT_STATE, self._hear_joints)
        self.subscriptions = [*self._cameras.values(), self._joint_states]
        self._instruction = None
        if settings.task_topic is not None:
            self._instruction = Subscription(settings.task_topic, STRING, self._hear_task)
            self.subscriptions.append(self._instruction)

    def observe(self) -> dict[str, Any]:
        """Returns the newest observation (see `control.window`).

        Raises NotReadyError with everything that is missing, too old or not as the policy has it.
        """
        now = self._clock()
        with self._lock:
            pictures, joints, task = dict(self._pictures), dict(self._joints), self._task
            wrong = dict(self._wrong)
        reasons = list(wrong.values())
        observation: dict[str, Any] = {}
        for name, subscription in self._cameras.items():
            try:
                observation[name] = self._picture(name, subscription, pictures.get(name), now)
            except NotReadyError as error:
                reasons.append(str(error))
        missing = {j for j in self._wanted if j not in joints}
        if missing and self._joint_states.topic not in wrong:
            reasons.append(self._missing_joints(missing, joints))
        if old := [j for j in self._wanted if j in joints and self._is_old(joints[j], now)]:
            reasons.append(f"{self._old(self._joint_states.topic)}: {', '.join(old)}")
        if self._instruction is not None and not task and self._instruction.topic not in wrong:
            reasons.append(
                self._nothing(self._instruction)
                if task is None
                else f"{self._instruction.topic}: the instruction is empty"
            )
        if reasons:
            raise NotReadyError("; ".join(reasons))
        if self._policy.state_names:
            positions = [joints[name].value for name in self._state.names]
            observation["observation.state"] = self._state.to_policy(positions)
        return {**observation, "task": task}

    def positions(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Returns where joints are [n] (rad or m); NaN for those that were never heard of."""
        with self._lock:
            heard = [self._joints.get(name) for name in names]
        return np.array([math.nan if h is None else h.value for h in heard])

    def forget(self) -> None:
        """Forgets pictures and positions, as after a connection was lost."""
        with self._lock:
            self._pictures.clear()
            self._joints.clear()
            self._wrong.clear()

    def _picture(
        self, name: str, subscription: Subscription, heard: _Heard | None, now: float
    ) -> NDArray[np.uint8]:
        topic = subscription.topic
        if heard is None:
            raise NotReadyError(self._nothing(subscription))
        if self._is_old(heard, now):
            raise NotReadyError(self._old(topic))
        before = self._decoded.get(name)
        if before is not None and before[0] is heard:
            return before[1]
        read = read_picture if subscription.type == IMAGE else read_compressed_picture
        try:
            picture = read(heard.value)
        except MessageError as error:
            raise NotReadyError(f"{topic}: {error}") from error
        height, width = self._policy.image_size
        if picture.shape[:2] != (height, width):
            if not self._settings.resize:
                raise NotReadyError(
                    f"{topic}: the picture is {picture.shape[1]}x{picture.shape[0]}, the policy "
                    f"was trained on {width}x{height}; add --resize"
                )
            picture = resized(picture, height, width)
        self._decoded[name] = heard, picture
        return picture

    def _is_old(self, heard: _Heard, now: float) -> bool:
        return now - heard.time_s > self._settings.max_age_s

    def _old(self, topic: str) -> str:
        return f"{topic}: nothing new for more than {self._settings.max_age_s:g} s"

    def _nothing(self, subscription: Subscription) -> str:
        known = self._about(subscription)
        return f"{subscription.topic}: no {subscription.type} yet{known and f' ({known})'}"

    def _missing_joints(self, missing: set[str], known: dict[str, _Heard]) -> str:
        if not known:
            return self._nothing(self._joint_states)
        return (
            f"{self._joint_states.topic}: no joint {', '.join(sorted(missing))}; "
            f"{unknown_joint(min(missing), known)}"
        )

    def _hearer(self, name: str) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            def take(time_s: float) -> None:
                self._pictures[name] = _newer(
                    self._pictures.get(name), _Heard(message, time_s, stamp(message))
                )

            self._hear(self._cameras[name].topic, take)

        return hear

    def _hear_joints(self, message: Any) -> None:
        def take(time_s: float) -> None:
            when = stamp(message)
            for name, value in read_joints(message).items():
                new = _Heard(value, time_s, when)
                self._joints[name] = _newer(self._joints.get(name), new)

        self._hear(self._joint_states.topic, take)

    def _hear_task(self, message: Any) -> None:
        def take(time_s: float) -> None:
            self._task = read_text(message)

        assert self._instruction is not None
        self._hear(self._instruction.topic, take)

    def _hear(self, topic: str, take: Callable[[float], None]) -> None:
        with self._lock:
            try:
                take(self._clock())
                self._wrong.pop(topic, None)
            except MessageError as error:
                self._wrong[topic] = f"{topic}: {error}"


def _newer(old: _Heard | None, new: _Heard) -> _Heard:
    """Returns what was heard; as old as it was where it is only repeated."""
    if old is not None and new.stamp is not None and new.stamp == old.stamp:
        return replace(new, time_s=old.time_s)
    return new


def picture_type(topic: str) -> str:
    """Returns the type of a camera's messages, by image_transport's names of topics."""
    return COMPRESSED_IMAGE if topic.endswith("/compressed") else IMAGE
