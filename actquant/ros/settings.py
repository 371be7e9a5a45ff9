"""What a policy in ROS is asked to do, checked as a whole before anything is connected."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actquant.common.errors import RosError
from actquant.control.chunk_scheduler import MODES


@dataclass(frozen=True)
class RosSettings:
    """See `actquant ros --help`.

    Attributes:
        cameras: topics of pictures by the policy's names of cameras.
        task: what the robot shall do; None where a topic says it.
        joints: POLICY'S=JOINT or POLICY'S=JOINT*FACTOR (see `joints.parse_joints`).
        trajectories: TOPIC for all joints, or TOPIC=JOINT,JOINT for some of them.
        ahead_s: how far a trajectory leads on from its first action, at most.
        max_age_s: how old a picture or a joint's position may be.
        max_jump: how far one action may lead from the one before, the first from where the joint
            is (rad or m); by joint in `jumps`.
        max_seconds: after which it ends; None for never.
    """

    cameras: Mapping[str, str]
    task: str | None = None
    task_topic: str | None = None
    joint_states: str = "/joint_states"
    joints: Sequence[str] = ()
    trajectories: Sequence[str] = ("/joint_trajectory_controller/joint_trajectory",)
    status_topic: str = "/actquant/status"
    mode: str = "sync"
    steps_per_chunk: int | None = None
    execution_horizon: int = 10
    ahead_s: float = 1.0
    max_age_s: float = 0.5
    max_jump: float = 0.5
    jumps: Mapping[str, Any] = field(default_factory=dict)
    max_seconds: float | None = None
    resize: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raises RosError listing all that cannot be."""
        wrong = [
            f"--{name.replace('_', '-')} {value}; above 0"
            for name, value in (("ahead", self.ahead_s), ("max_age", self.max_age_s))
            if not 0 < value < math.inf
        ]
        for name, value in {"": self.max_jump, **self.jumps}.items():
            given = f"{name}={value}" if name else f"{value}"
            if not isinstance(value, int | float) or not value > 0:
                wrong.append(f"--max-jump {given}; above 0 (rad or m), inf for any")
        if (self.task is None) == (self.task_topic is None):
            wrong.append("say what the robot shall do: by --task, or by --task-topic, not both")
        if self.task is not None and (not self.task.strip() or "\0" in self.task):
            wrong.append("--task is no text; say what the robot shall do")
        if self.mode not in MODES:
            wrong.append(f"--mode {self.mode}; choose one of {', '.join(MODES)}")
        topics = [*self.cameras.values(), self.joint_states, self.status_topic]
        topics += [t.partition("=")[0] for t in self.trajectories] + [self.task_topic or "/"]
        wrong += [f"{t!r} is no topic, such as /joint_states" for t in topics if not _is_topic(t)]
        if wrong:
            raise RosError("; ".join(wrong))

    def jump_of(self, joint: str) -> float:
        """Returns how far one action may lead a joint (rad or m)."""
        return self.jumps.get(joint, self.max_jump)


def _is_topic(name: str) -> bool:
    return bool(name) and not any(c.isspace() or not c.isprintable() for c in name)


def split_joints(trajectories: Sequence[str], joints: Sequence[str]) -> dict[str, list[int]]:
    """Returns which of `joints` the trajectories on each topic are for, as indices.

    A topic without joints is for all that no other topic has. Raises RosError for joints that the
    policy does not move, and for those that are on no topic or on two.
    """
    topics: dict[str, list[int]] = {}
    wrong, rest = [], []
    for given in trajectories:
        topic, equals, names = given.partition("=")
        if not equals:
            rest.append(topic)
            continue
        own = names.split(",")
        if unknown := [name for name in own if name not in joints]:
            wrong.append(
                f"--trajectory {given}: the policy does not move {', '.join(unknown)}; it moves "
                f"{', '.join(joints)}"
            )
        else:
            topics.setdefault(topic, []).extend(joints.index(name) for name in own)
    taken = [index for indices in topics.values() for index in indices]
    if twice := sorted({joints[i] for i in taken if taken.count(i) > 1}):
        wrong.append(f"--trajectory: {', '.join(twice)} is given twice")
    left = [index for index in range(len(joints)) if index not in taken]
    if len(rest) > 1:
        wrong.append(f"--trajectory: say which joints go to which of {', '.join(rest)}")
    elif rest and left:
        topics.setdefault(rest[0], []).extend(left)
    elif left and not wrong:
        wrong.append(f"--trajectory: no topic is for {', '.join(joints[i] for i in left)}")
    if wrong:
        raise RosError("; ".join(wrong))
    return topics
