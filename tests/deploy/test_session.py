"""Deployments through the real wire: what moves, what does not, how episodes end, what stays."""

import dataclasses
import functools
import json
import multiprocessing
import os
import pty
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from stage import ACTION_NAMES, CAMERAS, HOST, IMAGE, STATE_NAMES, Answers
from typer.testing import CliRunner
from ur_fake_controller import FakeController

from actquant.cli import app
from actquant.common.errors import DeployError, NotAllowedError, UsageError
from actquant.deploy.events import read_events
from actquant.deploy.policy import TimedPolicy
from actquant.deploy.recording import Recorder
from actquant.deploy.report import DeploymentReport
from actquant.deploy.session import Session, deploy
from actquant.deploy.settings import DeploySettings, ExitCode

Make = Callable[..., DeploySettings]
MOVED_RAD = 0.01


def joints(controller: FakeController) -> np.ndarray:
    return np.array(controller.state()["joints"])


def moved(controller: FakeController, before: np.ndarray) -> bool:
    return bool(np.abs(joints(controller) - before).max() > MOVED_RAD)


def when_moving(controller: FakeController, action: Callable[[], object]) -> threading.Thread:
    """Does `action` as soon as the arm has moved."""
    before = joints(controller)

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not moved(controller, before) and time.monotonic() < deadline:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kinds(report: DeploymentReport) -> list[str]:
    return [event["kind"] for event in read_events(Path(report.event_log))]


