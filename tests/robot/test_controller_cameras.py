"""The fake controller's pictures, through LeRobot's own ZMQ camera."""

import time

import numpy as np
import pytest
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig  # noqa: E402
from lerobot_env_ur3e import UR3eEnv  # noqa: E402
from ur_fake_controller import FakeController  # noqa: E402

SIZE = 96
TIMEOUT_MS = 30_000


@pytest.fixture
def fake(address):
    with FakeController(
        address, task="place_tray", start=5, cameras=True, image_size=SIZE
    ) as controller:
        yield controller


@pytest.mark.parametrize("name", ["scene", "wrist"])
def test_pictures_are_those_of_the_environment(fake, name):
    config = ZMQCameraConfig(
        server_address=fake.host, port=5555, camera_name=name, timeout_ms=TIMEOUT_MS
    )
    camera = ZMQCamera(config)
    camera.connect()
    try:
        picture = camera.async_read(timeout_ms=TIMEOUT_MS)
    finally:
        camera.disconnect()
    env = UR3eEnv("place_tray", image_size=SIZE)
    expected = env.reset(options={"start": 5})[0]["pixels"][name]
    assert picture.shape == (SIZE, SIZE, 3)
    # JPEG, and objects that have settled by a tenth of a millimetre; exchanged colours or another
    # start would differ by far more.
    assert np.abs(picture.astype(float) - expected).mean() < 4
    assert np.abs(picture[..., ::-1].astype(float) - expected).mean() > 8


def test_frozen_cameras(fake):
    config = ZMQCameraConfig(
        server_address=fake.host, port=5555, camera_name="scene", timeout_ms=TIMEOUT_MS
    )
    camera = ZMQCamera(config)
    camera.connect()
    try:
        fake.faults.freeze_cameras()
        time.sleep(1.0)
        camera.new_frame_event.clear()
        with pytest.raises(TimeoutError):
            camera.async_read(timeout_ms=1000)
        fake.faults.clear()
        assert camera.async_read(timeout_ms=TIMEOUT_MS) is not None
    finally:
        camera.disconnect()
