"""Where links and tool are: MuJoCo's model, DH by hand, and shapes that nothing sticks out of."""

import mujoco
import numpy as np
import pytest
from lerobot_env_ur3e.scene import FINGER_STROKE
from lerobot_env_ur3e.simulator import shared_simulator
from lerobot_robot_ur.errors import ConfigError
from lerobot_robot_ur.kinematics import GRIPPERS, LINKS, Kinematics
from lerobot_robot_ur.models import MODELS
from ur_motion import rotations
from ur_motion.arms import DH_ALPHA, JOINT_NAMES
from ur_motion.chain import Chain

BODIES = ("base", *(f"{n}_link" for n in
          ("shoulder", "upper_arm", "forearm", "wrist_1", "wrist_2", "wrist_3")))  # fmt: skip


@pytest.fixture(scope="module")
def kinematics():
    return {name: Kinematics(model) for name, model in MODELS.items()}


@pytest.fixture
def scene():
    model = shared_simulator().model
    return model, mujoco.MjData(model)


def place(model, data, joints, opening=0.0):
    data.qpos[[model.joint(j).qposadr[0] for j in JOINT_NAMES]] = joints
    data.qpos[[model.joint(f).qposadr[0] for f in ("finger_left", "finger_right")]] = opening
    mujoco.mj_kinematics(model, data)


def dh_flange(model, q):
    """The flange by the textbook's product of DH matrices."""
    pose = np.eye(4)
    for angle, a, d, alpha in zip(q, model.arm.dh_a, model.arm.dh_d, DH_ALPHA, strict=True):
        about_z, along = np.eye(4), np.eye(4)
        about_z[:3, :3] = rotations.exp([0, 0, angle])
        along[:3, :3], along[:3, 3] = rotations.exp([alpha, 0, 0]), [a, 0, d]
        pose = pose @ about_z @ along
    return pose


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tcp", [[0, 0, 0.141, 0, 0, 0], [0.01, -0.02, 0.2, 0.3, -0.4, 0.5]])
def test_the_tool_is_where_cartesian_control_has_it(name, tcp):
    guarded, controlled = Kinematics(MODELS[name], tcp), Chain(MODELS[name].arm, tcp)
    for q in np.random.default_rng(7).uniform(-6, 6, (20, 6)):
        position, rotation = guarded.tool(q)
        tool = controlled.tool(q)
        np.testing.assert_allclose(position, tool.position, atol=1e-12)
        np.testing.assert_allclose(rotation, tool.rotation, atol=1e-12)
        np.testing.assert_allclose(guarded.jacobian(q), tool.jacobian, atol=1e-12)


def test_frames_and_tool_are_mujocos(kinematics, scene):
    model, data = scene
    ids = [model.body(b).id for b in BODIES]
    for q in np.random.default_rng(0).uniform(-6, 6, (50, 6)):
        place(model, data, q)
        frames = kinematics["ur3e"].frames(q)
        assert np.abs(frames[:, :3, 3] - data.xpos[ids]).max() < 1e-9
        assert np.abs(frames[:, :3, :3] - data.xmat[ids].reshape(-1, 3, 3)).max() < 1e-9
        position, rotation = kinematics["ur3e"].tool(q)
        site = model.site("tool").id
        assert np.abs(position - data.site_xpos[site]).max() < 1e-9
        assert np.abs(rotation - data.site_xmat[site].reshape(3, 3)).max() < 1e-9


