"""The arm's own lengths: where they put tool and links, and that they come from the controller."""

import socket
import struct
import threading
from contextlib import closing
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.calibration import Calibration, published
from lerobot_robot_ur.errors import ConfigError, ConnectionFailed
from lerobot_robot_ur.kinematics import Kinematics, calibration_offset_m
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.primary import PORT, read_calibration
from streaming import config
from ur_fake_controller import FakeController
from ur_motion import rotations

HOST, GARBAGE_HOST = "127.0.0.66", "127.0.0.67"

# A real UR10e: docs.ros.org, ur_calibration, "Calibration correction algorithm".
UR10E = Calibration(
    (-2.4147806894359e-07, 1.60233952386695, -1.68607190752171, 0.0837331147700119,
     -1.01260355871158e-07, 3.91986209186124e-08),
    (2.12234865571206e-05, 0.0193171326277006, -0.569251663611088, -4.61409023720934e-05,
     -6.39280053471802e-05, 0.0),
    (0.180539811714259, 439.140974079901, -446.027059806332, 7.0603368964236,
     0.119811341150314, 0.115670917257426),
    (1.57014608044242, 0.0013941666682559, 0.00693818880325995, 1.56998468543761,
     -1.57038520649543, 0.0),
)  # fmt: skip


def ur3e(offset_m: float) -> Calibration:
    """Returns lengths of a UR3e whose forearm is longer, with angles that are a little off."""
    own = published(MODELS["ur3e"])
    a = (own.a[0], own.a[1], own.a[2] - offset_m, *own.a[3:])
    return replace(own, theta=(0.001, 0.0, 0.0, -0.001, 0.0, 0.0), a=a)


def dh_flange(own: Calibration, joints: np.ndarray) -> np.ndarray:
    """Returns the textbook's product of matrices."""
    pose = np.eye(4)
    for q, theta, a, d, alpha in zip(joints, *astuple(own), strict=True):
        about_z, along = np.eye(4), np.eye(4)
        about_z[:3, :3] = rotations.exp([0, 0, q + theta])
        about_z[2, 3] = d
        along[:3, :3], along[0, 3] = rotations.exp([alpha, 0, 0]), a
        pose = pose @ about_z @ along
    return pose


def random_joints(count: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-6, 6, (count, 6))


def test_the_tool_of_a_real_arm_is_where_its_parameters_have_it():
    tcp = np.array([0.01, -0.02, 0.2, 0.3, -0.4, 0.5])
    own = replace(UR10E, a=(*UR10E.a[:5], 0.002), alpha=(*UR10E.alpha[:5], 0.003))
    kinematics = Kinematics(MODELS["ur10e"], tcp, calibration=own)
    offset = np.eye(4)
    offset[:3, :3], offset[:3, 3] = rotations.exp(tcp[3:]), tcp[:3]
    for q in random_joints(20):
        expected = dh_flange(own, q) @ offset
        position, rotation = kinematics.tool(q)
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-9)
        np.testing.assert_allclose(rotation, expected[:3, :3], atol=1e-9)
        np.testing.assert_allclose(
            kinematics.tool_position(kinematics.frames(q)), expected[:3, 3], atol=1e-9
        )


def test_the_jacobian_is_that_of_the_calibrated_tool():
    kinematics = Kinematics(MODELS["ur10e"], calibration=UR10E)
    step = 1e-6
    for q in random_joints(5):
        jacobian = kinematics.jacobian(q)
        for k in range(6):
            there, back = (kinematics.tool(q + s * step * np.eye(6)[k])[0] for s in (1, -1))
            np.testing.assert_allclose(jacobian[:3, k], (there - back) / (2 * step), atol=1e-6)


def test_links_stay_where_they_are_though_parameters_are_hundreds_of_metres_long():
    model = MODELS["ur10e"]
    own, nominal = Kinematics(model, calibration=UR10E), Kinematics(model)
    joints = random_joints(200)
    off = own.capsule_ends(own.frames(joints)) - nominal.capsule_ends(nominal.frames(joints))
    farthest = np.linalg.norm(off, axis=-2).max()
    assert 1e-3 < farthest < 8e-3
    assert 3e-3 < calibration_offset_m(model, UR10E) < 5e-3


def test_steps_of_the_tool_by_published_lengths_are_right_within_some_per_cent():
    model = MODELS["ur10e"]
    own, nominal = Kinematics(model, calibration=UR10E), Kinematics(model)
    off = []
    for q in np.random.default_rng(0).uniform(-3, 3, (3000, 6)):
        jacobian = nominal.jacobian(q)
        if np.linalg.svd(jacobian, compute_uv=False)[-1] < 0.05:
            continue
        for direction in np.eye(3):
            turn = np.linalg.solve(jacobian, [*(0.025 * direction), 0, 0, 0])
            if np.abs(turn).max() < 0.2:
                real, meant = (k.tool(q + turn)[0] - k.tool(q)[0] for k in (own, nominal))
                off.append(np.linalg.norm(real - meant) / np.linalg.norm(meant))
    assert len(off) > 5000
    assert 0.003 < np.mean(off) < 0.005 and 0.02 < np.max(off) < 0.027


