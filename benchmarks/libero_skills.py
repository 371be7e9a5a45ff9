"""What the scripted expert of LIBERO can do: take things, put them down, pull drawers, turn knobs.

It knows where everything is (`Scene`), and acts through the seven numbers that policies have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    import libero_process

Array = NDArray[np.float64]
OPEN, CLOSED = -1.0, 1.0
METRES, RADIANS = 0.05, 0.5
"""Of one step's action at its full size."""
WIDEST = 0.070
"""What the fingers are asked to close on, in metres; they open to 0.08."""
FINGER, PALM = np.array([0.018, 0.015]), np.array([0.105, 0.04, 0.045])
"""Half a finger's breadth and what it reaches below the grip; half the palm, and how far above."""
NOT_OBSTACLES = (
    "main_table",
    "floor",
    "table",
    "kitchen_table",
    "living_room_table",
    "study_table",
)


class Over(Exception):
    """The episode has ended. `success`: how."""

    def __init__(self, success: bool) -> None:
        self.success = success


class Stuck(Exception):
    """The expert does not know how to go on."""


def turned(axis: Iterable[float], angle: float) -> Array:
    return Rotation.from_rotvec(np.asarray(list(axis), float) * angle).as_matrix()


def about_z(angle: float) -> Array:
    return turned((0, 0, 1), angle)


def half_turn(angle: float) -> float:
    """Returns an angle of the finger axis, which has no direction, between -90 and 90 degrees."""
    return (angle + np.pi / 2) % np.pi - np.pi / 2


class Scene:
    """Where things are."""

    def __init__(self, world: libero_process.World) -> None:
        self.domain = world.simulation
        sim = self.domain.sim
        self.model, self.data = sim.model._model, sim.data._data

    def find(self, kind: Any, name: str) -> int:
        return mujoco.mj_name2id(self.model, kind, name)

    @property
    def things(self) -> list[str]:
        named = [*self.domain.objects_dict, *self.domain.fixtures_dict]
        return [name for name in named if name in self.domain.obj_body_id]

    def body(self, name: str) -> int:
        return self.domain.obj_body_id[name]

    def place(self, name: str) -> Array:
        return self.data.xpos[self.body(name)].copy()

    def bodies(self, root: int) -> list[int]:
        """Returns a body and everything that hangs on it."""
        found = [root]
        for body in range(root + 1, self.model.nbody):
            if self.model.body_parentid[body] in found:
                found.append(body)
        return found

    def points(self, name: str, *, dense: bool = False) -> Array:
        """Returns points [n, 3] of what can be touched of a thing: corners, or a grid if dense."""
        return self.points_of(self.bodies(self.body(name)), dense=dense)

    def points_of(self, bodies: Iterable[int], *, dense: bool = False) -> Array:
        found, model = [np.zeros((0, 3))], self.model
        for geom in range(model.ngeom):
            if model.geom_bodyid[geom] not in bodies:
                continue
            if not model.geom_contype[geom] and not model.geom_conaffinity[geom]:
                continue
            turn = self.data.geom_xmat[geom].reshape(3, 3)
            found.append(self._corners(geom, dense) @ turn.T + self.data.geom_xpos[geom])
        return np.concatenate(found)

    def _corners(self, geom: int, dense: bool) -> Array:
        model, kinds = self.model, mujoco.mjtGeom
        if model.geom_type[geom] == kinds.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            begin = model.mesh_vertadr[mesh]
            return model.mesh_vert[begin : begin + model.mesh_vertnum[mesh]]
        if model.geom_type[geom] == kinds.mjGEOM_CYLINDER:
            (radius, height), angles = model.geom_size[geom][:2], np.linspace(0, 2 * np.pi, 25)[:-1]
            ring = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
            return np.concatenate([np.c_[ring, np.full(24, z)] for z in (-height, 0, height)])
        ticks = np.linspace(-1, 1, 5 if dense else 2)
        grid = np.stack(np.meshgrid(ticks, ticks, ticks), axis=-1).reshape(-1, 3)
        return model.geom_aabb[geom][:3] + grid * model.geom_aabb[geom][3:]

    def obstacles(self, without: str) -> Array:
        found = [self.points(t, dense=True) for t in self.things
                 if t != without and t not in NOT_OBSTACLES]  # fmt: skip
        return np.concatenate([np.zeros((0, 3)), *found])

    def joint(self, name: str) -> int | None:
        """Returns the first joint of a thing or a region of one; None where it has none."""
        owner = self.domain.object_sites_dict.get(name) or self.domain.get_object(name)
        joints = getattr(owner, "joints", None) or []
        return self.find(mujoco.mjtObj.mjOBJ_JOINT, joints[0]) if joints else None

    def opened(self, joint: int) -> float:
        return float(self.data.qpos[self.model.jnt_qposadr[joint]])