def test_ur3_at_poses_worked_out_by_hand(kinematics):
    # Stretched out along -x: x = a2 + a3, y = -(d4 + d6), z = d1 - d5.
    flange = kinematics["ur3"].frames(np.zeros(6))[6]
    np.testing.assert_allclose(flange[:3, 3], [-0.4569, -0.19425, 0.06655], atol=1e-12)
    np.testing.assert_allclose(flange[:3, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)
    # Straight up: z = d1 - a2 - a3 + d5.
    flange = kinematics["ur3"].frames(np.radians([0, -90, 0, -90, 0, 0]))[6]
    np.testing.assert_allclose(flange[:3, 3], [0, -0.19425, 0.69415], atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_flange_is_the_product_of_dh_matrices(kinematics, name):
    joints = np.random.default_rng(1).uniform(-6, 6, (20, 6))
    flanges = kinematics[name].frames(joints)[:, 6]
    for q, flange in zip(joints, flanges, strict=True):
        np.testing.assert_allclose(flange, dh_flange(MODELS[name], q), atol=1e-12)


def test_many_configurations_at_once_are_each_alone(kinematics):
    k, joints = kinematics["ur3"], np.random.default_rng(2).uniform(-3, 3, (2, 5, 6))
    positions, rotations_ = k.tool(joints)
    ends = k.capsule_ends(k.frames(joints))
    for index in np.ndindex(2, 5):
        position, rotation = k.tool(joints[index])
        np.testing.assert_allclose(positions[index], position, atol=1e-15)
        np.testing.assert_allclose(rotations_[index], rotation, atol=1e-15)
        np.testing.assert_allclose(ends[index], k.capsule_ends(k.frames(joints[index])), atol=1e-15)


def test_tool_point_with_offset_and_rotation():
    tcp = [0.01, -0.02, 0.2, 0.3, -0.4, 0.5]
    k, q = Kinematics(MODELS["ur3"], tcp), np.array([0.1, -1.2, 1.3, -1.5, -1.4, 0.7])
    flange = dh_flange(MODELS["ur3"], q)
    position, rotation = k.tool(q)
    np.testing.assert_allclose(position, flange[:3, :3] @ tcp[:3] + flange[:3, 3], atol=1e-12)
    expected = flange[:3, :3] @ rotations.exp(np.array(tcp[3:]))
    np.testing.assert_allclose(rotation, expected, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_jacobian_is_the_derivative_of_the_tool(name):
    k, step = Kinematics(MODELS[name], [0.01, 0.02, 0.15, 0, 0.3, 0]), 1e-6
    for q in np.random.default_rng(3).uniform(-3, 3, (5, 6)):
        jacobian = k.jacobian(q)
        for i, unit in enumerate(np.eye(6)):
            (p1, r1), (p0, r0) = k.tool(q + step * unit), k.tool(q - step * unit)
            np.testing.assert_allclose(jacobian[:3, i], (p1 - p0) / (2 * step), atol=1e-8)
            turn = rotations.log(r1 @ r0.T) / (2 * step)
            np.testing.assert_allclose(jacobian[3:, i], turn, atol=1e-8)


def inside_of(geom, model, rng):
    """Points of a MuJoCo geom's surface in its own frame."""
    kind, size = model.geom_type[geom], model.geom_size[geom]
    unit = rng.standard_normal((200, 3))
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return np.array(np.meshgrid(*([[-1, 1]] * 3))).reshape(3, -1).T * size
    assert kind == mujoco.mjtGeom.mjGEOM_CAPSULE
    points = unit * size[0]
    points[:, 2] += np.where(unit[:, 2] > 0, size[1], -size[1])
    return points


def geom_points(model, data, bodies, rng):
    geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] in bodies]
    return np.vstack([
        inside_of(g, model, rng) @ data.geom_xmat[g].reshape(3, 3).T + data.geom_xpos[g]
        for g in geoms if model.geom_type[g] != mujoco.mjtGeom.mjGEOM_CYLINDER
    ])  # fmt: skip


def distances_to_lines(points, ends):
    """[points, lines], for ends [lines, 3, 2]."""
    start, path = ends[..., 0], ends[..., 1] - ends[..., 0]
    gap = points[:, None] - start
    along = (gap * path).sum(-1) / np.maximum((path**2).sum(-1), 1e-30)
    return np.linalg.norm(gap - np.clip(along, 0, 1)[..., None] * path, axis=-1)


@pytest.mark.parametrize("link", range(1, 6))
def test_capsules_contain_mujocos_links(kinematics, scene, link):
    k, (model, data), rng = kinematics["ur3e"], scene, np.random.default_rng(4)
    q = rng.uniform(-3, 3, 6)
    place(model, data, q)
    points = geom_points(model, data, [model.body(BODIES[link]).id], rng)
    own = k.link == link
    ends = k.capsule_ends(k.frames(q))[own]
    outside = (distances_to_lines(points, ends) - k.radius[own]).min(axis=1)
    assert outside.max() < -0.003  # generous by some millimetres


@pytest.mark.parametrize("opening", [0.0, 0.02, FINGER_STROKE])
def test_gripper_capsules_contain_mujocos_gripper_in_every_direction(kinematics, scene, opening):
    # What planes are checked against is the convex hull: no plane that touches it is beyond it.
    k, (model, data), rng = kinematics["ur3e"], scene, np.random.default_rng(5)
    q = rng.uniform(-3, 3, 6)
    place(model, data, q, opening)
    bodies = [model.body(b).id for b in ("wrist_3_link", "finger_left", "finger_right")]
    points = geom_points(model, data, bodies, rng)
    own = k.link >= LINKS.index("wrist 3")
    ends, radius = k.capsule_ends(k.frames(q))[own], k.radius[own]
    for direction in rng.standard_normal((500, 3)):
        direction /= np.linalg.norm(direction)
        reach = np.einsum("cik,i->ck", ends, direction).max(axis=1) + radius
        assert (points @ direction).max() <= reach.max()


def test_fingertips_of_the_open_gripper_are_exact(kinematics, scene):
    k, (model, data) = kinematics["ur3e"], scene
    q = np.radians([10, -100, 100, -90, -90, 5.0])  # straight down
    place(model, data, q, FINGER_STROKE)
    bodies = [model.body(b).id for b in ("finger_left", "finger_right")]
    lowest = geom_points(model, data, bodies, np.random.default_rng(6))[:, 2].min()
    own = k.link == LINKS.index("gripper")
    ours = (k.capsule_ends(k.frames(q))[own, 2].min(axis=1) - k.radius[own]).min()
    assert lowest - 0.0011 < ours < lowest  # the rods' radius of 1 mm


@pytest.mark.parametrize(
    ("gripper", "length"), [("robotiq_2f85", 0.16), ("2fg7", 0.16), ("rg2", 0.215), ("rg6", 0.275)]
)
def test_other_grippers_reach_as_far_as_they_are_long(gripper, length):
    k = Kinematics(MODELS["ur3"], gripper=gripper)
    frames = k.frames(np.radians([0, -90, 90, -90, -90, 0]))  # straight down
    own = k.link == LINKS.index("gripper")
    lowest = (k.capsule_ends(frames)[own, 2].min(axis=1) - k.radius[own]).min()
    assert frames[6, 2, 3] - lowest == pytest.approx(length, abs=0.0015)


def test_no_gripper_has_no_capsules():
    k = Kinematics(MODELS["ur3"], gripper="none")
    assert set(k.link) == set(range(len(LINKS) - 1)) and len(GRIPPERS) == 5


def test_a_wrong_tool_point_and_gripper_are_named_together():
    with pytest.raises(ConfigError, match="tcp must be 6 numbers.*no gripper 'hand'.*rg2") as error:
        Kinematics(MODELS["ur3e"], [0, 0, np.nan, 0, 0, 0], "hand")
    assert len(error.value.problems) == 2
    with pytest.raises(ConfigError, match="tcp must be 6 numbers"):
        Kinematics(MODELS["ur3e"], [0, 0, 0.1])


def test_extra_shapes_are_part_of_a_link():
    box = [-0.06, 0.03, -0.02, 0.06, 0.11, 0.005]
    extra = {"wrist 3": [[0, 0.05, 0, 0, 0.09, 0, 0.02]], "forearm": [box]}
    k = Kinematics(MODELS["ur3e"], extra=extra)
    assert (k.link == LINKS.index("wrist 3")).sum() == 2
    own = np.flatnonzero(k.link == LINKS.index("forearm"))[2:]
    corners = np.array(np.meshgrid(*zip(box[:3], box[3:], strict=True))).reshape(3, -1).T
    frame = k.frames(np.zeros(6))[3]
    points = corners @ frame[:3, :3].T + frame[:3, 3]
    ends = k.capsule_ends(k.frames(np.zeros(6)))[own]
    assert (distances_to_lines(points, ends) - k.radius[own]).min(axis=1).max() < 1e-12
    q = np.radians([0, -90, 90, -90, -90, 0])
    frame = k.frames(q)[6]
    (camera,) = np.flatnonzero(k.link == LINKS.index("wrist 3"))[1:]
    for end, y in zip(k.capsule_ends(k.frames(q))[camera].T, (0.05, 0.09), strict=True):
        np.testing.assert_allclose(end, frame[:3, :3] @ [0, y, 0] + frame[:3, 3], atol=1e-12)
    assert k.radius[camera] == 0.02 and k.is_solid[camera]


@pytest.mark.parametrize(
    "extra",
    [
        {"hand": [[0, 0, 0, 0, 0, 0.1, 0.01]]},
        {"wrist 3": [[0, 0, 0, 0, 0, 0.1, 0.0]]},
        {"wrist 3": [[0, 0, 0, 0.1, 0.1, -0.1]]},
        {"wrist 3": [["0", 0, 0, 0, 0, 0.1, 0.01]]},
        {"wrist 3": [[0, 0, 0, 0, 0, float("nan"), 0.01]]},
        {"wrist 3": [[1.0]]},
    ],
)
def test_extra_shapes_that_cannot_be_are_refused(extra):
    with pytest.raises(ConfigError, match="extra_shapes: "):
        Kinematics(MODELS["ur3e"], extra=extra)
