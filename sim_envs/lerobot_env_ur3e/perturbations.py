"""What may be otherwise than in training: views, light, colours, noise, other things, words.

Each kind has the levels 1 to 3, 0 being nothing. What happens follows from (kind, task, start)
alone, so that every policy meets the same: a higher level goes further the same way. The model is
changed before an episode and is as it was compiled before the next change.
Change anything here and PERTURBATIONS_VERSION must change, because results name it.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from .paraphrases import paraphrase
from .scene import (
    DISTRACTOR_PARKING,
    DISTRACTOR_REACH,
    DISTRACTORS,
    OBJECT_MASS,
    OBJECTS,
    SCENE_EYE,
    SCENE_TARGET,
    TABLE_TEXELS,
    TRAY,
    TRAY_HALF,
    ZONE,
    ZONE_HALF,
    look_at,
)
from .simulator import CAMERAS, Simulator
from .starts import SPACING
from .tasks import TASKS, Start
from .world import World

Array = NDArray[np.float64]

PERTURBATIONS_VERSION = 1
HIGHEST_LEVEL = 3
KINDS = (
    *("camera", "light", "texture", "image_noise", "state_noise", "distractors", "instruction"),
)

# Entry n - 1 is level n's.
ORBIT = np.radians([4.0, 8.0, 14.0])  # of the scene camera about what it looks at
DISTANCE = (0.03, 0.07, 0.14)  # up to this fraction nearer or further
ROLL = np.radians([1.0, 3.0, 6.0])  # up to this
WRIST_TURN = np.radians([2.0, 5.0, 10.0])
WRIST_SHIFT = (0.002, 0.005, 0.01)  # m
# The picture is bright as it is: white is soon reached, black is far.
BRIGHTER, DARKER = (1.08, 1.18, 1.35), (0.8, 0.65, 0.5)  # factors, one or the other
TINT = (0.05, 0.12, 0.25)  # up to this fraction of each colour of the light
LIGHT_TURN = np.radians([15.0, 35.0, 60.0])
TABLE_COLOUR = (0.06, 0.12, 0.22)  # up to this in each colour, of 1
PATTERN = (0.0, 0.15, 0.35)  # how much darker the table's pattern is
OBJECT_COLOUR = (0.04, 0.09, 0.15)  # up to this in each colour, of 1
IMAGE_NOISE = (5.0, 12.0, 25.0)  # standard deviation, of 255
STATE_NOISE = (1.0, 2.0, 4.0)  # of what follows
STATE_DEVIATION = np.array([0.004] * 6 + [0.001] + [0.002] * 3 + [0.004] * 3)  # rad, m, m, rad
COUNT = (1, 2, 4)  # distractors

#: Where centres of distractors may be (m): in the scene camera's sight.
LYING_LOW, LYING_HIGH = np.array([-0.42, -0.19]), np.array([-0.14, 0.19])
PUSH_WIDTH = 0.06  # m beside the way of an object to its zone that stays free

_CHANGED = ("cam_pos", "cam_quat", "light_dir", "light_diffuse", "geom_rgba", "tex_data")
_HEADLIGHT = ("ambient", "diffuse")


def checked_levels(levels: Mapping[str, int]) -> dict[str, int]:
    """Returns the levels that are not 0, in the order of KINDS.

    Raises ValueError for a kind that there is not, or a level that is not 0, 1, 2 or 3.
    """
    for kind, level in levels.items():
        if kind not in KINDS:
            raise ValueError(f"there is no perturbation {kind!r}; there are {', '.join(KINDS)}")
        if level not in range(HIGHEST_LEVEL + 1):
            raise ValueError(f"{kind} has the levels 0 to {HIGHEST_LEVEL}, and not {level}")
    return {kind: levels[kind] for kind in KINDS if levels.get(kind)}


def perturbed_simulator(levels: Mapping[str, int]) -> Simulator:
    """Returns a simulator that has what the levels are about to change, and no more."""
    return Simulator(
        distractors=bool(levels.get("distractors")), textured=bool(levels.get("texture"))
    )


class Perturbation:
    """What levels make of each start, in a simulator that no other environment uses."""

    def __init__(self, simulator: Simulator, levels: Mapping[str, int]) -> None:
        self.levels = checked_levels(levels)
        self._simulator, self._model = simulator, simulator.model
        if self.levels:
            self._compiled = {name: getattr(self._model, name).copy() for name in _CHANGED}
            light = self._model.vis.headlight
            self._headlight = {name: getattr(light, name).copy() for name in _HEADLIGHT}

    def restore(self) -> None:
        """Makes the model what it was compiled to."""
        if self.levels:
            for name, values in self._compiled.items():
                getattr(self._model, name)[:] = values
            for name, values in self._headlight.items():
                getattr(self._model.vis.headlight, name)[:] = values
            if "texture" in self.levels:
                self._simulator.textures_changed()

    def change_model(self, start: Start) -> None:
        """Changes cameras, lights and colours of the model to those of a start."""
        self.restore()
        for kind, change in (
            ("camera", self._move_cameras),
            ("light", self._change_lights),
            ("texture", self._change_colours),
        ):
            if kind in self.levels:
                change(_generator(kind, start), self.levels[kind] - 1)

    def instruction(self, start: Start) -> str:
        """Returns what a start asks for, in this level's words."""
        if level := self.levels.get("instruction", 0):
            return paraphrase(start, level, _generator("instruction", start))
        return start.instruction

    def disturb(self, observation: dict[str, Any], start: Start, step: int) -> dict[str, Any]:
        """Adds the noise of a control step to what is seen and measured in it."""
        seen = dict(observation)
        if (level := self.levels.get("state_noise", 0)) and "agent_pos" in seen:
            noise = _generator("state_noise", start, step).standard_normal(len(STATE_DEVIATION))
            noise *= STATE_NOISE[level - 1] * STATE_DEVIATION
            seen["agent_pos"] = (seen["agent_pos"] + noise).astype(np.float32)
        if (level := self.levels.get("image_noise", 0)) and "pixels" in seen:
            seen["pixels"] = {
                camera: _noisy(
                    picture,
                    IMAGE_NOISE[level - 1],
                    _generator("image_noise", start, step, CAMERAS.index(camera)),
                )
                for camera, picture in seen["pixels"].items()
            }
        return seen

    def place_distractors(self, start: Start, world: World) -> None:
        """Puts distractors about the objects of a start, which are in their places; the rest float
        where nothing sees them."""
        level = self.levels.get("distractors", 0)
        if not level:
            return
        places = distractor_places(start)[: COUNT[level - 1]]
        weight = -OBJECT_MASS * float(self._model.opt.gravity[2])
        for i in range(len(DISTRACTORS)):
            joint = int(self._model.joint(f"distractor {i}").qposadr[0])
            body = int(self._model.body(f"distractor {i}").id)
            found = [(xy, yaw) for which, xy, yaw in places if which == i]
            if not found:
                world.data.qpos[joint : joint + 3] = DISTRACTOR_PARKING[i]
                world.data.xfrc_applied[body, 2] = weight  # so that it floats
                continue
            ((xy, yaw),) = found
            pose = [*xy, _height(i), np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
            if DISTRACTORS[i][0] == "capsule":  # lies on its side
                half = np.sqrt(0.5)
                pose[3:] = [half * pose[3], -half * pose[6], half * pose[3], half * pose[6]]
            world.data.qpos[joint : joint + 7] = pose
        world.refresh()

    def _move_cameras(self, rng: np.random.Generator, level: int) -> None:
        model = self._model
        azimuth, roll, nearer = rng.uniform(0, 2 * np.pi), *rng.uniform(-1, 1, 2)
        back = SCENE_EYE - SCENE_TARGET
        axes = look_at(SCENE_EYE, SCENE_TARGET)
        about = np.cos(azimuth) * axes[:3] + np.sin(azimuth) * axes[3:]
        eye = SCENE_TARGET + (1 + DISTANCE[level] * nearer) * _turned(back, about, ORBIT[level])
        axes = look_at(eye, SCENE_TARGET).reshape(2, 3)
        ahead = (SCENE_TARGET - eye) / np.linalg.norm(SCENE_TARGET - eye)
        axes = np.stack([_turned(axis, ahead, ROLL[level] * roll) for axis in axes])
        scene = model.camera("scene").id
        model.cam_pos[scene] = eye
        columns = np.column_stack([*axes, np.cross(*axes)])
        mujoco.mju_mat2Quat(model.cam_quat[scene], columns.ravel())

        wrist, turn = model.camera("wrist").id, np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, _direction(rng), WRIST_TURN[level])
        mujoco.mju_mulQuat(model.cam_quat[wrist], model.cam_quat[wrist].copy(), turn)
        model.cam_pos[wrist] += WRIST_SHIFT[level] * _direction(rng)

    def _change_lights(self, rng: np.random.Generator, level: int) -> None:
        model, headlight = self._model, self._model.vis.headlight
        brightness = (BRIGHTER if rng.integers(2) else DARKER)[level]
        factor = brightness * (1 + TINT[level] * rng.uniform(-1, 1, 3))
        for colours in (model.light_diffuse, headlight.diffuse, headlight.ambient):
            colours[:] = colours * factor
        direction = model.light_dir[0] / np.linalg.norm(model.light_dir[0])
        while True:
            axis = _direction(rng)
            if _turned(direction, axis, LIGHT_TURN[-1])[2] < -0.3:  # light comes from above
                break
        model.light_dir[0] = _turned(direction, axis, LIGHT_TURN[level])

    def _change_colours(self, rng: np.random.Generator, level: int) -> None:
        model = self._model
        _shift(model.geom_rgba[model.geom("table").id], TABLE_COLOUR[level], rng)
        for name in OBJECTS:
            geom = int(model.body(name).geomadr[0])
            _shift(model.geom_rgba[geom], OBJECT_COLOUR[level], rng)
        place = np.stack(np.meshgrid(*[np.arange(TABLE_TEXELS)] * 2, indexing="ij"), -1)
        dark = PATTERN[level] * _pattern(place / TABLE_TEXELS, rng)
        texels = np.repeat(np.round(255 * (1 - dark))[..., None], 3, -1)
        model.tex_data[:] = texels.astype(np.uint8).ravel()
        self._simulator.textures_changed()