class Grasp:
    """A way to take a thing: where the grip goes, the direction of the finger axis, a tilt."""

    def __init__(self, cost: float, at: Array, yaw: float, tilt: Array | None = None) -> None:
        self.cost, self.at, self.yaw = cost, at, yaw
        self.tilt = np.eye(3) if tilt is None else tilt

    def like(self, other: Grasp) -> bool:
        return bool(np.linalg.norm(self.at - other.at) < 0.02 and abs(self.yaw - other.yaw) < 0.5)


class Expert:
    """Plays one episode that has begun. frames: gets each observation with the action that follows;
    None where no pictures are wanted."""

    def __init__(self, world: libero_process.World, seen: Any, frames: list[Any] | None) -> None:
        self.world, self.scene, self.seen, self.frames = world, Scene(world), seen, frames
        self.grip = OPEN
        self.held = np.eye(3)
        kinds = mujoco.mjtObj
        self._left = self.scene.find(kinds.mjOBJ_BODY, "gripper0_leftfinger")
        self._right = self.scene.find(kinds.mjOBJ_BODY, "gripper0_rightfinger")
        self._site = self.scene.find(kinds.mjOBJ_SITE, "gripper0_grip_site")

    def play(self) -> tuple[bool, str]:
        """Works through the goal, twice if the first time did not do; returns whether it is
        reached, and else why not."""
        try:
            for _ in range(2):
                for predicate, *about in self.scene.domain.parsed_problem["goal_state"]:
                    self._fulfil(predicate.lower(), about)
        except Over as over:
            return over.success, "" if over.success else "out of time"
        except Stuck as stuck:
            return False, str(stuck)
        return False, "the goal is not reached"

    def _fulfil(self, predicate: str, about: list[str]) -> None:
        if predicate == "open":
            self.pull_open(about[0])
        elif predicate == "turnon":
            self.turn_on(about[0])
        elif predicate in ("in", "on") and len(about) == 2:
            if predicate == "in" and self._is_shut(about[1]):
                self.pull_open(about[1])
            self.pick(about[0])
            self.put(about[0], about[1], inside=predicate == "in")
        else:
            raise Stuck(f"no way to {predicate} {' '.join(about)}")

    def _is_shut(self, region: str) -> bool:
        if region not in self.scene.domain.object_sites_dict:
            return False
        joint = self.scene.joint(region)
        slides = joint is not None and self.scene.model.jnt_type[joint] == 2  # mjJNT_SLIDE
        return joint is not None and slides and abs(self.scene.opened(joint)) < 0.10

    # Motion

    @property
    def hand(self) -> Array:
        return self.scene.data.site_xpos[self._site].copy()

    @property
    def turn(self) -> Array:
        return self.scene.data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def fingers(self) -> Array:
        """From the right finger to the left one."""
        return self.scene.data.xpos[self._left] - self.scene.data.xpos[self._right]

    @property
    def yaw(self) -> float:
        axis = self.fingers
        if np.linalg.norm(axis) < 1e-3:
            axis = self.scene.data.xmat[self._left].reshape(3, 3)[:, 1]
        return float(np.arctan2(axis[1], axis[0]))

    def act(self, move: Array, turn: Array | None = None) -> None:
        """Moves the hand by metres and radians, as far as one step goes. Raises Over at the end."""
        action = np.zeros(7, np.float32)
        action[:3] = np.clip(move / METRES, -1, 1)
        if turn is not None:
            action[3:6] = np.clip(turn / RADIANS, -1, 1)
        action[6] = self.grip
        if self.frames is not None:
            self.frames.append((self.world.observation(self.seen), action))
        self.seen, done, success = self.world.step(action, look=self.frames is not None)
        if done or success:
            raise Over(success)

    def turn_to(self, wanted: Array) -> Array:
        return Rotation.from_matrix(wanted @ self.turn.T).as_rotvec()

    def upright(self, yaw: float) -> Array:
        """Returns the hand's orientation that looks down with the finger axis at an angle."""
        level = np.cross(self.turn[:, 2], (0, 0, -1.0))
        return (
            about_z(half_turn(yaw - self.yaw)) @ Rotation.from_rotvec(level).as_matrix() @ self.turn
        )

    def stay(self, steps: int) -> None:
        at, turn = self.hand, self.turn
        for _ in range(steps):
            self.act(at - self.hand, self.turn_to(turn))

    def close(self) -> None:
        """Closes until the fingers stand still, which takes more than eight steps."""
        at, turn, width = self.hand, self.turn, np.inf
        self.grip = CLOSED
        for step in range(22):
            self.act(at - self.hand, self.turn_to(turn))
            now = float(np.linalg.norm(self.fingers))
            if step >= 6 and width - now < 3e-4:
                return
            width = now

    def open(self, steps: int) -> None:
        self.grip = OPEN
        self.stay(steps)

    def go(
        self,
        goal: Array | Callable[[], Array],
        turn: Array,
        *,
        near: float = 0.008,
        steps: int = 70,
        gain: float = 1.6,
        straight: float = 0.06,
        fastest: float | None = None,
    ) -> bool:
        """Moves the grip to a place; returns whether it came within `near` and `straight`, false
        after so many steps or where the hand does not move."""
        still, last = 0, np.full(3, np.inf)
        for _ in range(steps):
            error, off = (goal() if callable(goal) else goal) - self.hand, self.turn_to(turn)
            if np.linalg.norm(error) < near and np.linalg.norm(off) < straight:
                return True
            move = error * gain
            if fastest is not None:
                move = np.clip(move, -fastest, fastest)
            if np.abs(error).max() < 0.03:  # what is left is not enough to move the arm
                move = move + np.sign(error) * np.minimum(np.abs(error), 0.004)
            self.act(move, off)
            halted = np.linalg.norm(self.hand - last) < 0.0012 and np.linalg.norm(off) < 0.3
            still, last = still + 1 if halted else 0, self.hand
            if still >= 6:
                return False
        return False

    def rise(self, height: float, turn: Array, **how: Any) -> None:
        self.go(self.hand + (0, 0, height), turn, **{"near": 0.02, "steps": 25, **how})

    # Taking

    def grasps(self, name: str, points: Array | None = None) -> list[Grasp]:
        """Returns ways to take a thing, the best first: across it, else by its rim."""
        points = self.scene.points(name) if points is None else points
        low, high = points.min(axis=0), points.max(axis=0)
        others = self.scene.obstacles(name)
        near = np.linalg.norm(others[:, :2] - (low + high)[:2] / 2, axis=1) < 0.35
        others = others[near]
        found = self._across(points, low, high, others) or self._rim(points, low, high, others)
        return sorted(found, key=lambda grasp: grasp.cost)

    def _in_the_way(
        self, others: Array, at: Array, yaw: float, width: float, tilt: float = 0.0
    ) -> int:
        """Counts the points of other things where fingers and palm would be."""
        x, y, z = ((others - at) @ (about_z(yaw) @ turned((1, 0, 0), tilt))).T
        x, y = np.abs(x), np.abs(y)
        fingers = (x < width / 2 + 0.035) & (y < FINGER[0]) & (z > -FINGER[1])
        palm = (x < PALM[0]) & (y < PALM[1]) & (z > PALM[2])
        return int(fingers.sum() + palm.sum())

    def _across(self, points: Array, low: Array, high: Array, others: Array) -> list[Grasp]:
        height = max(low[2] + 0.012, high[2] - 0.035)
        band = points[(points[:, 2] > height - 0.03) & (points[:, 2] < height + 0.02)]
        band = band if len(band) >= 4 else points
        found = []
        for yaw in np.linspace(0, np.pi, 37)[:-1]:
            axes = about_z(yaw)[:2, :2]
            seen = band[:, :2] @ axes
            width = float(np.ptp(seen[:, 0]))
            if width > WIDEST:
                continue
            at = np.r_[axes @ ((seen.max(axis=0) + seen.min(axis=0)) / 2), height]
            by = half_turn(yaw - self.yaw)
            cost = 0.5 * self._in_the_way(others, at, yaw, width) + 0.6 * abs(by) + 40 * width
            found.append(Grasp(cost + 2.0 * (abs(by) > 1.3), at, self.yaw + by))
        return found

    def _rim(self, points: Array, low: Array, high: Array, others: Array) -> list[Grasp]:
        ring = points[points[:, 2] > high[2] - 0.02]
        middle = (ring[:, :2].max(axis=0) + ring[:, :2].min(axis=0)) / 2
        radius = np.percentile(np.linalg.norm(ring[:, :2] - middle, axis=1), 90) - 0.004
        height, found = max(high[2] - 0.012, low[2] + 0.012), []
        for yaw in np.linspace(0, 2 * np.pi, 25)[:-1]:
            at = np.r_[middle + radius * np.array([np.cos(yaw), np.sin(yaw)]), height]
            by = half_turn(yaw - self.yaw)
            for tilt in (0.0, 0.55, -0.55):
                leaning = about_z(yaw) @ turned((1, 0, 0), tilt) @ about_z(-yaw)
                cost = 0.5 * self._in_the_way(others, at, yaw, 0.06, tilt) + 0.8 * abs(by)
                cost += 0.02 * yaw + 3 * abs(tilt)
                found.append(Grasp(cost, at, self.yaw + by, leaning))
        return found

    def pick(self, name: str, tries: int = 3, lift: float = 0.12) -> None:
        """Takes a thing and lifts it. Raises Stuck after some tries, each with another grasp."""
        for number in range(tries):
            different: list[Grasp] = []
            for grasp in self.grasps(name):
                if not any(grasp.like(other) for other in different):
                    different.append(grasp)
            chosen = different[min(number, len(different) - 1)]
            turn = chosen.tilt @ self.upright(chosen.yaw)
            back = -turn[:, 2]
            above = chosen.at + 0.10 * back
            above[2] = max(above[2], min(self.hand[2], above[2] + 0.08))
            self.grip = OPEN
            self.go(above, turn, near=0.02, straight=0.15, steps=60)
            self.go(chosen.at + 0.02 * back, turn, near=0.012, steps=30)
            self.go(chosen.at, turn, near=0.006, steps=25, gain=1.3)
            before = self.scene.place(name)[2]
            self.close()
            self._slide_out(name, turn)
            self.rise(lift, turn, gain=1.2, fastest=0.05)
            if self.scene.place(name)[2] - before > 0.4 * lift:
                self.held = turn
                return
            self.open(3)
            self.rise(0.06, turn, steps=20)
        raise Stuck(f"{name} was not taken")

    def _slide_out(self, name: str, turn: Array) -> None:
        """Pulls a thing out sideways from under what is above it, e.g. an open drawer."""
        own, others = self.scene.points(name), self.scene.obstacles(name)
        low, high = own.min(axis=0), own.max(axis=0)
        within = (others[:, :2] > low[:2] - 0.01) & (others[:, :2] < high[:2] + 0.01)
        above = others[(others[:, 2] > high[2] + 0.04) & within.all(axis=1)]
        if not len(above):
            return
        away = (low + high)[:2] / 2 - above[:, :2].mean(axis=0)
        away = 0.09 * away / (np.linalg.norm(away) + 1e-9)
        begun = self.hand
        self.go(begun + (0, 0, 0.02), turn, near=0.012, steps=8)
        self.go(begun + (*away, 0.03), turn, near=0.02, steps=20, fastest=0.05)

    # Putting

    def put(self, name: str, target: str, *, inside: bool) -> None:
        """Carries the thing that is held over a target and lets go of it there."""
        where, surface, rim, by_its_body = self._target(target, inside)
        crossing = self._highest_between(self.scene.place(name), where, name)
        clear = max(rim, crossing) + 0.03

        def lowest() -> float:
            return float(self.scene.points(name)[:, 2].min())

        def off() -> Array:
            own = self.scene.points(name)[:, :2]
            middle = (own.max(axis=0) + own.min(axis=0)) / 2
            return where - (self.scene.place(name)[:2] if by_its_body else middle)

        def over() -> Array:
            return self.hand + (*off(), np.clip(clear - lowest(), -0.02, 0.05))

        for _ in range(3):
            missing = clear - lowest()
            if missing < 0.005 or self._lost(name):
                break
            self.rise(missing, self.held, near=0.015, steps=40, fastest=0.06)
        self.go(over, self.held, near=0.012, steps=90, straight=0.3)
        if self._lost(name):
            return
        still = 0
        for _ in range(40):
            gap, height = lowest() - surface, self.hand[2]
            if gap < 0.006 or still > 5:
                break
            down = min(1.2 * gap + 0.004, 0.03)
            self.act(np.r_[1.5 * off(), -down], self.turn_to(self.held))
            still = still + 1 if self.hand[2] > height - 0.0005 else 0
        self.open(6)
        self.rise(0.10, self.held, near=0.03, steps=20)
        self.stay(5)

    def _lost(self, name: str) -> bool:
        return bool(np.linalg.norm(self.scene.place(name) - self.hand) > 0.2)

    def _target(self, target: str, inside: bool) -> tuple[Array, float, float, bool]:
        """Returns where to put something, the height of what it comes to lie on, the height to
        clear, and whether its body's origin is what has to be there (else its middle)."""
        scene, sites = self.scene, self.scene.domain.object_sites_dict
        if target not in sites:
            points, where = scene.points(target), scene.place(target)[:2]
            inner = points[np.linalg.norm(points[:, :2] - where, axis=1) < 0.05]
            bottom = points[:, 2].min()
            surface = inner[:, 2].max() if len(inner) else bottom + 0.005
            if target.startswith(("akita", "plate")):  # hollow, whatever its hull says
                surface = bottom + 0.012
            return where, float(surface), float(points[:, 2].max()), True
        site = scene.find(mujoco.mjtObj.mjOBJ_SITE, target)
        middle = scene.data.site_xpos[site].copy()
        turn = scene.data.site_xmat[site].reshape(3, 3)
        top = float(middle[2] + np.abs(turn @ scene.model.site_size[site])[2])
        parent = sites[target].parent_name
        known = parent in scene.domain.obj_body_id
        points = scene.points(parent, dense=not inside) if known else np.zeros((0, 3))
        if inside:
            rim = float(points[:, 2].max()) if len(points) else top
            return middle[:2], rim - 0.03, rim, False
        near = points[np.linalg.norm(points[:, :2] - middle[:2], axis=1) < 0.06]
        rim = max(top, float(near[:, 2].max())) if len(near) else top
        return middle[:2], top, rim, True

    def _highest_between(
        self, begin: Array, end: Array, without: str, width: float = 0.12
    ) -> float:
        """Returns the height of the highest thing on the way."""
        points, way = self.scene.obstacles(without), end[:2] - begin[:2]
        if not len(points):
            return -1.0
        along = np.clip((points[:, :2] - begin[:2]) @ way / (way @ way + 1e-9), 0, 1)
        aside = np.linalg.norm(points[:, :2] - begin[:2] - along[:, None] * way, axis=1)
        return float(points[aside < width, 2].max(initial=-1.0))

    # Drawers and knobs

    def pull_open(self, region: str, tilt: float = 1.2) -> None:
        """Pulls a drawer: the hand points at its front, the fingers above and below the handle."""
        scene = self.scene
        joint, parent = scene.joint(region), scene.domain.object_sites_dict[region].parent_name
        if joint is None:
            raise Stuck(f"{region} has no joint")
        limits = scene.domain.get_object(parent).object_properties["articulation"]
        wanted = max(limits["default_open_ranges"], key=abs)
        out = scene.data.xaxis[joint] * np.sign(wanted)
        drawer = scene.model.jnt_bodyid[joint]
        still = [b for b in scene.bodies(scene.body(parent)) if scene.model.body_jntnum[b] == 0]
        front = float((scene.points_of(still) @ out).max())
        points = scene.points_of([drawer])
        handle = points[points @ out > front + 0.004]
        if not len(handle):
            raise Stuck(f"{region} has no handle")
        middle, begun = (
            (handle.min(axis=0) + handle.max(axis=0)) / 2,
            scene.data.xpos[drawer].copy(),
        )
        upright = self.upright(float(np.arctan2(out[1], out[0])))
        level = np.cross((0, 0, -1.0), -out)
        turn = turned(level / np.linalg.norm(level), tilt) @ upright
        back = -turn[:, 2]
        before = middle + 0.10 * back
        high = np.r_[before[:2] + 0.02 * out[:2], max(before[2] + 0.02, self.hand[2] - 0.05)]
        self.grip = OPEN
        self.go(high, turn, near=0.05, straight=0.4, steps=50)
        self.go(before, turn, near=0.015, straight=0.1, steps=40)
        self.go(middle - 0.004 * back, turn, near=0.008, steps=30, gain=1.3)
        self.close()
        for _ in range(45):
            if abs(scene.opened(joint)) > abs(wanted) - 0.004:
                break
            moved = scene.data.xpos[drawer] - begun
            self.act(middle + moved - 0.004 * back + 0.06 * out - self.hand, self.turn_to(turn))
        self.open(4)
        self.go(self.hand + 0.08 * back + (0, 0, 0.02), turn, near=0.03, steps=20)
        self.rise(0.12, upright, near=0.04, straight=0.3, steps=30)

    def turn_on(self, name: str) -> None:
        """Takes a knob from above and turns it."""
        scene, joint = self.scene, self.scene.joint(name)
        if joint is None:
            raise Stuck(f"{name} has no knob")
        points = scene.points_of([scene.model.jnt_bodyid[joint]])
        points = points[points[:, 2] > points[:, 2].max() - 0.025]
        turn = self.upright(self.grasps(name, points)[0].yaw)
        at = np.r_[scene.data.xanchor[joint][:2], points[:, 2].max() - 0.012]
        self.grip = OPEN
        self.go(at + (0, 0, 0.09), turn, near=0.02, straight=0.15, steps=60)
        self.go(at, turn, steps=30)
        self.close()
        for _ in range(60):
            self.act(at - self.hand, self.turn_to(turn) * (1, 1, 0) + (0, 0, 0.35))
        raise Stuck(f"{name} is at {scene.opened(joint):.2f} rad")
