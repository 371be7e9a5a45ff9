"""The simulated world: a state of the scene, where a start puts things, what a task asks of it."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray
from ur_motion.arms import JOINT_NAMES

from .scene import FINGER_STROKE, HALF, OBJECT_MASS, OBJECTS, PARKING
from .tasks import PUSH_CEILING, Start, State

Array = NDArray[np.float64]

FINGERS = ("finger_left", "finger_right")  # names of their joints


class World:
    """One physical state of a compiled scene, and the addresses of what is in it.

    Attributes:
        joints: addresses [6] of the arm's joint positions (rad) in `data.qpos`.
        fingers: addresses [2] of the finger positions (m).
        free: addresses [6] of the objects' poses, each 7 long.
        bodies: the objects' body ids [6].
        tool: site id of the tool point.
    """

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self.data = mujoco.MjData(model)
        self.joints = [int(model.joint(j).qposadr[0]) for j in JOINT_NAMES]
        self.fingers = [int(model.joint(f).qposadr[0]) for f in FINGERS]
        self.free = [int(model.joint(o).qposadr[0]) for o in OBJECTS]
        self.bodies = [int(model.body(o).id) for o in OBJECTS]
        self.tool = int(model.site("tool").id)

    def place(self, start: Start, joints: Array) -> None:
        """Puts everything at rest where a start has it, the arm at `joints` [6] (rad), fingers
        open."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[self.joints] = data.ctrl[:6] = joints
        data.qpos[self.fingers] = data.ctrl[6] = FINGER_STROKE
        weight = -OBJECT_MASS * float(model.opt.gravity[2])
        for i in set(range(len(OBJECTS))) - set(start.present):
            data.qpos[self.free[i] : self.free[i] + 3] = PARKING[i]
            data.xfrc_applied[self.bodies[i], 2] = weight  # so that it floats
        for i, xy, yaw in zip(start.present, start.positions, start.yaws, strict=True):
            pose = [*xy, HALF, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
            data.qpos[self.free[i] : self.free[i] + 7] = pose
        self.refresh()

    def refresh(self) -> None:
        """Brings positions derived from the joints up to date (mj_step leaves them one step old).

        Not mj_forward: that would also replace the solver's warm start, and snapshots would no
        longer continue bit for bit.
        """
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def opening(self) -> float:
        """Returns distance between the finger pads (m)."""
        return float(self.data.qpos[self.fingers].sum())

    def is_lifted(self, start: Start) -> bool:
        """Returns whether the object that `start` asks for is above `PUSH_CEILING`."""
        return bool(self.data.qpos[self.free[start.target] + 2] > PUSH_CEILING)

    def state(
        self, start: Start, *, command: Array, command_rotation: Array, lifted: bool
    ) -> State:
        """Returns what predicates and the expert see, after `refresh`."""
        present = list(start.present)
        objects = np.zeros((len(OBJECTS), 3))
        objects[present] = self.data.xpos[[self.bodies[i] for i in present]]
        return State(
            tool=self.data.site_xpos[self.tool].copy(),
            opening=self.opening(),
            objects=objects,
            command=command,
            command_rotation=command_rotation,
            lifted=lifted,
        )