def distractor_places(start: Start) -> list[tuple[int, Array, float]]:
    """Returns which distractors lie at a start, where (m) and how they are turned (rad): as many as
    the highest level has; lower ones have the first of them.

    They leave room for a finger about every object, and lie neither in a tray nor in the zone that
    is asked for, or on the way there.
    """
    rng = _generator("distractors", start)
    # A permutation by `uniform` alone, whose stream NumPy keeps.
    order = np.argsort(rng.uniform(size=len(DISTRACTORS)))[: COUNT[-1]]
    found: list[tuple[int, Array, float]] = []
    while len(found) < len(order):
        xy = rng.uniform(LYING_LOW, LYING_HIGH)
        yaw = float(rng.uniform(-np.pi, np.pi))
        if _is_free(xy, start, [place for _, place, _ in found]):
            found.append((int(order[len(found)]), xy, yaw))
    return found


def _is_free(xy: Array, start: Start, others: list[Array]) -> bool:
    if any(np.linalg.norm(xy - place) < SPACING for place in start.positions):
        return False
    if any(np.linalg.norm(xy - place) < 3 * DISTRACTOR_REACH for place in others):
        return False
    if any(np.all(np.abs(xy - tray) < TRAY_HALF + DISTRACTOR_REACH) for tray in TRAY.values()):
        return False
    if start.task.kind != "push":
        return True
    zone = ZONE[start.side or ""]
    in_zone = np.all(np.abs(xy - zone) < ZONE_HALF + DISTRACTOR_REACH)
    low, high = sorted([float(start.positions[0, 1]), float(zone[1])])
    on_the_way = low < xy[1] < high and abs(xy[0] - start.positions[0, 0]) < PUSH_WIDTH
    return not (in_zone or on_the_way)


