"""What is perturbed, by how much, and that nothing else is."""

import itertools
import json
from pathlib import Path

import mujoco
import numpy as np
import pytest
from lerobot_env_ur3e import TASK_NAMES, UR3eEnv
from lerobot_env_ur3e.check_expert import Disturbance, run_episode
from lerobot_env_ur3e.perturbations import (
    COUNT,
    IMAGE_NOISE,
    KINDS,
    LIGHT_TURN,
    LYING_HIGH,
    LYING_LOW,
    OBJECT_COLOUR,
    ORBIT,
    PERTURBATIONS_VERSION,
    STATE_DEVIATION,
    STATE_NOISE,
    TABLE_COLOUR,
    WRIST_SHIFT,
    WRIST_TURN,
    distractor_places,
)
from lerobot_env_ur3e.scene import (
    DISTRACTORS,
    OBJECTS,
    SCENE_EYE,
    SCENE_TARGET,
    TRAY,
    TRAY_HALF,
    ZONE,
    ZONE_HALF,
)
from lerobot_env_ur3e.simulator import Simulator
from lerobot_env_ur3e.starts import make_start
from lerobot_env_ur3e.tasks import TASKS, find_task
from tokenizers import Tokenizer
from ur_motion import rotations

CHECKPOINT = Path(__file__).parents[2] / "exports" / "reference" / "checkpoint"

TASK, START = "place_tray", 4
ACTIONS = np.random.default_rng(5).uniform(-1, 1, (4, 7)).astype(np.float32)
MODEL = [
    *("cam_pos", "cam_quat", "cam_fovy", "light_pos", "light_dir", "light_diffuse", "geom_rgba"),
    *("geom_size", "geom_friction", "body_mass", "dof_damping", "opt.timestep", "opt.gravity"),
    *("vis.headlight.ambient", "vis.headlight.diffuse", "vis.headlight.specular"),
]
CHANGES = {
    "camera": {"cam_pos", "cam_quat"},
    "light": {"light_dir", "light_diffuse", "vis.headlight.ambient", "vis.headlight.diffuse"},
    "texture": {"geom_rgba"},
}
"""Of the model; the texture's texels are looked at by themselves."""


class Course:
    """What an environment shows from a start on, and what its model and physics are."""

    def __init__(self, start: int = START, task: str = TASK, **levels: int) -> None:
        self.env = UR3eEnv(task, perturb=levels, image_size=64)
        self.seen = [self.env.reset(options={"start": start})[0]]
        self.instruction = self.env.instruction
        self.model = values(self.env)
        self.seen += [self.env.step(action)[0] for action in ACTIONS]
        self.physics = [self.env.snapshot().physics, self.env._world.data.xpos]

    @property
    def pictures(self) -> np.ndarray:
        """[steps, cameras, H, W, 3]"""
        return np.stack([list(seen["pixels"].values()) for seen in self.seen]).astype(int)

    @property
    def states(self) -> np.ndarray:
        return np.stack([seen["agent_pos"] for seen in self.seen])


def values(env: UR3eEnv) -> dict[str, np.ndarray]:
    found = {}
    for name in MODEL:
        value = env._world.model
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = np.copy(value)
    return found


@pytest.fixture(scope="module")
def plain() -> Course:
    return Course()


def test_level_0_changes_nothing(plain) -> None:
    course = Course(**dict.fromkeys(KINDS, 0))
    assert course.env.perturb == {} and course.env._simulator is plain.env._simulator
    np.testing.assert_array_equal(course.pictures, plain.pictures)
    np.testing.assert_array_equal(course.states, plain.states)
    np.testing.assert_array_equal(course.physics[0], plain.physics[0])
    assert course.instruction == plain.instruction == make_start(find_task(TASK), START).instruction


@pytest.mark.parametrize(("kind", "level"), [*itertools.product(KINDS, (1, 2, 3))])
def test_each_changes_what_it_says_and_nothing_else(plain, kind: str, level: int) -> None:
    course = Course(**{kind: level})
    sees = kind in ("camera", "light", "texture", "image_noise", "distractors")
    for step, camera in itertools.product(range(len(course.seen)), range(2)):
        differs = not np.array_equal(course.pictures[step, camera], plain.pictures[step, camera])
        assert differs == sees or kind == "distractors"  # the wrist camera may have none in sight
    assert np.array_equal(course.pictures, plain.pictures) != sees
    assert np.array_equal(course.states, plain.states) == (kind != "state_noise")
    assert (course.instruction == plain.instruction) == (kind != "instruction")
    if kind == "distractors":  # a world with more in it, where the rest is as it was
        moved = len(course.physics[1]) - len(DISTRACTORS)
        np.testing.assert_allclose(course.physics[1][:moved], plain.physics[1], atol=1e-5)
        return
    np.testing.assert_array_equal(course.physics[0], plain.physics[0])
    changed = {name for name in MODEL if not np.array_equal(course.model[name], plain.model[name])}
    assert changed == CHANGES.get(kind, set())


