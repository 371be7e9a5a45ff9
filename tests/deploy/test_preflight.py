"""The check before motion: what it finds in cameras, state and policy, and what it allows."""

import copy
import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actquant_runtime import PromptCutWarning
from stage import CAMERAS, IMAGE, Answers, patient_settings
from ur_fake_controller import FakeController

from actquant.deploy.policy import TimedPolicy
from actquant.deploy.preflight import ERROR, OK, WARNING, Row, examine, inference_row
from actquant.deploy.session import Session
from actquant.format.model_file import read_model, with_golden

JOINTS = [f"state joint_{i}_rad" for i in range(1, 7)]


@pytest.fixture(scope="module")
def session(
    model: Path, controller: FakeController, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    controller.reset()
    settings = patient_settings(model, tmp_path_factory.mktemp("log"), cameras=CAMERAS)
    with Session(settings, Answers()) as session:
        yield session


def rows(session: Session, policy: TimedPolicy | None = None, **changes: Any) -> list[Row]:
    settings = dataclasses.replace(session.settings, **changes)
    return examine(session.robot, policy or session.policy, settings).rows


def with_state(session: Session, **changes: Any) -> TimedPolicy:
    """The policy with other statistics of its state; `state_bins` is of its prompt."""
    policy = copy.copy(session.policy)
    policy.about = about = copy.deepcopy(policy.about)
    about["prompt"]["state_bins"] = changes.pop("state_bins", 0)
    about["state"] |= changes
    return policy


def named(found: list[Row], what: str) -> Row:
    (row,) = [row for row in found if row.what == what]
    return row


def test_a_robot_that_fits_is_let_through(session: Session) -> None:
    found = rows(session)
    assert [row for row in found if row.verdict == ERROR] == []
    assert {"controller", "payload", "inference", "state tool_z_m"} <= {row.what for row in found}


def test_wrong_units_are_errors_unless_they_are_allowed(session: Session) -> None:
    about = session.policy.about["state"]
    degrees = [*np.degrees(about["mean"][:6]).tolist(), *about["mean"][6:]]
    policy = with_state(session, mean=degrees)
    wrong = [row for row in rows(session, policy) if row.verdict == ERROR]
    assert [row.what for row in wrong] == JOINTS
    assert all("times that away. Wrong units" in row.value for row in wrong)
    allowed = rows(session, policy, allow_unusual_state=True)
    assert [row.what for row in allowed if row.verdict == WARNING][-6:] == JOINTS


def test_a_range_is_told_from_a_deviation_where_the_file_tells(session: Session) -> None:
    mean = list(map(float, session.robot.state()))
    mean[0] += 1.5
    unknown = named(rows(session, with_state(session, mean=mean)), JOINTS[0])
    assert "±" in unknown.value and unknown.verdict == OK  # three times 0.5
    binned = named(rows(session, with_state(session, mean=mean, state_bins=256)), JOINTS[0])
    low, high = f"{mean[0] - 0.5:.4g}", f"{mean[0] + 0.5:.4g}"
    assert f"in training {low} … {high}: 2.0 half widths outside" in binned.value
    assert binned.verdict == ERROR


def test_a_file_without_statistics_of_the_state_says_so(session: Session) -> None:
    found = rows(session, with_state(session, mean=[0.0] * 13, std=[1.0] * 13))
    assert "no statistics" in named(found, "state in training").value
    assert named(found, JOINTS[0]).verdict == OK and "±" not in named(found, JOINTS[0]).value


def test_what_never_varied_in_training_has_to_be_the_same(session: Session) -> None:
    mean, std = list(map(float, session.robot.state())), [0.5] * 13
    std[0] = std[1] = 1e-6
    mean[1] += 0.01
    found = rows(session, with_state(session, mean=mean, std=std))
    assert "always" in named(found, JOINTS[0]).value and named(found, JOINTS[0]).verdict == OK
    assert "Another start" in named(found, JOINTS[1]).value
    assert named(found, JOINTS[1]).verdict == ERROR


def test_a_file_that_answers_otherwise_than_where_it_was_made_moves_nothing(
    session: Session, model: Path, tmp_path: Path
) -> None:
    assert named(rows(session), "self-test").verdict == OK
    other = Path(shutil.copy(model, tmp_path / "other.gguf"))
    golden = copy.deepcopy(read_model(model).metadata.golden)
    golden[0]["actions"][0][0] += 0.01  # half a standard deviation
    with_golden(other, golden)
    found = named(rows(session, TimedPolicy(other)), "self-test")
    assert found.verdict == ERROR and "is allowed" in found.value
    with_golden(other, [])
    assert named(rows(session, TimedPolicy(other)), "self-test").verdict == WARNING


def wait_for_pictures(session: Session, are_one: bool) -> None:
    """Until both cameras give one picture, or not."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        scene, wrist = (session.robot.observe().raw[n] for n in session.robot.port.cameras)
        if np.array_equal(scene, wrist) == are_one:
            return
        time.sleep(0.02)


def test_a_task_that_the_policy_does_not_see_whole_is_told(session: Session, monkeypatch) -> None:
    assert "task" not in {row.what for row in rows(session)}
    monkeypatch.setattr(session.robot, "task", "pick up the red cube and " * 9)
    with pytest.warns(PromptCutWarning):
        row = named(rows(session), "task")
    assert row.verdict == WARNING and row.value.endswith("the end is cut")


def test_two_cameras_with_one_picture_are_an_error(session: Session) -> None:
    _, wrist = session.robot.port.cameras.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wrist, "_camera", "scene")
        wait_for_pictures(session, are_one=True)
        wrong = [row for row in rows(session) if row.verdict == ERROR]
    wait_for_pictures(session, are_one=False)
    said = {row.what.rpartition(".")[2]: row.value for row in wrong}
    assert said["scene"].startswith("the same picture as observation.images.wrist")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((IMAGE // 2, IMAGE // 2), ""),
        ((2 * IMAGE, 2 * IMAGE), "enlarged"),
        ((IMAGE // 2, IMAGE // 4), "with another aspect ratio"),
    ],
)
def test_what_resizing_does_to_a_picture_is_said(
    session: Session, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], said: str
) -> None:
    policy = copy.copy(session.policy)
    policy.image_size = size
    monkeypatch.setattr(session.robot, "_policy", policy)
    monkeypatch.setattr(session.robot, "_resize", True)
    row = named(rows(session, policy, resize=True), "observation.images.scene")
    assert f"resized to {size[0]} × {size[1]}" in row.value and said in row.value
    assert row.verdict == (WARNING if said else OK)


@pytest.mark.parametrize(
    ("mode", "settle_s", "seconds", "verdict"),
    [
        ("sync", 1.0, 0.05, OK),
        ("sync", 1.0, 2.5, WARNING),  # the arm stands meanwhile
        ("sync", 1.0, 31.0, ERROR),
        ("sync", 0.0, 1.3, ERROR),  # its actions would be older than 1 s
        ("async", 1.0, 0.39, OK),  # four of eight actions
        ("async", 1.0, 0.41, WARNING),
        ("rtc", 1.0, 1.3, ERROR),
    ],
)
def test_how_long_a_policy_may_think_depends_on_the_mode(
    session: Session, mode: str, settle_s: float, seconds: float, verdict: str
) -> None:
    settings = dataclasses.replace(session.settings, mode=mode, settle_s=settle_s)
    assert inference_row(seconds, 8, session.robot, settings).verdict == verdict


def test_a_dataset_that_cannot_take_the_episode_is_an_error(
    session: Session, tmp_path: Path
) -> None:
    assert named(rows(session, record=tmp_path / "new"), "recording").verdict == OK
    (tmp_path / "old").mkdir()
    row = named(rows(session, record=tmp_path / "old"), "recording")
    assert row.verdict == ERROR and "is no LeRobotDataset" in row.value
