"""A fake controller with cameras, and settings to deploy on it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lerobot_robot_ur.dashboard import bring_back, stop_program
from ur_fake_controller import FakeController

sys.path.insert(0, str(Path(__file__).parent))

from stage import HOST, IMAGE, build, patient_settings

from actquant.deploy.settings import DeploySettings


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def controller() -> Iterator[FakeController]:
    with FakeController(HOST, cameras=True, image_size=IMAGE, unlock_delay=0.1) as fake:
        yield fake


@pytest.fixture
def settings(
    model: Path, controller: FakeController, tmp_path: Path
) -> Iterator[Callable[..., DeploySettings]]:
    """Makes settings for the fake controller, which is at its start; faults end with the test."""
    controller.reset()

    def make(**changes: Any) -> DeploySettings:
        limits = {"max_state_age_s": 1.5, "max_camera_age_s": 1.5, "stop_after_s": 5.0}
        limits |= changes.pop("limits", {})
        values = {"yes": True, "max_seconds": 1.5, "limits": limits}
        return patient_settings(model, tmp_path / "log", **(values | changes))

    yield make
    controller.faults.clear()
    if controller.state()["safety_mode"] != "NORMAL":
        stop_program(HOST)
        bring_back(HOST)