@pytest.mark.parametrize("kind", KINDS)
def test_starts_repeat_and_differ_and_leave_nothing(kind: str) -> None:
    course = Course(**{kind: 3})
    env = course.env
    other = env.reset(options={"start": START + 1})[0]
    again = env.reset(options={"start": START})[0]
    assert not np.array_equal(other["agent_pos"], again["agent_pos"])
    np.testing.assert_array_equal(again["pixels"]["scene"], course.seen[0]["pixels"]["scene"])
    np.testing.assert_array_equal(again["agent_pos"], course.seen[0]["agent_pos"])
    assert env.instruction == course.instruction
    for name, value in values(env).items():
        np.testing.assert_array_equal(value, course.model[name])
    env._perturbation.restore()
    simulator = Simulator(distractors=kind == "distractors", textured=kind == "texture")
    compiled = UR3eEnv(TASK, simulator=simulator)
    for name, value in values(compiled).items():
        np.testing.assert_array_equal(value, values(env)[name])
    np.testing.assert_array_equal(env._world.model.tex_data, simulator.model.tex_data)


def test_what_others_see_is_never_changed(plain) -> None:
    """While perturbed environments live beside it, in the same process."""
    others = [Course(**{kind: 3}) for kind in ("camera", "light", "texture")]
    again = Course()
    np.testing.assert_array_equal(again.pictures, plain.pictures)
    assert len({id(each.env._simulator) for each in (*others, again)}) == 4


def test_cameras_move_as_far_as_they_say_and_look_where_they_did(plain) -> None:
    scene, wrist = (plain.env._world.model.camera(name).id for name in ("scene", "wrist"))
    back = SCENE_EYE - SCENE_TARGET
    turns = []
    for level in (1, 2, 3):
        model = Course(camera=level).model
        eye = model["cam_pos"][scene] - SCENE_TARGET
        cosine = eye @ back / np.linalg.norm(eye) / np.linalg.norm(back)
        assert np.arccos(cosine) == pytest.approx(ORBIT[level - 1], rel=1e-6)
        axes = matrix(model["cam_quat"][scene])
        np.testing.assert_allclose(axes[:, 2], eye / np.linalg.norm(eye), atol=1e-9)
        assert axes[2, 1] > 0.2  # up is still up
        turn = matrix(plain.model["cam_quat"][wrist]).T @ matrix(model["cam_quat"][wrist])
        assert np.linalg.norm(rotations.log(turn)) == pytest.approx(WRIST_TURN[level - 1])
        turns.append(rotations.log(turn) / WRIST_TURN[level - 1])
        shift = model["cam_pos"][wrist] - plain.model["cam_pos"][wrist]
        assert np.linalg.norm(shift) == pytest.approx(WRIST_SHIFT[level - 1])
    np.testing.assert_allclose(turns, [turns[0]] * 3, atol=1e-6)  # further the same way


def matrix(quaternion: np.ndarray) -> np.ndarray:
    flat = np.empty(9)
    mujoco.mju_quat2Mat(flat, quaternion)
    return flat.reshape(3, 3)


def test_objects_keep_the_colour_that_they_are_called_by(plain) -> None:
    model = plain.env._world.model
    for start in range(20):
        colours = Course(start, texture=3).model["geom_rgba"]
        for name in OBJECTS:
            rgba = colours[int(model.body(name).geomadr[0])]
            assert ("red", "green", "blue")[int(np.argmax(rgba[:3]))] == name.split()[0]
            change = rgba - plain.model["geom_rgba"][int(model.body(name).geomadr[0])]
            assert np.abs(change).max() <= OBJECT_COLOUR[2] + 1e-6
        table = model.geom("table").id
        change = colours[table] - plain.model["geom_rgba"][table]
        assert 0 < np.abs(change).max() <= TABLE_COLOUR[2] + 1e-6


