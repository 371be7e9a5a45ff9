"""The arm's measured side: the MuJoCo scene that the targets drive."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from lerobot_env_ur3e.arm import DAMPING, SERVO_DAMPING, SERVO_STIFFNESS
from lerobot_env_ur3e.scene import FINGER_STROKE, OBJECTS, scene_xml
from lerobot_env_ur3e.starts import make_start
from lerobot_env_ur3e.tasks import find_task, is_success
from lerobot_env_ur3e.world import FINGERS, World
from lerobot_robot_ur.models import RobotModel
from numpy.typing import NDArray
from ur_motion.arms import JOINT_NAMES
from ur_motion.control import HOME, Controller

from .chain import Chain, fit

Array = NDArray[np.float64]

STEP = 0.002  # s, of physics and of the servo; a CB3 reports every fourth
#: The scene's servos damp the joints' speed, not its error, so a moving joint would lag behind
#: its target by this many seconds; the target is advanced by as much.
_LEAD = (np.asarray(SERVO_DAMPING) + np.asarray(DAMPING)) / np.asarray(SERVO_STIFFNESS)
_CONTACT = 0.05  # Nm: joint torques from contact below this are taken for none


class ArmWorld:
    """The scene with the arm in it, stepped in real time.

    Attributes:
        q, qd: measured joint positions [6] (rad) and speeds (rad/s).
        was_successful: whether the task has been fulfilled at any time since `place`.
    """

    def __init__(self, robot: RobotModel, chain: Chain, task: str, start: int):
        model = mujoco.MjModel.from_xml_string(scene_xml())
        fit(model, robot)
        model.opt.timestep = STEP
        self._world, self._chain = World(model), chain
        self._is_small, self._solver = robot.is_small, Controller(robot.arm)
        self._speeds = [int(model.joint(j).dofadr[0]) for j in JOINT_NAMES]
        self._finger_speeds = [int(model.joint(f).dofadr[0]) for f in FINGERS]
        self.place(task, start)

    def place(self, task: str, start: int) -> Array:
        """Puts everything where start number `start` of `task` has it; the joints [6] there."""
        self._start = make_start(find_task(task), start)
        joints = HOME.copy()  # of the arms that the table is not made for
        if self._is_small:
            joints = self._solver.start_at(self._start.tool).joints
        self._world.place(self._start, joints)
        self._lifted = self.was_successful = False
        self.finger_target = FINGER_STROKE
        self._read()
        return joints

    def step(self, q: Array, qd: Array) -> None:
        """Runs one `STEP` of physics with the joints driven to `q` [6] at `qd`."""
        data = self._world.data
        data.ctrl[:6] = q + _LEAD * qd
        data.ctrl[6] = self.finger_target
        mujoco.mj_step(self._world.model, data)
        self._lifted |= self._world.is_lifted(self._start)
        self._read()

    def _read(self) -> None:
        data = self._world.data
        self.q, self.qd = data.qpos[self._world.joints], data.qvel[self._speeds]

    @property
    def configuration(self) -> Array:
        """All positions of the scene, for drawing it elsewhere."""
        return self._world.data.qpos

    def motor_torques(self) -> Array:
        """Returns torques [6] (Nm) of the joint servos."""
        return self._world.data.actuator_force[:6].copy()

    def contact_torques(self) -> Array:
        """Returns torques [6] (Nm) on the joints from contact and the ends of their travel."""
        return self._world.data.qfrc_constraint[self._speeds]

    def tool_force(self) -> Array:
        """Returns force and torque [6] (N, Nm, base axes) at the tool that contact amounts to."""
        torques = self.contact_torques()
        if float(np.abs(torques).max()) < _CONTACT:
            return np.zeros(6)
        _, jacobian = self._chain.jacobian(self.q)
        square = jacobian @ jacobian.T + 1e-4 * np.eye(6)
        return np.asarray(np.linalg.solve(square, jacobian @ torques), np.float64)

    def finger_opening(self) -> float:
        """Returns distance between the finger pads (m)."""
        return self._world.opening()

    def finger_speed(self) -> float:
        """Returns speed of the pads from each other (m/s)."""
        return float(self._world.data.qvel[self._finger_speeds].sum())

    def check_success(self) -> bool:
        """Returns whether the task is fulfilled now."""
        self._world.refresh()
        tool = self._world.data.site_xpos[self._world.tool]
        state = self._world.state(
            self._start, command=tool, command_rotation=np.zeros(3), lifted=self._lifted
        )
        success = is_success(self._start, state)
        self.was_successful |= success
        return success

    def report(self) -> dict[str, Any]:
        """Returns task, objects (m), tool point (m), opening (m) and success, as plain values."""
        success = self.check_success()
        data, start = self._world.data, self._start
        return {
            "task": start.task.name,
            "start": start.number,
            "instruction": start.instruction,
            "target": OBJECTS[start.target],
            "tool": data.site_xpos[self._world.tool].tolist(),
            "gripper_opening": self.finger_opening(),
            "objects": {
                OBJECTS[i]: data.xpos[self._world.bodies[i]].tolist() for i in start.present
            },
            "success": success,
            "was_successful": self.was_successful,
        }