def test_an_episode_moves_the_arm_and_leaves_dataset_rerun_file_report_and_events(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    before = joints(controller)
    root, rrd = tmp_path / "set", tmp_path / "run.rrd"
    report = deploy(settings(record=root, rerun=rrd, cameras=CAMERAS), Answers())
    assert report.exit_code == ExitCode.DONE and moved(controller, before)
    (episode,) = report.episodes
    assert episode.ending.kind == "time limit" and episode.actions >= 1
    latency = episode.latency_ms
    assert {"settling", "camera to observation", "action to motion"} <= set(latency)
    # Each chunk's path from its pictures to its first action, whole and in its parts.
    parts = ("observation to inference", "inference", "inference to action")
    assert (
        {latency[part].n for part in parts} == {latency["camera to action"].n} == {episode.chunks}
    )
    assert latency["camera to action"].max > max(latency[part].max for part in parts)
    assert latency["camera to motion"].max > latency["action to motion"].max
    assert latency["lateness"].n <= episode.ticks == latency["tick"].n
    dataset: Any = LeRobotDataset("actquant/set", root=root)
    assert (dataset.num_episodes, dataset.num_frames) == (1, episode.actions)
    assert episode.dataset_frames == episode.actions
    assert dataset.features["action"]["names"] == ACTION_NAMES
    assert dataset.features["observation.state"]["names"] == STATE_NAMES
    first = dataset[0]["observation.state"].numpy()
    np.testing.assert_allclose(first[:6], before, atol=MOVED_RAD)
    assert dataset[0]["task"] == "pick up the cube"
    assert not root.with_name("set.journal").exists()
    assert rrd.stat().st_size > 10_000
    assert {"deployment", "preflight", "episode begins", "episode ends"} <= set(kinds(report))
    written = next((tmp_path / "log").glob("*.report.json")).read_text()
    assert DeploymentReport.model_validate_json(written) == report


def test_a_dry_run_does_everything_but_move(settings: Make, controller: FakeController) -> None:
    before = controller.state()
    report = deploy(settings(dry_run=True, yes=False), Answers())
    after = controller.state()
    assert report.episodes[0].actions >= 1 and report.episodes[0].latency_ms["inference"].n >= 1
    assert after["target_joints"] == before["target_joints"]
    np.testing.assert_allclose(after["joints"], before["joints"], atol=1e-4)
    assert after["gripper"]["PRE"] == before["gripper"]["PRE"]


def test_without_a_word_nothing_moves(settings: Make, controller: FakeController) -> None:
    before = joints(controller)
    with pytest.raises(NotAllowedError, match="--yes allows it"):
        deploy(settings(yes=False), Answers())
    refusing = Answers("no")
    with pytest.raises(NotAllowedError, match="did not allow motion"):
        deploy(settings(yes=False), refusing)
    assert len(refusing.asked) == 1 and not moved(controller, before)


def test_what_is_found_before_motion_keeps_it_from_beginning(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    before = joints(controller)
    (tmp_path / "set").mkdir()
    with pytest.raises(NotAllowedError, match=r"recording: .* is no LeRobotDataset"):
        deploy(settings(record=tmp_path / "set"), Answers())
    assert not moved(controller, before)
    assert not list((tmp_path / "log").glob("*.report.json"))


def test_everything_that_does_not_fit_is_said_at_once(settings: Make) -> None:
    with pytest.raises(DeployError) as caught:
        deploy(
            settings(cameras=["scene=opencv:0"] + ["side=opencv:1"], limits={"haste": 3}),
            Answers(),
        )
    text = str(caught.value)
    assert "no such camera; it has observation.images.scene" in text
    assert "--limit haste; there are position_low_rad" in text


def test_a_camera_that_is_not_sent_is_named_with_its_address(settings: Make) -> None:
    with pytest.raises(DeployError) as caught:
        deploy(settings(cameras=[f"{CAMERAS[0]}s?first_picture_s=10"]), Answers())
    said = str(caught.value)
    assert "camera 'observation.images.scene': " in said and f"of {HOST}:5555" in said
    assert "it sends no 'scenes' but 'scene', 'wrist'" in said


def test_refusals_in_a_row_end_the_episode(settings: Make, controller: FakeController) -> None:
    before = joints(controller)
    limits = {"tool_speed_m_s": 1e-4}
    report = deploy(settings(limits=limits, max_refusals=3), Answers())
    (episode,) = report.episodes
    assert report.exit_code == ExitCode.REFUSALS
    assert sum(episode.refusals.values()) == 3 and episode.refusals["refused"] >= 2
    assert kinds(report).count("refused") == episode.refusals["refused"]
    refused = [e for e in read_events(Path(report.event_log)) if e["kind"] == "refused"]
    assert "tool moves at" in refused[0]["detail"] and not moved(controller, before)


def test_frozen_cameras_hold_the_arm_and_end_the_episode(
    settings: Make, controller: FakeController
) -> None:
    thread = when_moving(controller, controller.faults.freeze_cameras)
    report = deploy(settings(max_seconds=30, max_refusals=3), Answers())
    thread.join()
    assert report.exit_code == ExitCode.REFUSALS
    said = report.episodes[0].ending.detail
    assert "camera 'observation.images.scene'" in said and "picture is too old" in said
    assert "hold" in kinds(report)


def test_a_protective_stop_ends_the_episode_and_a_word_recovers_for_the_next(
    settings: Make, controller: FakeController
) -> None:
    thread = when_moving(controller, controller.faults.protective_stop)
    operator = Answers("recover")
    report = deploy(settings(episodes=2), operator)
    thread.join()
    first, second = report.episodes
    assert first.ending.kind == "stopped" and "protective" in first.ending.detail
    assert second.ending.kind == "time limit" and second.actions >= 1
    assert "Type recover" in operator.asked[0]
    assert report.exit_code == ExitCode.ROBOT_STOPPED


def test_recovery_takes_the_word_also_at_the_next_start(
    settings: Make, controller: FakeController
) -> None:
    thread = when_moving(controller, controller.faults.protective_stop)
    report = deploy(settings(episodes=2), Answers("yes please"))
    thread.join()
    assert len(report.episodes) == 1
    with pytest.raises(NotAllowedError, match="nobody let it recover"):
        deploy(settings(), Answers("yes"))
    assert controller.state()["safety_mode"] == "PROTECTIVE_STOP"
    report = deploy(settings(), Answers("recover"))
    assert report.exit_code == ExitCode.DONE


def test_a_signal_stops_the_arm_and_finishes_the_files(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    thread = when_moving(controller, lambda: os.kill(os.getpid(), signal.SIGTERM))
    report = deploy(settings(max_seconds=60, record=tmp_path / "set", episodes=3), Answers())
    thread.join()
    (episode,) = report.episodes
    assert report.exit_code == ExitCode.TERMINATED
    assert (episode.ending.kind, episode.ending.detail) == ("operator", "SIGTERM")
    assert LeRobotDataset("actquant/set", root=tmp_path / "set").num_frames == episode.actions
    assert controller.state()["program"] == "STOPPED"
    assert np.abs(controller.state()["speeds"]).max() < 0.05


def test_a_policy_that_fails_ends_the_episode(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, calls = TimedPolicy.act, []

    def failing(self: TimedPolicy, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("out of memory")
        return act(self, *arguments)

    monkeypatch.setattr(TimedPolicy, "act", failing)
    report = deploy(settings(max_seconds=60), Answers())
    assert report.exit_code == ExitCode.POLICY
    assert report.episodes[0].ending.detail == "RuntimeError: out of memory"


@pytest.mark.parametrize("mode", ["async", "rtc"])
def test_chunks_in_the_background(
    settings: Make, controller: FakeController, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, act, horizons = joints(controller), TimedPolicy.act, set()

    def noting(self: TimedPolicy, seen: Any, previous: Any = None) -> Any:
        if previous is not None:
            horizons.add(previous.execution_horizon)
        return act(self, seen, previous)

    monkeypatch.setattr(TimedPolicy, "act", noting)
    chosen = settings(mode=mode, steps_per_chunk=3, execution_horizon=2, max_seconds=2)
    report = deploy(chosen, Answers())
    assert report.exit_code == ExitCode.DONE and moved(controller, before)
    assert report.episodes[0].chunks >= 2
    assert horizons == ({2} if mode == "rtc" else set())


def in_child(settings: DeploySettings, prepare: Callable[[], object]) -> multiprocessing.Process:
    """A process that deploys; forked, because importing LeRobot anew takes seconds."""

    def run() -> None:
        prepare()
        os._exit(deploy(settings, Answers()).exit_code)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process  # pyright: ignore[reportReturnType]


def wait_for_frames(folder: Path, count: int, process: multiprocessing.Process) -> Path:
    """The file of frames of the dataset `set`, when it has so many."""
    lines = folder / "set.journal" / "episode_000000" / "frames.jsonl"
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= count):
        assert process.is_alive()
        time.sleep(0.02)
    return lines


def test_a_kill_loses_at_most_the_frame_being_written_and_the_arm_stops(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    process = in_child(settings(record=root, max_seconds=60), lambda: None)
    lines = wait_for_frames(tmp_path, 4, process)
    process.kill()
    process.join()
    count = lines.read_bytes().count(b"\n")
    with Recorder(root) as recorder:
        assert list(recorder.salvage().values()) == [count]
    assert LeRobotDataset("actquant/set", root=root).num_frames == count
    deadline = time.monotonic() + 20
    while controller.state()["program"] != "STOPPED" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert controller.state()["program"] == "STOPPED"


def limit_files(process: multiprocessing.Process, size: int) -> None:
    """Its files fail to grow beyond so many bytes, as on a full disk; the servo process is another
    one."""
    assert process.pid is not None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_stops_the_arm_and_keeps_what_was_recorded(
    settings: Make, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    process = in_child(
        settings(record=root, max_seconds=60),
        lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    wait_for_frames(tmp_path, 4, process)
    limit_files(process, 8 * IMAGE * IMAGE * 3 + 100)
    process.join()
    assert process.exitcode == ExitCode.RECORDING
    with Recorder(root) as recorder:
        recorder.salvage()
    assert LeRobotDataset("actquant/set", root=root).num_frames == 8
    report = json.loads(next((tmp_path / "log").glob("*.report.json")).read_text())
    assert "frame 8 could not be written" in report["episodes"][0]["ending"]["detail"]


def test_without_room_for_the_report_the_deployment_ends_as_ever_and_leaves_no_half(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    process = in_child(
        settings(record=tmp_path / "set", max_seconds=60),
        lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    lines = wait_for_frames(tmp_path, 4, process)
    limit_files(process, 0)
    process.join()
    assert process.exitcode == ExitCode.RECORDING  # an exception would have been 1
    assert [path.suffix for path in (tmp_path / "log").iterdir()] == [".jsonl"]
    assert lines.exists() and controller.state()["program"] == "STOPPED"


def test_an_episode_that_cannot_be_committed_is_an_ending_and_the_last(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    thread = when_moving(controller, root.mkdir)  # in the place of the dataset, but none
    report = deploy(settings(record=root, episodes=2), Answers())
    thread.join()
    (episode,) = report.episodes
    assert report.exit_code == ExitCode.RECORDING and episode.ending.kind == "recording"
    assert "is no LeRobotDataset" in episode.ending.detail
    assert "the episode itself ended by: time limit" in episode.ending.detail
    assert episode.dataset_frames is None
    assert list(root.with_name("set.journal").glob("episode_*"))


def test_a_rerun_file_without_room_is_told_and_the_episode_goes_on(
    settings: Make, tmp_path: Path
) -> None:
    process = in_child(
        settings(rerun=tmp_path / "run.rrd", max_seconds=3),
        lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    while not (logs := list((tmp_path / "log").glob("*.events.jsonl"))):
        time.sleep(0.02)
    (log,) = logs
    while "episode begins" not in [event["kind"] for event in read_events(log)]:
        assert process.is_alive()
        time.sleep(0.02)
    limit_files(process, 20_000)  # which events and report stay below
    process.join(60)
    assert process.exitcode == ExitCode.RECORDING
    told = [e["detail"] for e in read_events(log) if e["kind"] == "recording failed"]
    assert len(told) == 1 and "run.rrd could not be written whole" in told[0]
    report = json.loads(next((tmp_path / "log").glob("*.report.json")).read_text())
    assert report["episodes"][0]["ending"]["kind"] == "time limit"
    assert report["exit_code"] == ExitCode.RECORDING


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], int]]:
    """Presses keys at the terminal."""
    master, slave = pty.openpty()
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        yield lambda pressed: os.write(master, pressed)
    os.close(master)


def test_after_the_stop_key_the_arm_starts_only_when_somebody_says_so(
    settings: Make, controller: FakeController, keyboard: Callable[[bytes], int]
) -> None:
    thread = when_moving(controller, functools.partial(keyboard, b" "))
    operator = Answers("")
    # --yes allowed motion beforehand, but that was before somebody pressed the key.
    report = deploy(settings(episodes=2, yes=True, max_seconds=3), operator)
    thread.join()
    first, second = report.episodes
    assert (first.ending.kind, first.ending.detail) == ("operator", "the operator pressed space")
    assert first.seconds < 3 and second.ending.kind == "time limit"
    assert operator.asked == ["Enter begins the next episode, q ends:"]
    assert report.exit_code == ExitCode.DONE


def test_after_the_stop_key_nobody_present_means_the_end(
    settings: Make, keyboard: Callable[[bytes], int], tmp_path: Path, monkeypatch: Any
) -> None:
    commit = Recorder.commit

    def press_meanwhile(recorder: Recorder, journal: Path) -> int:
        keyboard(b" ")
        time.sleep(0.2)
        return commit(recorder, journal)

    monkeypatch.setattr(Recorder, "commit", press_meanwhile)
    report = deploy(settings(episodes=2, record=tmp_path / "set", max_seconds=0.8), Answers())
    (episode,) = report.episodes
    assert episode.ending.kind == "time limit" and report.exit_code == ExitCode.DONE


def test_ctrl_c_at_the_question_leaves_the_report_of_what_ran(
    settings: Make, tmp_path: Path, keyboard: Callable[[bytes], int]
) -> None:
    class Interrupting(Answers):
        def ask(self, question: str) -> str:
            if not question.startswith("Enter"):
                return super().ask(question)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
            raise AssertionError("nothing interrupted the question")

    report = deploy(settings(episodes=2, yes=False, max_seconds=0.5), Interrupting("yes"))
    assert len(report.episodes) == 1 and report.exit_code == ExitCode.INTERRUPTED
    written = next((tmp_path / "log").glob("*.report.json")).read_text()
    assert DeploymentReport.model_validate_json(written) == report


def test_the_command_prints_its_report_and_ends_with_its_exit_code(
    settings: Make, controller: FakeController, tmp_path: Path
) -> None:
    words = ["deploy", str(settings().model), "--ip", HOST, "--task", "pick up the cube", "--json"]
    words += ["--camera", CAMERAS[0], "--max-seconds", "1", "--log", str(tmp_path / "log")]
    words += ["--activate-gripper", "--limit", "max_state_age_s=1.5"]
    before = joints(controller)
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == ExitCode.NOT_ALLOWED
    assert "--yes allows it" in json.loads(refused.stdout)["message"]
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert done.exit_code == ExitCode.DONE, done.output
    report = DeploymentReport.model_validate_json(done.stdout)
    assert report.dry_run and report.episodes[0].actions >= 1
    assert not moved(controller, before)


def test_settings_name_all_that_is_wrong(settings: Make, tmp_path: Path) -> None:
    good = settings()
    with pytest.raises(DeployError) as caught:
        dataclasses.replace(
            good,
            model=tmp_path / "none.gguf",
            task=" ",
            mode="hasty",
            execution_horizon=0,
            speed=0,
            episodes=0,
            max_seconds=0,
            max_refusals=0,
            dry_run=True,
            record=tmp_path,
            rerun=tmp_path / "x.txt",
        )
    text = str(caught.value)
    for flag in ("task", "mode", "execution-horizon", "speed", "episodes", "max-seconds"):
        assert f"--{flag} " in text
    for flag in ("max-refusals", "rerun", "record"):
        assert f"--{flag} " in text
    assert len(text.splitlines()) == 1
    (tmp_path / "there.rrd").write_text("somebody's recording")
    with pytest.raises(UsageError, match=r"there\.rrd is there and .* name another file$"):
        dataclasses.replace(good, rerun=tmp_path / "there.rrd")
    with pytest.raises(DeployError, match="--steps-per-chunk 99; the policy's chunks have"):
        Session(dataclasses.replace(good, steps_per_chunk=99), Answers())