def test_light_is_brighter_or_darker_and_comes_from_above(plain) -> None:
    before = {name: plain.model[name] for name in CHANGES["light"]}
    factors = []
    for start, level in itertools.product(range(12), (1, 2, 3)):
        model = Course(start, light=level).model
        old, new = (each["light_dir"][0] / np.linalg.norm(each["light_dir"][0])
                    for each in (before, model))  # fmt: skip
        assert new[2] < -0.3 and np.linalg.norm(old - new) <= 2 * np.sin(LIGHT_TURN[level - 1] / 2)
        shares = [model[name] / before[name] for name in CHANGES["light"] - {"light_dir"}]
        factors.append(shares[0].ravel())
        for share in shares:  # all lights alike
            np.testing.assert_allclose(share.ravel(), factors[-1], rtol=1e-5)
    middle = np.mean(factors, axis=1).reshape(12, 3)
    bright = middle[:, 2] > 1
    assert 0 < bright.sum() < 12
    for tints, factor in ((middle[bright], 1.35), (middle[~bright], 0.5)):
        assert (np.abs(tints[:, 2] / factor - 1) < 0.25).all()


def test_light_and_texture_grow_with_the_level(plain) -> None:
    for kind in ("light", "texture", "camera"):
        far = [
            np.mean([np.abs(Course(k, **{kind: n}).pictures - Course(k).pictures) for k in (0, 4)])
            for n in (1, 2, 3)
        ]
        assert far[0] < far[1] < far[2], kind


@pytest.mark.parametrize("level", [1, 2, 3])
def test_noise_is_as_large_as_it_says_and_new_in_every_step(plain, level: int) -> None:
    noise = Course(image_noise=level).pictures - plain.pictures
    middle = np.abs(plain.pictures - 128) < 50  # where nothing is cut off
    assert noise[middle].std() == pytest.approx(IMAGE_NOISE[level - 1], rel=0.05)
    assert np.abs(noise[middle].mean()) < 0.3
    flat = noise.reshape(len(noise) * 2, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 0.2
    scaled = [
        (course.states - Course(k).states) / STATE_DEVIATION
        for k in range(8)
        for course in [Course(k, state_noise=level)]
    ]
    assert np.std(scaled) == pytest.approx(STATE_NOISE[level - 1], rel=0.1)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_distractors_lie_free_and_at_rest(task: str) -> None:
    for level, start in itertools.product((1, 2, 3), range(4)):
        env = UR3eEnv(task, perturb={"distractors": level}, render_images=False)
        env.reset(options={"start": start})
        world, model = env._world, env._world.model
        lying = [i for i in range(len(DISTRACTORS)) if at(env, i)[0] > -1]
        assert len(lying) == COUNT[level - 1]
        mujoco.mj_forward(model, world.data)
        names = [
            {model.body(int(model.geom(int(geom)).bodyid[0])).name for geom in contact.geom}
            for contact in world.data.contact
        ]
        for touching in names:
            if any(name.startswith("distractor") for name in touching):
                assert touching <= {"world", *(f"distractor {i}" for i in lying)}
                assert len([name for name in touching if name != "world"]) == 1, touching
        before = [at(env, i) for i in range(len(DISTRACTORS))]
        for _ in range(8):
            env.step(np.array([0, 0, 0, 0, 0, 0, -1], np.float32))
        after = [at(env, i) for i in range(len(DISTRACTORS))]
        np.testing.assert_allclose(after, before, atol=2e-3)


def at(env: UR3eEnv, index: int) -> np.ndarray:
    return env._world.data.body(f"distractor {index}").xpos.copy()


def test_distractors_leave_the_task_alone() -> None:
    for task, number in itertools.product(TASKS, range(100)):
        start = make_start(task, number)
        places = distractor_places(start)
        assert len({which for which, _, _ in places}) == COUNT[-1]
        for which, xy, _ in places:
            assert (xy >= LYING_LOW).all() and (xy <= LYING_HIGH).all()
            assert np.linalg.norm(xy - start.positions, axis=1).min() >= 0.085
            for centre in TRAY.values():
                assert np.abs(xy - centre).max() > TRAY_HALF + 0.02
            if task.kind == "push":
                zone = ZONE[start.side or ""]
                assert (np.abs(xy - zone) > ZONE_HALF + 0.02).any()
            others = [other for i, other, _ in places if i != which]
            assert min(np.linalg.norm(xy - other) for other in others) >= 0.06


@pytest.mark.parametrize("kind", ["camera", "light", "texture"])
def test_the_expert_who_does_not_look_solves_what_it_solved(kind: str) -> None:
    for level, task in itertools.product((1, 2, 3), TASK_NAMES):
        env, plain_env = (
            UR3eEnv(task, perturb=perturb, render_images=False) for perturb in ({kind: level}, {})
        )
        found = run_episode(env, level, Disturbance())
        assert found[0] and found == run_episode(plain_env, level, Disturbance())


def test_distractors_do_not_stop_the_expert() -> None:
    solved = [
        run_episode(
            UR3eEnv(task, perturb={"distractors": 3}, render_images=False), start, Disturbance()
        )[0]
        for task, start in itertools.product(TASK_NAMES, range(3))
    ]
    assert sum(solved) >= len(solved) - 1


@pytest.mark.parametrize("level", [1, 2, 3])
def test_other_words_ask_for_the_same(level: int) -> None:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "vlm" / "tokenizer.json"))
    longest = json.loads((CHECKPOINT / "config.json").read_text())["tokenizer_max_length"]
    for task, number in itertools.product(TASKS, range(40)):
        start = make_start(task, number)
        env = UR3eEnv(task.name, perturb={"instruction": level}, render_images=False)
        env.reset(options={"start": number})
        text, plain_text = env.instruction, start.instruction
        assert text != plain_text and text == text.lower() and env.task_description == text
        assert len(tokenizer.encode(f"{text}\n").ids) <= longest
        words = {word.strip(":") for word in text.split()}
        kept = {"red", "green", "blue", "left", "right"}
        assert words & kept == set(plain_text.split()) & kept
        shapes = {"cube": "block", "cylinder": "can"} if level == 3 else {}
        for shape in set(plain_text.split()) & {"cube", "cylinder"}:
            assert shapes.get(shape, shape) in words
        if task.kind == "stack":  # which goes on which
            colours = [word for word in text.split() if word in kept]
            asked = [word for word in plain_text.split() if word in kept]
            assert colours == (asked[::-1] if text.startswith("on the") else asked)


