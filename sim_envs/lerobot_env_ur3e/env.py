"""The Gymnasium environment: a UR3e with a gripper at a table, two cameras, six tasks."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from ur_motion import rotations
from ur_motion.arms import JOINT_LIMIT
from ur_motion.control import CONTROL_PERIOD, STRAIGHT_DOWN, Command, Controller

from .expert import expert_action
from .perturbations import Perturbation, checked_levels, perturbed_simulator
from .scene import FINGER_STROKE, OBJECTS, PHYSICS_STEP
from .simulator import CAMERAS, Simulator, shared_simulator
from .starts import FIRST_TRAINING_START, make_start
from .tasks import Start, State, find_task, goal_position, is_success
from .world import World

Array = NDArray[np.float64]
Observation = dict[str, Any]

ACTION_DIM = 7
STATE_DIM = 13
_SUBSTEPS = round(CONTROL_PERIOD / PHYSICS_STEP)
_RAMP = round(0.8 * _SUBSTEPS)  # substeps in which the joint command moves to its new value
_FULL_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class Snapshot:
    """Everything that the future of an episode depends on."""

    physics: Array
    command: Command
    start: Start
    steps: int
    lifted: bool


class UR3eEnv(gym.Env[Observation, NDArray[np.float32]]):
    """A UR3e that picks, places, pushes and stacks what its instruction names.

    Action, float32 [7], each in [-1, 1] (values outside are clipped), at 10 Hz:
        0-2  translation of the commanded tool pose, base frame; 1 = 0.025 m
        3-5  rotation of it about the base axes; 1 = 0.1 rad
        6    gripper: above 0 closes it, otherwise it opens (LIBERO's sign)

    Observation:
        pixels.scene, pixels.wrist  uint8 [image_size, image_size, 3]
        agent_pos  float32 [13]: joint positions (6, rad), gripper opening (m, 0 to 0.085), tool
                   position (3, m, base frame), tool rotation vector from straight down (3, rad)

    Args:
        task: one of `tasks.TASK_NAMES`.
        image_size: height and width of the pictures, in pixels.
        max_episode_steps: control steps until truncation; the task's own limit by default.
        simulator: models and renderers to share; by default one for the whole process.
        render_images: whether observations carry pictures (without them a step is cheaper).
        perturb: kind -> level, 0 to 3, of what is otherwise than in training (`perturbations`);
            such an environment has a simulator of its own.

    `reset(options={"start": k})` gives start k; `reset(seed=s)` gives start s, so that a seeded
    evaluation meets the same starts everywhere; `reset()` draws a start from those at or above
    `starts.FIRST_TRAINING_START`. Episodes end on success.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_PERIOD)}

    def __init__(
        self,
        task: str = "pick_cube",
        image_size: int = 96,
        max_episode_steps: int | None = None,
        render_mode: str | None = "rgb_array",
        simulator: Simulator | None = None,
        render_images: bool = True,
        render_size: int = 256,
        perturb: Mapping[str, int] | None = None,
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.task_spec = find_task(task)
        self.task = task
        self.render_mode = render_mode
        self.image_size, self.render_size = image_size, render_size
        self.render_images = render_images
        self._max_episode_steps = max_episode_steps or self.task_spec.limit
        self.perturb = checked_levels(perturb or {})
        if self.perturb and simulator is not None:
            raise ValueError("an environment that perturbs its simulator cannot share one")
        if self.perturb:
            simulator = perturbed_simulator(self.perturb)
        self._simulator = simulator or shared_simulator()
        self._perturbation = Perturbation(self._simulator, self.perturb)
        self._world = World(self._simulator.model)
        self._controller = Controller()
        self.observation_space = _observation_space(image_size, render_images)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self._place(make_start(self.task_spec, 0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        number = (options or {}).get("start")
        if number is None:
            number = seed
        if number is None:
            number = FIRST_TRAINING_START + int(self.np_random.integers(2**31))
        self._place(make_start(self.task_spec, int(number)))
        return self._observe(), {"is_success": False, "start": self.start}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._act(_checked(action))
        self._steps += 1
        self._lifted |= self._world.is_lifted(self._start)
        success = self.is_success()
        truncated = not success and self._steps >= self._max_episode_steps
        info = {"is_success": success, "start": self.start}
        return self._observe(), float(success), success, truncated, info

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """Returns picture uint8 [render_size, render_size, 3] from the scene camera."""
        return self._simulator.image(self._world.data, "scene", self.render_size)

    def overview(self, height: int = 480, width: int = 360) -> NDArray[np.uint8]:
        """Returns picture uint8 [height, width, 3] of the whole arm and its table."""
        return self._simulator.overview(self._world.data, height, width)

    @property
    def instruction(self) -> str:
        """What this start asks for, in lowercase words."""
        return self._perturbation.instruction(self._start)

    @property
    def task_description(self) -> str:
        """The instruction, under the name that LeRobot asks for."""
        return self.instruction

    @property
    def start(self) -> int:
        """The number of this start."""
        return self._start.number

    @property
    def steps(self) -> int:
        """Control steps taken since the start."""
        return self._steps

    def is_success(self) -> bool:
        """Returns whether the task is fulfilled in the present physical state."""
        return is_success(self._start, self._state())

    def expert_action(self) -> NDArray[np.float32]:
        """Returns what the scripted expert does in the present state, float32 [7]."""
        return expert_action(self._start, self._state())

    def privileged(self) -> dict[str, Any]:
        """Returns what no policy may see at run time, for auxiliary losses (m, base frame)."""
        state = self._state()
        return {
            "objects": state.objects.astype(np.float32),  # [6, 3]; absent ones are at zero
            "present": np.isin(np.arange(len(OBJECTS)), self._start.present),  # bool [6]
            "target": self._start.target,  # index into scene.OBJECTS
            "tool": state.tool.astype(np.float32),  # [3]
            "goal": goal_position(self._start, state).astype(np.float32),  # [3]
        }

    def snapshot(self) -> Snapshot:
        """Returns the present state; `restore` of it continues bit for bit."""
        physics = np.empty(mujoco.mj_stateSize(self._world.model, _FULL_STATE))
        mujoco.mj_getState(self._world.model, self._world.data, physics, _FULL_STATE)
        return Snapshot(physics, self._command.copy(), self._start, self._steps, self._lifted)

    def restore(self, snapshot: Snapshot) -> Observation:
        """Goes back to a snapshot, of this environment or of another one of the same task."""
        if snapshot.start.task != self.task_spec:
            raise ValueError(
                f"the snapshot is of task {snapshot.start.task.name!r}, this is {self.task!r}"
            )
        size = mujoco.mj_stateSize(self._world.model, _FULL_STATE)
        if len(snapshot.physics) != size:
            raise ValueError("of the snapshot and this environment, one alone has distractors")
        self._perturbation.change_model(snapshot.start)
        mujoco.mj_setState(self._world.model, self._world.data, snapshot.physics, _FULL_STATE)
        self._start, self._command = snapshot.start, snapshot.command.copy()
        self._steps, self._lifted = snapshot.steps, snapshot.lifted
        self._world.refresh()
        return self._observe()

    def _place(self, start: Start) -> None:
        """Puts the robot and the objects where a start has them."""
        self._start, self._steps, self._lifted = start, 0, False
        self._command = self._controller.start_at(start.tool)
        # Rounded, so that the last bits of inverse kinematics do not differ between machines.
        self._command.joints = np.round(self._command.joints, 6)
        self._perturbation.change_model(start)
        self._world.place(start, self._command.joints)
        self._perturbation.place_distractors(start, self._world)

    def _act(self, action: Array) -> None:
        """Runs one control period of physics under an action [7]."""
        world, old = self._world, self._command.joints
        data = world.data
        self._command = self._controller.advance(self._command, action[:6])
        change = self._command.joints - old
        data.ctrl[6] = -0.01 if action[6] > 0 else FINGER_STROKE
        for i in range(1, _RAMP + 1):
            data.ctrl[:6] = old + change * (i / _RAMP)
            mujoco.mj_step(world.model, data)
        mujoco.mj_step(world.model, data, _SUBSTEPS - _RAMP)
        self._world.refresh()

    def _state(self) -> State:
        return self._world.state(
            self._start,
            command=self._command.position,
            command_rotation=self._command.rotation_vector,
            lifted=self._lifted,
        )

    def _observe(self) -> Observation:
        world, data = self._world, self._world.data
        rotation = data.site_xmat[world.tool].reshape(3, 3) @ STRAIGHT_DOWN.T
        joints, tool = data.qpos[world.joints], data.site_xpos[world.tool]
        agent_pos = np.concatenate([joints, [world.opening()], tool, rotations.log(rotation)])
        observation: Observation = {"agent_pos": agent_pos.astype(np.float32)}
        if self.render_images:
            observation["pixels"] = {
                c: self._simulator.image(data, c, self.image_size) for c in CAMERAS
            }
        return self._perturbation.disturb(observation, self._start, self._steps)


def _observation_space(image_size: int, images: bool) -> spaces.Dict:
    high = np.array([*JOINT_LIMIT, 0.1, 1, 1, 1, np.pi, np.pi, np.pi], np.float32)
    parts: dict[str, spaces.Space[Any]] = {"agent_pos": spaces.Box(-high, high, dtype=np.float32)}
    if images:
        box = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        parts["pixels"] = spaces.Dict({c: box for c in CAMERAS})
    return spaces.Dict(parts)


def _checked(action: NDArray[np.float32]) -> Array:
    """Returns the action as float64 [7] within [-1, 1]; ValueError where it cannot be one."""
    values = np.asarray(action, np.float64)
    if values.shape != (ACTION_DIM,):
        raise ValueError(f"an action has shape ({ACTION_DIM},), got {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"an action holds finite numbers in [-1, 1], got {values.tolist()}")
    return np.clip(values, -1.0, 1.0)
