"""What messages say, and what is said of those that cannot be read; names and units of joints."""

import array
import base64
import io
import struct
import zlib
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import CubicHermiteSpline

from actquant.common.errors import RosError
from actquant.ros.joints import JointMap, parse_joints
from actquant.ros.messages import (
    MessageError,
    Trajectory,
    read_compressed_picture,
    read_joints,
    read_picture,
    read_text,
    smooth_velocities,
    stamp,
)
from actquant.ros.settings import RosSettings, split_joints

PICTURE = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
ALPHA = np.full((4, 5, 1), 7, np.uint8)


def image(encoding: str, pixels: np.ndarray, padding: int = 0) -> SimpleNamespace:
    rows = pixels.reshape(len(pixels), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    fields = {"encoding": encoding, "height": 4, "width": 5, "step": padded.shape[1]}
    data = array.array("B", padded.tobytes())  # as rclpy has it
    return SimpleNamespace(data=data, **fields)


@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[:, :, ::-1]),
        ("8UC3", PICTURE[:, :, ::-1]),
        ("rgba8", np.concatenate([PICTURE, ALPHA], axis=2)),
        ("bgra8", np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2)),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_pictures_come_out_in_red_green_blue(encoding, pixels, padding):
    np.testing.assert_array_equal(read_picture(image(encoding, pixels, padding)), PICTURE)


def test_a_grey_picture_has_three_equal_channels():
    grey = read_picture(image("mono8", PICTURE[:, :, :1]))
    np.testing.assert_array_equal(grey, np.repeat(PICTURE[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("kind", ["base64", "list"])
def test_bytes_of_json(kind):
    data = PICTURE.tobytes()
    given = base64.b64encode(data).decode() if kind == "base64" else list(data)
    message = SimpleNamespace(**(vars(image("rgb8", PICTURE)) | {"data": given}))
    np.testing.assert_array_equal(read_picture(message), PICTURE)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"encoding": "16UC1"}, "encoding '16UC1'"),
        ({"height": 0}, "height 0"),
        ({"width": "5"}, "width '5'"),
        ({"step": 14}, "step 14"),
        ({"height": 5}, "60 bytes of data"),
        ({"width": 6}, "at least 18 bytes"),
        ({"data": "%%%"}, "data are no bytes"),
        ({"data": [300]}, "data are no bytes"),
        ({"data": None}, "data are no bytes"),
    ],
)
def test_a_picture_that_is_none(changes, words):
    with pytest.raises(MessageError, match=words):
        read_picture(SimpleNamespace(**(vars(image("rgb8", PICTURE)) | changes)))