def test_a_snapshot_brings_its_start_along() -> None:
    env = UR3eEnv("stack", perturb={"camera": 2, "texture": 3, "distractors": 3, "state_noise": 1})
    env.reset(options={"start": 2})
    env.step(ACTIONS[0])
    snapshot = env.snapshot()
    expected = env.step(ACTIONS[1])[0]
    env.reset(options={"start": 9})
    env.restore(snapshot)
    found = env.step(ACTIONS[1])[0]
    np.testing.assert_array_equal(found["pixels"]["scene"], expected["pixels"]["scene"])
    np.testing.assert_array_equal(found["agent_pos"], expected["agent_pos"])
    with pytest.raises(ValueError, match="one alone has distractors"):
        UR3eEnv("stack").restore(snapshot)


@pytest.mark.parametrize(
    ("levels", "told"),
    [({"fog": 1}, "no perturbation 'fog'; there are camera"), ({"light": 4}, "levels 0 to 3")],
)
def test_what_there_is_not_is_named(levels, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        UR3eEnv(perturb=levels)
    with pytest.raises(ValueError, match="cannot share one"):
        UR3eEnv(perturb={"light": 1}, simulator=Simulator())


def test_what_a_start_meets_stays_what_it_is() -> None:
    """Results name the version: if this changes, it has to change with it."""
    assert PERTURBATIONS_VERSION == 1
    found = {
        "eye": Course(camera=1).model["cam_pos"][0],
        "light": Course(light=2).model["light_diffuse"][0],
        "table": Course(texture=3).model["geom_rgba"][0, :3],
        "distractor": distractor_places(make_start(find_task(TASK), START))[0][1],
        "noise": Course(state_noise=1).states[0, :2] - Course().states[0, :2],
    }
    expected = {
        "eye": [-0.6653, 0.0448, 0.7115],
        "light": [0.2675, 0.2679, 0.2595],
        "table": [0.6271, 0.7727, 0.8188],
        "distractor": [-0.3278, 0.0617],
        "noise": [0.001985, -0.002724],
    }
    for name, values_ in found.items():
        np.testing.assert_allclose(values_, expected[name], atol=1e-4, err_msg=name)
    assert Course(instruction=2).instruction == "put the blue cylinder in the tray on the left"
