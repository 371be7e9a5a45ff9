"""The driver's own cameras: real publishers that fall silent or send rubbish, real video files."""

import base64
import io
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zmq
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.cameras import KINDS, GrabbingCamera, make_camera
from lerobot_robot_ur.cameras.zmq_camera import MAX_MESSAGE_BYTES
from lerobot_robot_ur.config import ArmConfig
from lerobot_robot_ur.errors import ConfigError, ConnectionFailed
from lerobot_robot_ur.robot import ArmWithCameras
from PIL import Image
from waiting import PATIENCE, wait_until

HEIGHT, WIDTH = 48, 64
FRESH_MS = 1000


def jpeg(picture: np.ndarray, quality: int = 95) -> str:
    """The base64 of a picture [H, W, 3] (RGB) as LeRobot's server sends it."""
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return base64.b64encode(data.tobytes()).decode()


def plain(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (red, green, blue), np.uint8)


def noise(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


class Publisher:
    """A ZeroMQ publisher that sends `message` (bytes, or a list of parts) 50 times a second; None:
    nothing."""

    def __init__(self) -> None:
        self.message: Any = None
        self.port = 0
        self._begin()

    def _begin(self) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 4)
        self._socket.bind(f"tcp://127.0.0.1:{self.port or '*'}")
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def _publish(self) -> None:
        while not self._closing.wait(0.02):
            message = self.message
            if message is not None:
                parts = message if isinstance(message, list) else [message]
                self._socket.send_multipart(parts)

    def show(self, **pictures: np.ndarray) -> None:
        images = {name: jpeg(picture) for name, picture in pictures.items()}
        times = dict.fromkeys(images, time.time())
        self.message = json.dumps({"timestamps": times, "images": images}).encode()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()

    def begin_anew(self) -> None:
        self._begin()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    publisher.close()


@pytest.fixture
def make() -> Iterator[Callable[..., GrabbingCamera]]:
    """Makes cameras, which are disconnected in the end."""
    cameras: list[GrabbingCamera] = []

    def make(kind: str, address: str, **settings: Any) -> GrabbingCamera:
        camera = make_camera(kind, address, **({"first_picture_s": PATIENCE} | settings))
        cameras.append(camera)
        return camera

    yield make
    for camera in cameras:
        camera.disconnect()
    assert not [t for t in threading.enumerate() if t.name in map(str, cameras)]


def over_zmq(make: Any, publisher: Publisher, name: str = "scene", **settings: Any):
    return make("zmq", f"127.0.0.1:{publisher.port}:{name}", **settings)


def is_fresh(camera: GrabbingCamera) -> bool:
    return 1e3 * camera.newest()[1] < FRESH_MS


def shows(camera: GrabbingCamera, picture: np.ndarray) -> bool:
    return bool(np.abs(camera.newest()[0].astype(int) - picture).max() < 30)


def test_pictures_are_those_of_lerobots_camera_bit_for_bit(publisher, make):
    publisher.show(wrist=plain(9, 9, 9), scene=noise(1))
    camera = over_zmq(make, publisher)
    camera.connect()
    config = ZMQCameraConfig(
        server_address="127.0.0.1", port=publisher.port, camera_name="scene", timeout_ms=30_000
    )
    theirs = ZMQCamera(config)
    theirs.connect(warmup=False)
    try:
        expected = theirs.async_read(timeout_ms=30_000)
    finally:
        theirs.disconnect()
    picture = camera.read_latest(FRESH_MS)
    assert picture.dtype == np.uint8 and (camera.height, camera.width) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(picture, expected)
    assert np.abs(picture.astype(int) - noise(1)).mean() < 5  # and not with red for blue


def test_the_newest_picture_comes_with_its_age(publisher, make):
    publisher.show(scene=plain(200, 0, 0))
    camera = over_zmq(make, publisher)
    before = time.monotonic()
    camera.connect()
    taken = camera.latest_timestamp
    assert taken is not None and before < taken < time.monotonic()
    publisher.show(scene=plain(0, 0, 200))
    wait_until(lambda: shows(camera, plain(0, 0, 200)), "the other picture")
    publisher.message = None
    time.sleep(0.5)
    _, age_s = camera.newest()
    assert 0.4 < age_s == pytest.approx(time.monotonic() - camera.latest_timestamp, abs=0.2)


