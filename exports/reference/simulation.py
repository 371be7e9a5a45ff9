"""Episodes in simulation: demonstrations by the expert, rollouts of a policy, expert labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np  # noqa: E402
from lerobot_env_ur3e import TASK_NAMES, UR3eEnv  # noqa: E402
from lerobot_env_ur3e.scene import COLOURS, OBJECTS, SHAPES, SIDES  # noqa: E402
from lerobot_env_ur3e.tasks import TASKS  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

Array = NDArray[Any]
Frame = dict[str, Array]
#: images uint8 [B, 2, H, W, 3], states float32 [B, 13], instructions -> actions [B, chunk, 7]
Act = Callable[[Array, Array, list[str]], Array]

NOISE_LEVELS = (0.0, 0.15, 0.3)  # of the motion's unit; the rotation gets half
CALIBRATION_START = 5_000  # ten per task from here
TRAINING_START = 10_000  # demonstrations from here; nothing below 5000 is ever trained on
VALIDATION_START = 20_000  # progress reports during training
ROLLOUT_START = 100_000  # the learner's own episodes, labelled by the expert


def all_instructions() -> list[str]:
    """Returns every instruction that the tasks can ask for, sorted."""
    cubes = OBJECTS[: len(COLOURS)]
    texts: set[str] = set()
    for task in TASKS:
        for thing in cubes if task.kind == "stack" else OBJECTS:
            for side in SIDES:
                for support in cubes:
                    for shape in SHAPES:
                        if support != thing or task.kind != "stack":
                            texts.add(
                                task.template.format(
                                    object=thing, side=side, support=support, shape=shape
                                )
                            )
    return sorted(texts)


def pictures(observation: dict[str, Any]) -> Array:
    return np.stack([observation["pixels"]["scene"], observation["pixels"]["wrist"]])


def frame_of(env: UR3eEnv, observation: dict[str, Any], prompts: dict[str, int]) -> Frame:
    """Returns what training keeps of a state, apart from the expert's actions."""
    hidden = env.privileged()
    return {
        "images": pictures(observation),
        "state": observation["agent_pos"],
        "prompt": np.int64(prompts[env.instruction]),  # type: ignore[dict-item]
        "task": np.int64(TASK_NAMES.index(env.task)),  # type: ignore[dict-item]
        "objects": hidden["objects"],
        "present": hidden["present"],
        "target": np.int64(hidden["target"]),  # type: ignore[dict-item]
        "tool": hidden["tool"],
        "goal": hidden["goal"],
    }


@dataclass
class Demonstration:
    """One successful episode: observations, privileged frames and the expert's clean actions."""

    frames: list[Frame]
    actions: Array  # [len(frames) + chunk, 7]: the last `chunk` follow the end
    instruction: str

    def chunks(self, length: int) -> list[Frame]:
        """Frames with the next `length` actions each."""
        return [
            frame | {"actions": self.actions[t : t + length]} for t, frame in enumerate(self.frames)
        ]


def demonstrate(
    env: UR3eEnv, start: int, prompts: dict[str, int], chunk: int
) -> Demonstration | None:
    """Lets the expert play one start with execution noise; None where it does not succeed.

    The noise disturbs what is executed, never the recorded action, and follows from the start's
    number, so the same start always gives the same episode.
    """
    rng = np.random.default_rng([start, TASK_NAMES.index(env.task)])
    scale = NOISE_LEVELS[start % len(NOISE_LEVELS)] * np.array([1, 1, 1, 0.5, 0.5, 0.5])
    env.render_images = True
    observation, _ = env.reset(options={"start": start})
    frames, actions, success, over = [], [], False, False
    while not (success or over):
        frames.append(frame_of(env, observation, prompts))
        action = env.expert_action()
        actions.append(action)
        executed = action.copy()
        executed[:6] += (scale * rng.standard_normal(6)).astype(np.float32)
        observation, _, success, over, _ = env.step(executed)
    if not success:
        return None
    env.render_images = False
    actions += follow_expert(env, chunk)
    return Demonstration(frames, np.array(actions, np.float32), env.instruction)


def follow_expert(env: UR3eEnv, steps: int) -> list[Array]:
    """Executes the expert's next actions."""
    actions = []
    for _ in range(steps):
        actions.append(env.expert_action())
        env.step(actions[-1])
    return actions


def label(
    env: UR3eEnv, images: Array, prompts: dict[str, int], chunk: int, extra: int
) -> list[Frame]:
    """Returns expert chunks for the present state and `extra` states on the expert's path from it.

    The environment is left as it was.
    """
    before = env.snapshot()
    env.render_images = False
    frames = [frame_of(env, env.restore(before) | {"pixels": as_pixels(images)}, prompts)]
    actions = []
    for step in range(chunk + 2 * extra):
        actions.append(env.expert_action())
        env.render_images = step % 2 == 1 and step < 2 * extra
        observation = env.step(actions[-1])[0]
        if env.render_images:
            frames.append(frame_of(env, observation, prompts))
    env.render_images = False
    env.restore(before)
    stacked = np.array(actions, np.float32)
    return [f | {"actions": stacked[2 * i : 2 * i + chunk]} for i, f in enumerate(frames)]


def as_pixels(images: Array) -> dict[str, Array]:
    return {"scene": images[0], "wrist": images[1]}


@dataclass
class Episode:
    """An environment in the course of a rollout."""

    env: UR3eEnv
    images: Array
    state: Array
    success: bool = False
    over: bool = False


@dataclass
class Rollouts:
    """What a batch of episodes gave."""

    tasks: list[str]
    starts: list[int]
    successes: list[bool]
    steps: list[int]
    frames: list[Frame] = field(default_factory=list)


@dataclass(frozen=True)
class Labels:
    """How rollouts are labelled by the expert."""

    prompts: dict[str, int]
    chunk: int
    extra: int


def run_episodes(
    episodes: list[tuple[str, int]],
    act: Act,
    action_steps: int,
    max_steps: int | None = None,
    labels: Labels | None = None,
) -> Rollouts:
    """Rolls a policy out on (task, start) pairs, all at once, executing `action_steps` per plan."""
    running = []
    for task, start in episodes:
        env = UR3eEnv(task)
        observation, _ = env.reset(options={"start": start})
        running.append(Episode(env, pictures(observation), observation["agent_pos"]))
    frames: list[Frame] = []
    while live := [e for e in running if not (e.success or e.over)]:
        plans = act(
            np.stack([e.images for e in live]),
            np.stack([e.state for e in live]),
            [e.env.instruction for e in live],
        )
        for episode, plan in zip(live, plans, strict=True):
            if labels is not None:
                frames += label(
                    episode.env, episode.images, labels.prompts, labels.chunk, labels.extra
                )
            execute(episode, plan[:action_steps], max_steps)
    return Rollouts(
        [e.env.task for e in running],
        [e.env.start for e in running],
        [e.success for e in running],
        [e.env.steps for e in running],
        frames,
    )


def execute(episode: Episode, plan: Array, max_steps: int | None) -> None:
    """Executes a plan's actions; pictures are rendered after the last one alone."""
    env = episode.env
    for i, action in enumerate(plan):
        env.render_images = i == len(plan) - 1
        observation, _, success, truncated, _ = env.step(np.asarray(action, np.float32))
        over = truncated or (max_steps is not None and env.steps >= max_steps)
        episode.success, episode.over = bool(success), bool(over)
        if success or over:
            return
    episode.images, episode.state = pictures(observation), observation["agent_pos"]