@pytest.mark.parametrize("name", MODELS)
def test_an_arm_that_is_as_published_stays_so(name):
    model = MODELS[name]
    own, nominal = Kinematics(model, calibration=published(model)), Kinematics(model)
    joints = random_joints(20)
    np.testing.assert_allclose(own.frames(joints), nominal.frames(joints), atol=1e-12)
    assert calibration_offset_m(model, published(model)) < 1e-12


def test_what_is_no_calibration_is_refused():
    own = published(MODELS["ur3e"])
    with pytest.raises(ConfigError, match="calibration: d is .*6 finite numbers"):
        replace(own, d=(0.1, 0.2))
    with pytest.raises(ConfigError, match="calibration: theta is .*nan"):
        replace(own, theta=(float("nan"), *own.theta[1:]))


@pytest.fixture
def fake(renewed: FakeController) -> FakeController:
    return renewed


def notes(arm: Arm) -> list[str]:
    return [event.detail for event in arm.events() if event.kind == "calibration"]


def test_the_controllers_parameters_are_read_and_the_arm_is_where_they_have_it(fake):
    own = ur3e(0.007)
    fake.faults.calibrate(own)
    assert read_calibration(HOST) == own
    with Arm(config(HOST)) as arm:
        assert arm.calibration == own and not notes(arm)
        assert 7e-3 < arm.calibration_offset_m < 9e-3
        state = fake.state()
        position = arm.guard.kinematics.tool(state["joints"])[0]
        np.testing.assert_allclose(position, state["tcp_pose"][:3], atol=1e-9)
        assert np.linalg.norm(Kinematics(arm.model).tool(state["joints"])[0] - position) > 5e-3
        # A motion passes the servo process's guard too, which has the same lengths.
        arm.move_to(arm.commanded() + np.array([0.05, 0, 0, 0, 0, 0]))


def test_without_the_primary_interface_published_lengths_are_used_as_far_as_they_go(fake):
    fake.faults.refuse("primary")
    with Arm(config(HOST)) as arm:
        assert arm.calibration is None
        (note,) = notes(arm)
        assert "port 30001" in note and "published lengths are used" in note
    own = ur3e(0.007)
    fake.faults.calibrate(own)
    with pytest.raises(ConnectionFailed, match="from where this driver has it .allowed 5 mm"):
        Arm(config(HOST)).connect()
    with Arm(config(HOST, calibration=own)) as arm:
        assert arm.calibration == own


def test_another_models_lengths_are_refused(fake):
    fake.faults.calibrate(published(MODELS["ur3"]))
    uploads = fake.state()["uploads"]
    with pytest.raises(ConnectionFailed, match=r"28\.\d mm from .* a ur3e have it .*another model"):
        Arm(config(HOST)).connect()
    assert fake.state()["uploads"] == uploads


def package(kind: int, payload: bytes) -> bytes:
    return struct.pack(">iB", 5 + len(payload), kind) + payload


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "timed out"),
        (package(16, package(0, bytes(33))), "timed out"),
        (package(16, package(5, bytes(100))), "kinematics of 100 bytes"),
        (package(16, package(5, struct.pack(">6I24dI", *range(6), *[np.nan] * 24, 0))), "nan"),
        (struct.pack(">iB", 1 << 30, 16), "of 1073741824 bytes"),
        (struct.pack(">iB", -1, 16), "of -1 bytes"),
        (package(16, struct.pack(">iB", 0, 5)), "of 0 bytes"),
        (package(16, b"\0\0\0"), "without an end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_broken_is_named(fake, data, reason):
    fake.faults.send_primary(data)
    with pytest.raises(ConnectionFailed, match=f"no calibration .* port 30001: .*{reason}"):
        read_calibration(HOST)


wires = st.lists(
    st.binary(max_size=300)
    | st.builds(package, st.sampled_from([5, 16, 20]), st.binary(max_size=300))
    | st.binary(max_size=300).map(lambda data: package(16, package(5, data))),
    max_size=3,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(data=wires)
def test_whatever_comes_is_a_calibration_or_an_error_that_is_ours(data):
    with closing(socket.create_server((GARBAGE_HOST, PORT))) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            read_calibration(GARBAGE_HOST)
        except ConnectionFailed as error:
            assert "port 30001" in str(error)
        finally:
            thread.join()
