"""Every arm: its kinematics against another library, its shape, and on the wire."""

import dataclasses

import kinpy
import numpy as np
import pytest
from lerobot_robot_ur import UR5eConfig, UR20Config
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.clearances import Clearances
from lerobot_robot_ur.errors import ConfigError, ConnectionFailed
from lerobot_robot_ur.kinematics import LINKS, Kinematics
from lerobot_robot_ur.limits import limits_for
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.robot import ArmWithCameras
from streaming import config
from ur_fake_controller import FakeController
from ur_motion.control import HOME

#: x of forearm and wrist 1, z of shoulder and wrist 1, -y of wrist 2, y of wrist 3 in their
#: parents' frames (m), as in the UniversalRobots ROS 2 description's default_kinematics.yaml.
PUBLISHED = {
    "ur3e": (-0.24355, -0.2132, 0.15185, 0.13105, 0.08535, 0.0921),
    "ur5e": (-0.425, -0.3922, 0.1625, 0.1333, 0.0997, 0.0996),
    "ur10e": (-0.6127, -0.57155, 0.1807, 0.17415, 0.11985, 0.11655),
    "ur16e": (-0.4784, -0.36, 0.1807, 0.17415, 0.11985, 0.11655),
    "ur20": (-0.862, -0.7287, 0.2363, 0.201, 0.1593, 0.1543),
    "ur30": (-0.637, -0.5037, 0.2363, 0.201, 0.1593, 0.1543),
    "ur3": (-0.24365, -0.21325, 0.1519, 0.11235, 0.08535, 0.0819),
    "ur5": (-0.425, -0.39225, 0.089159, 0.10915, 0.09465, 0.0823),
    "ur10": (-0.612, -0.5723, 0.1273, 0.163941, 0.1157, 0.0922),
}
HALF = "1.5707963267948966"


def urdf(name: str) -> str:
    """The arm as that description spells it: a translation and angles about fixed axes a joint."""
    a2, a3, d1, d4, d5, d6 = PUBLISHED[name]
    origins = (
        ((0, 0, d1), "0 0 0"),
        ((0, 0, 0), f"{HALF} 0 0"),
        ((a2, 0, 0), "0 0 0"),
        ((a3, 0, d4), "0 0 0"),
        ((0, -d5, 0), f"{HALF} 0 0"),
        ((0, d6, 0), f"{HALF} 3.141592653589793 3.141592653589793"),
    )
    links = "".join(f'<link name="l{i}"/>' for i in range(7))
    joints = "".join(
        f'<joint name="j{i}" type="continuous"><parent link="l{i}"/><child link="l{i + 1}"/>'
        f'<origin xyz="{x} {y} {z}" rpy="{rpy}"/><axis xyz="0 0 1"/></joint>'
        for i, ((x, y, z), rpy) in enumerate(origins)
    )
    return f'<robot name="{name}">{links}{joints}</robot>'


@pytest.mark.parametrize("name", MODELS)
def test_flange_and_links_are_where_another_library_has_them(name):
    chain = kinpy.build_chain_from_urdf(urdf(name))
    own = Kinematics(MODELS[name])
    for q in np.random.default_rng(9).uniform(-3, 3, (10, 6)):
        theirs = chain.forward_kinematics({f"j{i}": angle for i, angle in enumerate(q)})
        for i, frame in enumerate(own.frames(q)):
            np.testing.assert_allclose(frame, theirs[f"l{i}"].matrix(), atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_every_arm_has_a_shape_with_which_it_can_stand_at_home_and_move_in_its_box(name):
    model, limits = MODELS[name], limits_for(name)
    kinematics = Kinematics(model)
    assert set(kinematics.link) == set(range(len(LINKS)))
    frames = kinematics.frames(HOME[None])
    ends = kinematics.capsule_ends(frames)[0]
    # Where two links meet there is a housing of one of them.
    for i in range(1, 7):
        own = (kinematics.link == i - 1) | (kinematics.link == i)
        start, path = ends[own, :, 0], ends[own, :, 1] - ends[own, :, 0]
        gap = frames[0, i, :3, 3] - start
        along = np.clip((gap * path).sum(1) / np.maximum((path**2).sum(1), 1e-30), 0, 1)
        distance = np.linalg.norm(gap - along[:, None] * path, axis=1) - kinematics.radius[own]
        assert distance.min() < 0.0, f"nothing is where {LINKS[i - 1]} and {LINKS[i]} meet"
    open_space = dataclasses.replace(
        limits, box_low_m=(-3.0, -3.0, -3.0), box_high_m=(3.0, 3.0, 3.0)
    )
    excess = Clearances(kinematics, open_space).excess(HOME[None], frames)
    assert excess.max() < 0.0
    size = np.array(limits.box_high_m) - limits.box_low_m
    assert np.all(size >= [0.3, 0.5, 0.22]) and -limits.box_low_m[0] < model.reach_m


@pytest.mark.parametrize("name", MODELS)
def test_accelerations_begin_gently_and_within_the_shoulders_torque(name):
    model, limits = MODELS[name], limits_for(name)
    assert max(limits.scaled(0.25).acceleration_rad_s2) <= 5.0
    upper, forearm = -model.arm.dh_a[1], -model.arm.dh_a[2]
    load = model.payload_kg * (upper + forearm + 0.1) ** 2  # the least of what has to be moved
    assert limits.acceleration_rad_s2[0] * load < model.lift_torque_nm


@pytest.mark.parametrize(("host", "name"), [("127.0.0.75", "ur5e"), ("127.0.0.76", "ur20")])
def test_a_larger_arm_on_the_wire(host, name):
    with FakeController(host, model=name) as fake:
        with pytest.raises(ConnectionFailed, match="configured is a ur3e"):
            Arm(config(host)).connect()
        with Arm(config(host, model=name)) as arm:
            goal = arm.state().joints + [0.1, 0.05, -0.05, 0.1, 0.0, 0.1]
            arm.move_to(goal)
            np.testing.assert_allclose(fake.state()["joints"], goal, atol=5e-3)
            assert arm.stopped is None


def test_settings_of_larger_arms():
    assert UR5eConfig(ip="x").arm_config().model == "ur5e"
    assert UR20Config(ip="x", payload_kg=24.0).arm_config().payload_kg == 24.0
    with pytest.raises(ConfigError, match="payload_kg is 6.0; it is from 0.0 to 5.0"):
        UR5eConfig(ip="x", payload_kg=6.0)
    with pytest.raises(ConfigError, match="'tool_motion' is that of a table for a UR3e"):
        ArmWithCameras(Arm(config("x", model="ur5e", gripper="rg2")), layout="tool_motion")