def test_a_camera_without_a_picture_says_which_and_where(publisher, make):
    camera = over_zmq(make, publisher, first_picture_s=0.5)
    begin = time.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        camera.connect()
    assert time.monotonic() - begin > 0.5 and not camera.is_connected
    said = f"zmq camera 'scene' of 127.0.0.1:{publisher.port} gives no picture in 0.5 s"
    assert str(caught.value) == said
    driver = ArmWithCameras(Arm(ArmConfig("192.0.2.1")), {"front": camera})
    with pytest.raises(ConnectionFailed, match=f"camera 'front': {said}"):
        driver.connect()


def test_a_first_picture_may_be_late(publisher, make):
    timer = threading.Timer(2.5, lambda: publisher.show(scene=plain(1, 2, 3)))
    timer.start()
    camera = over_zmq(make, publisher)
    camera.connect()
    timer.join()
    assert camera.read_latest(FRESH_MS).shape == (HEIGHT, WIDTH, 3)


def test_a_name_that_is_not_sent_is_told_with_those_that_are(publisher, make):
    publisher.show(scene=plain(0, 0, 0), wrist=plain(1, 1, 1))
    camera = over_zmq(make, publisher, name="wirst", first_picture_s=3)
    with pytest.raises(ConnectionFailed, match="it sends no 'wirst' but 'scene', 'wrist'"):
        camera.connect()


def test_a_camera_never_shows_another_ones_picture(publisher, make):
    """LeRobot's server leaves a camera out of a message where it has no new picture of it."""
    publisher.show(scene=plain(200, 0, 0))
    camera = over_zmq(make, publisher)
    camera.connect()
    publisher.show(wrist=plain(0, 200, 0))
    wait_until(lambda: not is_fresh(camera), "silence of the camera")
    assert shows(camera, plain(200, 0, 0))
    with pytest.raises(TimeoutError, match="it sends no 'scene' but 'wrist'"):
        camera.read_latest(FRESH_MS)


def test_a_publisher_that_falls_silent_and_one_that_comes_back(publisher, make):
    publisher.show(scene=plain(200, 0, 0))
    camera = over_zmq(make, publisher)
    camera.connect()
    publisher.close()
    wait_until(lambda: not is_fresh(camera), "silence")
    with pytest.raises(TimeoutError) as caught:
        camera.read_latest(FRESH_MS)
    assert f"'scene' of 127.0.0.1:{publisher.port}: the newest picture is too old" in str(
        caught.value
    )
    time.sleep(6)  # longer than after which it connects anew
    publisher.show(scene=plain(0, 0, 200))
    publisher.begin_anew()
    wait_until(lambda: is_fresh(camera), "pictures again")
    assert shows(camera, plain(0, 0, 200))
    camera.read_latest(FRESH_MS)