def _height(index: int) -> float:
    """Returns how high the centre of a distractor that lies on the table is (m)."""
    shape, size, _ = DISTRACTORS[index]
    return size[0] if shape == "capsule" else size[-1]


def _generator(kind: str, start: Start, *more: int) -> np.random.Generator:
    words = [PERTURBATIONS_VERSION, KINDS.index(kind), TASKS.index(start.task), start.number, *more]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _direction(rng: np.random.Generator) -> Array:
    """Draws a unit vector [3]."""
    height, azimuth = rng.uniform(-1, 1), rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - height**2)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), height])


def _turned(vector: Array, axis: Array, angle: float) -> Array:
    """Returns a vector [3] turned about a unit axis [3] by an angle (rad)."""
    turn, turned = np.empty(4), np.empty(3)
    mujoco.mju_axisAngle2Quat(turn, axis, angle)
    mujoco.mju_rotVecQuat(turned, vector, turn)
    return turned


def _shift(rgba: NDArray[np.float32], most: float, rng: np.random.Generator) -> None:
    rgba[:3] = np.clip(rgba[:3] + most * rng.uniform(-1, 1, 3), 0, 1)


def _pattern(place: Array, rng: np.random.Generator) -> Array:
    """Draws planks or checks: 0 to 1 at places [..., 2] of a table whose sides are 1 long."""
    kind, count = int(rng.integers(2)), int(rng.integers(6, 15))
    shades = rng.uniform(size=(32, 32))
    cell = (place * count).astype(int)
    return (cell.sum(-1) % 2).astype(float) if kind else shades[cell[..., 1], 0]


def _noisy(
    picture: NDArray[np.uint8], deviation: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    noise = deviation * rng.standard_normal(picture.shape, np.float32)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