def encoded(pixels: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def claiming(side: int) -> bytes:
    """A PNG that says it is that large, and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def test_a_compressed_picture_is_decoded():
    message = SimpleNamespace(format="png", data=encoded(PICTURE, "PNG"))
    np.testing.assert_array_equal(read_compressed_picture(message), PICTURE)


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "no JPEG or PNG"),
        (b"\xff\xd8\xff no picture", "no JPEG or PNG"),
        (encoded(PICTURE, "PNG")[:-30], "no JPEG or PNG"),
        (encoded(PICTURE, "BMP"), "no JPEG or PNG"),
        (encoded(np.ones((3, 3), np.uint16), "PNG"), "a picture of depth"),
        (claiming(60_000), "it is too large"),
        (claiming(9_000), "a picture of 9000x9000"),
    ],
)
def test_a_compressed_picture_that_is_none(data, words):
    with pytest.raises(MessageError, match=words):
        read_compressed_picture(SimpleNamespace(format="?", data=data))


def test_joints_that_are_none():
    good = SimpleNamespace(name=["a", "b"], position=array.array("d", [1, 2]))
    assert read_joints(good) == {"a": 1.0, "b": 2.0}
    assert read_joints(SimpleNamespace(name=["a"], position=[])) == {}
    for names, positions, words in (
        (["a"], [1.0, 2.0], "1 names with 2 positions"),
        (["a"], [float("nan")], "a is at nan"),
        (["a"], [None], "a is at None"),
        ([3], [1.0], "a name and a finite number"),
    ):
        with pytest.raises(MessageError, match=words):
            read_joints(SimpleNamespace(name=names, position=positions))


def test_texts_and_times():
    assert read_text(SimpleNamespace(data=" push \n")) == "push"
    with pytest.raises(MessageError, match="expected a text"):
        read_text(SimpleNamespace(data=5))
    with pytest.raises(MessageError, match="no field data"):
        read_text(SimpleNamespace())

    def at(**time: Any) -> SimpleNamespace:
        return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(**time)))

    assert stamp(at(sec=3, nanosec=4)) == stamp(at(secs=3, nsecs=4)) == (3, 4)
    assert stamp(at(sec=0, nanosec=0)) is stamp(SimpleNamespace()) is None
    with pytest.raises(MessageError, match="no field nanosec"):
        stamp(at(sec=3))
    with pytest.raises(MessageError, match="whole numbers"):
        stamp(at(sec=3.5, nanosec=0))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.builds(SimpleNamespace, sec=inner, stamp=inner),
    max_leaves=5,
)
FIELDS = ("header", "height", "width", "step", "encoding", "data", "format", "name", "position")


@settings(max_examples=300, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON), seen=st.integers(0, 4))
def test_whatever_a_bridge_sends_is_read_or_refused(fields, seen):
    good = vars(image("rgb8", PICTURE)) | {"name": ["a"], "position": [1.0], "format": "png"}
    read = (read_picture, read_compressed_picture, read_joints, read_text, stamp)[seen]
    with suppress(MessageError):
        read(SimpleNamespace(**(good | fields)))


def test_points_are_due_on_time_however_far_ahead():
    zeros = np.zeros((50, 1))
    due = [time for _, _, time in Trajectory(("a",), zeros, zeros, 1 / 30).points()]
    assert due[0] == (0, 33_333_333) and due[-1] == (1, 666_666_667)


def test_between_points_joints_stay_between_them():
    random = np.random.default_rng(0)
    positions = random.normal(size=(20, 3)).cumsum(axis=0)
    start = np.array([0.0, np.nan, 5.0])
    velocities = smooth_velocities(start, positions, 0.1)
    assert not velocities[-1].any() and velocities[:-1].any()
    times = 0.1 * np.arange(len(positions))
    spline = CubicHermiteSpline(times, positions, velocities)
    for k in range(len(positions) - 1):
        between = spline(np.linspace(times[k], times[k + 1], 50))
        low, high = np.sort(positions[k : k + 2], axis=0)
        assert (between > low - 1e-9).all() and (between < high + 1e-9).all()


def test_at_an_even_pace_the_velocity_is_that_pace():
    positions = np.array([[1.1], [1.2], [1.3]])
    velocities = smooth_velocities(np.array([1.0]), positions, 0.1)
    np.testing.assert_allclose(velocities[:, 0], [1, 1, 0], atol=1e-9)
    np.testing.assert_array_equal(smooth_velocities(np.array([0.0]), positions[:1], 0.1), [[0]])


def test_names_and_units_of_joints():
    given = parse_joints(["elbow.pos=elbow_joint", "grip=finger*0.01"])
    joints = JointMap(["elbow.pos", "grip", "wrist.pos", "joint_1_rad"], given)
    assert joints.names == ("elbow_joint", "finger", "wrist", "joint_1")
    ros = joints.to_ros(np.array([[1, 50, 2, 3]], np.float32))
    np.testing.assert_allclose(ros, [[1, 0.5, 2, 3]])
    np.testing.assert_allclose(joints.to_policy(list(ros[0])), [1, 50, 2, 3])
    for pairs, words in (
        (["a"], "POLICY'S=JOINT"),
        (["a=b*0"], "FACTOR"),
        (["a=b*x"], "FACTOR"),
        (["a=b", "a=c"], "twice"),
    ):
        with pytest.raises(RosError, match=words):
            parse_joints(pairs)
    with pytest.raises(RosError, match="two of the policy's numbers are the joint a"):
        JointMap(["a.pos", "a"], {})


def test_joints_on_topics():
    joints = ("a", "b", "c")
    assert split_joints(["/all"], joints) == {"/all": [0, 1, 2]}
    assert split_joints(["/rest", "/hand=b"], joints) == {"/hand": [1], "/rest": [0, 2]}
    for topics, words in (
        (["/x", "/y"], "say which joints go to which of /x, /y"),
        (["/x=a,d"], "does not move d; it moves a, b, c"),
        (["/x=a,b", "/y=b,c"], "b is given twice"),
        (["/x=a"], "no topic is for b, c"),
    ):
        with pytest.raises(RosError, match=words):
            split_joints(topics, joints)


def test_settings_tell_all_that_is_wrong():
    with pytest.raises(RosError) as error:
        RosSettings({"c": "a b"}, task=" ", mode="fast", ahead_s=0, jumps={"j": -1.0})
    for words in ("--ahead 0", "--task is no text", "--mode fast", "'a b' is no", "j=-1.0"):
        assert words in str(error.value)
    with pytest.raises(RosError, match="by --task, or by --task-topic"):
        RosSettings({})