def bomb() -> str:
    """The base64 of a small PNG of 225 million pixels."""
    buffer = io.BytesIO()
    Image.new("L", (15_000, 15_000)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def of_scene(image: object) -> bytes:
    return json.dumps({"images": {"scene": image}}).encode()


RUBBISH: dict[str, Callable[[], bytes | list[bytes]]] = {
    "nothing": lambda: b"",
    "noise": lambda: np.random.default_rng(0).bytes(100_000),
    "parts": lambda: [b"\xff" * 100] * 50,
    "depth": lambda: b"[" * 1_000_000,
    "number": lambda: b"7",
    "digits": lambda: b"1" * 100_000,
    "no images": lambda: b'{"images": 3}',
    "no text": lambda: of_scene([1, 2, 3]),
    "no base64": lambda: of_scene("%$!"),
    "no picture": lambda: of_scene(base64.b64encode(b"x" * 1000).decode()),
    "half a picture": lambda: of_scene(jpeg(noise(2))[:1000]),
    "bomb": lambda: of_scene(bomb()),
    "many names": lambda: json.dumps(
        {"images": {"n" * 99 + str(k): "" for k in range(9999)}}
    ).encode(),
    "too long": lambda: b"[" + b"0," * MAX_MESSAGE_BYTES + b"0]",
}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_is_left_out_and_told_of(publisher, make, rubbish):
    publisher.show(scene=plain(200, 0, 0))
    camera = over_zmq(make, publisher)
    camera.connect()
    publisher.message = rubbish()
    wait_until(lambda: not is_fresh(camera), "silence of the camera")
    with pytest.raises(TimeoutError) as caught:
        camera.read_latest(FRESH_MS)
    assert "zmq camera 'scene'" in str(caught.value) and len(str(caught.value)) < 1000
    assert shows(camera, plain(200, 0, 0))
    publisher.show(scene=plain(0, 0, 200))
    wait_until(lambda: is_fresh(camera), "pictures again")
    assert shows(camera, plain(0, 0, 200))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_a_flood_takes_bounded_memory(publisher, make):
    padding = "x" * (MAX_MESSAGE_BYTES - 100_000)
    images = {"scene": jpeg(noise(3))}
    publisher.message = json.dumps({"images": images, "padding": padding}).encode()
    camera = over_zmq(make, publisher)
    camera.connect()
    time.sleep(1)
    before, worst = resident_mb(), 0.0
    deadline = time.monotonic() + 6  # some GB at 50 messages a second
    while time.monotonic() < deadline:
        worst = max(worst, resident_mb())
        time.sleep(0.02)
    # As many messages as may wait here and at the publisher, in bytes and as text, and one more.
    assert worst - before < 12 * MAX_MESSAGE_BYTES / 1e6
    assert is_fresh(camera)


def test_a_silent_camera_is_closed_at_once(publisher, make):
    publisher.show(scene=plain(0, 0, 0))
    camera = over_zmq(make, publisher)
    camera.connect()
    publisher.message = None
    time.sleep(0.3)
    begin = time.monotonic()
    camera.disconnect()
    assert time.monotonic() - begin < 1 and not camera.is_connected
    camera.disconnect()
    with pytest.raises(ConnectionFailed, match="is not connected"):
        camera.newest()
    publisher.show(scene=plain(0, 0, 200))
    camera.connect()
    assert shows(camera, plain(0, 0, 200))
    with pytest.raises(ConnectionFailed, match="is connected already"):
        camera.connect()


@pytest.mark.parametrize(
    ("kind", "address", "settings", "said"),
    [
        ("usb", "0", {}, f"there is no camera 'usb'; there are {', '.join(KINDS)}"),
        ("zmq", "host", {}, "'host' of kind zmq is not HOST:PORT:CAMERA"),
        ("zmq", "host:99999:scene", {}, "is not HOST:PORT:CAMERA"),
        ("zmq", "host:5555:", {}, "is not HOST:PORT:CAMERA"),
        ("zmq", "h:5555:c", {"width": 0, "first_picture_s": -1}, "width is 0.*first_picture_s"),
        ("opencv", "0", {"fps": 0}, "/dev/video0: fps is 0"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_opened(kind, address, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_camera(kind, address, **settings)


COLOURS = [(230, 20, 20), (20, 20, 230)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Half a second of red and half a second of blue."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for colour in COLOURS:
        for _ in range(10):
            writer.write(plain(*colour)[..., ::-1].copy())
    writer.release()
    return path


def test_a_video_is_shown_in_its_colours_at_its_pace(video, make):
    camera = make("opencv", str(video), width=WIDTH, height=HEIGHT, fps=20)
    camera.connect()
    first = camera.read_latest(FRESH_MS)
    assert first.shape == (HEIGHT, WIDTH, 3) and first.dtype == np.uint8
    assert shows(camera, plain(*COLOURS[0]))  # after half a second the next one
    for colour in (*COLOURS[1:], *COLOURS):  # and from its begin again
        wait_until(lambda colour=colour: shows(camera, plain(*colour)), f"{colour}")


def test_a_video_that_is_not_as_wanted(video, make):
    camera = make("opencv", str(video), width=640, fps=30)
    begin = time.monotonic()
    with pytest.raises(ConnectionFailed, match="gives width 64 instead of 640, fps 20 instead of"):
        camera.connect()
    assert time.monotonic() - begin < PATIENCE / 2


def test_a_device_that_is_taken_away_and_comes_back(video, make):
    camera = make("opencv", str(video))
    camera.connect()
    assert (camera.height, camera.width) == (HEIGHT, WIDTH)
    away = video.rename(video.with_name("away.avi"))
    wait_until(lambda: not is_fresh(camera), "the end of the video")
    with pytest.raises(TimeoutError, match=f"{video}: .*it is not there any more"):
        camera.read_latest(FRESH_MS)
    away.rename(video)
    wait_until(lambda: is_fresh(camera), "pictures again")


def test_a_device_that_is_not_there_or_is_no_camera(make, tmp_path):
    begin = time.monotonic()
    with pytest.raises(ConnectionFailed, match="/dev/video99 is not there; devices that are: "):
        make("opencv", "99").connect()
    assert time.monotonic() - begin < 1
    text = tmp_path / "text.avi"
    text.write_text("no video")
    with pytest.raises(ConnectionFailed, match=f"{text} gives no picture .*cannot be opened"):
        make("opencv", str(text), first_picture_s=2).connect()
