"""What ROS messages say, wherever they come from: rclpy's objects, or JSON by rosbridge.

A message is read by its attributes. `uint8[]` is an array from rclpy and base64 from rosbridge.
"""

import base64
import binascii
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actquant.common.errors import RosError, brief

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
STRING = "std_msgs/msg/String"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"

MOST_PIXELS = 64_000_000

_CHANNELS = {
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
    "8UC1": (1, [0, 0, 0]),
    "8UC3": (3, [2, 1, 0]),  # as cv_bridge takes it: OpenCV's order
}
"""Encodings: bytes a pixel, and which of them are red, green and blue."""


class MessageError(RosError):
    """A message does not say what it should."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where joints shall be: positions and velocities [n, J], the first `period_s` after it begins.

    Velocities make a controller go through the points smoothly: between positions alone it goes
    straight, with a jerk at each.
    """

    joints: tuple[str, ...]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    period_s: float

    def points(self) -> Iterator[tuple[list[float], list[float], tuple[int, int]]]:
        """Yields each point's positions, velocities, and when it is due: seconds and nanoseconds
        from the beginning."""
        pairs = zip(self.positions.tolist(), self.velocities.tolist(), strict=True)
        for k, (positions, velocities) in enumerate(pairs, 1):
            yield positions, velocities, divmod(round(1e9 * self.period_s * k), 10**9)


def smooth_velocities(
    start: NDArray[np.float64], positions: NDArray[np.float64], period_s: float
) -> NDArray[np.float64]:
    """Returns velocities [n, J] at positions [n, J], which come `period_s` after each other.

    start: positions [J] before the first; NaN where they are not known. The cubic through the
    points leaves no interval between two of them (Fritsch and Butland's harmonic mean), and rests
    at the last.
    """
    begin = np.where(np.isnan(start), positions[0], start)
    slopes = np.diff(np.vstack([begin, positions]), axis=0) / period_s
    before, after = slopes[:-1], slopes[1:]
    same = before * after > 0
    between = np.divide(2 * before * after, before + after, out=np.zeros_like(before), where=same)
    return np.vstack([between, np.zeros_like(slopes[:1])])


def stamp(message: Any) -> tuple[int, int] | None:
    """Returns seconds and nanoseconds of a message's header; None where it has no time.

    Takes ROS 2's names of the fields and ROS 1's. Raises MessageError.
    """
    header = getattr(message, "header", None)
    if header is None:
        return None
    time = _field(header, "stamp")
    names = ("sec", "nanosec") if hasattr(time, "sec") else ("secs", "nsecs")
    seconds, nanoseconds = (_field(time, name) for name in names)
    if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
        raise MessageError(f"header.stamp is {seconds!r}, {nanoseconds!r}; expected whole numbers")
    return (seconds, nanoseconds) if seconds or nanoseconds else None


def read_picture(message: Any) -> NDArray[np.uint8]:
    """Returns the picture uint8 [H, W, 3] of a sensor_msgs/msg/Image, in red, green, blue.

    Raises MessageError for an encoding that is no picture in colour or grey, and for data of
    another length than the fields say.
    """
    encoding, height, width, step = (
        _field(message, name) for name in ("encoding", "height", "width", "step")
    )
    if not isinstance(encoding, str) or encoding not in _CHANNELS:
        raise MessageError(f"encoding {encoding!r}; valid are {', '.join(_CHANNELS)}")
    channels, order = _CHANNELS[encoding]
    if not all(isinstance(n, int) for n in (height, width, step)) or height < 1 or width < 1:
        raise MessageError(f"a picture of height {height!r}, width {width!r}, step {step!r}")
    data = _bytes(_field(message, "data"))
    if step < channels * width or len(data) != step * height:
        raise MessageError(
            f"{len(data)} bytes of data with step {step}; {width}x{height} in {encoding} are "
            f"{height} rows of at least {channels * width} bytes"
        )
    rows = data.reshape(height, step)[:, : channels * width]
    return np.ascontiguousarray(rows.reshape(height, width, channels)[:, :, order])


def read_compressed_picture(message: Any) -> NDArray[np.uint8]:
    """Returns the picture uint8 [H, W, 3] of a sensor_msgs/msg/CompressedImage (JPEG or PNG).

    Raises MessageError for data that are no picture of these, and for pictures of depth.
    """
    said = _field(message, "format")
    data = _bytes(_field(message, "data"))
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise MessageError(f"a picture of {picture.width}x{picture.height}")
            if picture.mode.startswith(("I", "F")):
                raise MessageError(f"a picture of depth (format {said!r}); expected colour or grey")
            return np.array(picture.convert("RGB"))
    except MessageError:
        raise
    except Exception as error:  # decoders raise what they like for what a camera may send
        told = (
            "it is too large" if isinstance(error, Image.DecompressionBombError) else brief(error)
        )
        raise MessageError(f"format {said!r}: the data are no JPEG or PNG: {told}") from error


def read_joints(message: Any) -> dict[str, float]:
    """Returns the positions of a sensor_msgs/msg/JointState, by the joints' names.

    Empty for a message without positions, which ROS allows. Raises MessageError.
    """
    names, positions = _field(message, "name"), _field(message, "position")
    if not all(isinstance(values, Sequence) for values in (names, positions)):
        raise MessageError(f"name is {names!r}, position is {positions!r}; expected lists")
    if not positions:
        return {}
    if len(names) != len(positions):
        raise MessageError(f"{len(names)} names with {len(positions)} positions")
    wrong = [
        f"{name} is at {value!r}"
        for name, value in zip(names, positions, strict=True)
        if not isinstance(value, int | float) or not abs(value) < math.inf
    ]
    if wrong or not all(isinstance(name, str) for name in names):
        raise MessageError(f"{', '.join(wrong) or names}; expected a name and a finite number each")
    return {name: float(value) for name, value in zip(names, positions, strict=True)}


def read_text(message: Any) -> str:
    """Returns the text of a std_msgs/msg/String, without spaces around it. Raises MessageError."""
    text = _field(message, "data")
    if not isinstance(text, str) or "\0" in text:
        raise MessageError(f"data is {text!r}; expected a text")
    return text.strip()


def _field(message: Any, name: str) -> Any:
    try:
        return getattr(message, name)
    except AttributeError:
        raise MessageError(f"it has no field {name}") from None


def _bytes(data: Any) -> NDArray[np.uint8]:
    """Returns the bytes of a `uint8[]`."""
    try:
        if isinstance(data, str):
            data = base64.b64decode(data, validate=True)
        elif isinstance(data, list):
            data = bytes(data)
        return np.frombuffer(data, np.uint8)
    except (binascii.Error, TypeError, ValueError) as error:
        raise MessageError(f"data are no bytes: {error}") from None
