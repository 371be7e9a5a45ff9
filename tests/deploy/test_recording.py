"""Journals become episodes of a LeRobotDataset, once and whole."""

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frames import CAMERAS, frame, header
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from actquant.common.errors import RecordingError
from actquant.deploy.journal import Journal
from actquant.deploy.recording import Recorder


def in_child(action: Callable[[], None]) -> int | None:
    """The exit code of a process that does this and nothing more."""
    # Forked: importing LeRobot anew takes seconds.
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join()
    return process.exitcode


def record(recorder: Recorder, first: int, count: int) -> Path:
    """A closed journal with frames `first` … `first + count - 1`."""
    journal = recorder.begin(header())
    for k in range(first, first + count):
        journal.append(frame(k))
    journal.close()
    return journal.folder


def assert_episodes(root: Path, *ranges: range) -> None:
    dataset: Any = LeRobotDataset("actquant/test", root=root)
    assert dataset.num_episodes == len(ranges) and dataset.fps == 10
    numbers = [k for numbers in ranges for k in numbers]
    assert dataset.num_frames == len(numbers)
    for row, k in enumerate(numbers):
        item, expected = dataset[row], frame(k)
        np.testing.assert_array_equal(item["observation.state"], expected.state)
        np.testing.assert_array_equal(item["action"], expected.action)
        assert item["task"] == header().task
        for camera in CAMERAS:
            image = np.round(255 * item[camera].numpy()).astype(np.uint8).transpose(1, 2, 0)
            np.testing.assert_array_equal(image, expected.images[camera])


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_episodes_are_appended_and_their_journals_go(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with Recorder(root) as recorder:
        assert recorder.commit(record(recorder, 0, 4)) == 4
    with Recorder(root) as recorder:
        assert recorder.commit(record(recorder, 10, 3)) == 3
    assert_episodes(root, range(4), range(10, 13))
    assert not (tmp_path / "set.journal").exists()


def test_a_dataset_with_other_features_is_refused_before_anything_is_recorded(
    tmp_path: Path,
) -> None:
    root = tmp_path / "set"
    with Recorder(root) as recorder:
        recorder.commit(record(recorder, 0, 2))
        other = header(rate_hz=20.0, state_names=["a", "b", "d"], action_names=["x"])
        with pytest.raises(RecordingError) as caught:
            recorder.begin(other)
    text = str(caught.value)
    assert "10 frames/s, this 20" in text
    assert "'observation.state' has the names ['a', 'b', 'c'] there and ['a', 'b', 'd']" in text
    assert "'action' has the shape" in text


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with Recorder(tmp_path / "set") as recorder, pytest.raises(RecordingError, match="no LeRobot"):
        recorder.begin(header())


def test_two_processes_cannot_record_into_one_dataset(tmp_path: Path) -> None:
    with (
        Recorder(tmp_path / "set"),
        pytest.raises(RecordingError, match="another process"),
        Recorder(tmp_path / "set"),
    ):
        pass


def test_salvage_turns_what_a_crash_left_into_episodes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with Recorder(root) as recorder:
        recorder.commit(record(recorder, 0, 2))
        left = record(recorder, 5, 4)
        empty = record(recorder, 0, 0)
    lines = left / "frames.jsonl"
    lines.write_bytes(lines.read_bytes()[:-9])
    with Recorder(root) as recorder:
        assert recorder.salvage() == {left: 3, empty: 0}
    assert_episodes(root, range(2), range(5, 8))


KILLED_AFTER: dict[str, tuple[Any, str]] = {
    "while appending": (LeRobotDataset, "save_episode"),
    "after appending": (LeRobotDataset, "finalize"),
    "after the journal went": (os, "rename"),
}


@pytest.mark.parametrize("moment", KILLED_AFTER)
def test_a_kill_while_an_episode_is_appended_neither_loses_nor_doubles_it(
    tmp_path: Path, moment: str
) -> None:
    root = tmp_path / "set"
    with Recorder(root) as recorder:
        recorder.commit(record(recorder, 0, 2))
        record(recorder, 5, 3)
    owner, name = KILLED_AFTER[moment]

    def salvage_and_die() -> None:
        function = getattr(owner, name)

        def call(*arguments: Any) -> None:
            function(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, call)
        with Recorder(root) as recorder:
            recorder.salvage()

    assert in_child(salvage_and_die) == -signal.SIGKILL
    with Recorder(root) as recorder:
        recorder.salvage()
    assert_episodes(root, range(2), range(5, 8))
    assert not (tmp_path / "set.journal").exists()


@pytest.mark.parametrize("limit", [100, 12_000], ids=["no note", "no episode"])
def test_a_disk_that_is_full_leaves_the_dataset_as_it_was_and_the_journal_for_later(
    tmp_path: Path, limit: int
) -> None:
    root = tmp_path / "set"
    with Recorder(root) as recorder:
        recorder.commit(record(recorder, 0, 2))
        before = files(root)
        left = record(recorder, 5, 3)

    def salvage_without_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with Recorder(root) as recorder, pytest.raises(RecordingError, match="kept for the next"):
            recorder.salvage()

    assert in_child(salvage_without_room) == 0
    assert files(root) == before and left.is_dir()
    with Recorder(root) as recorder:
        assert recorder.salvage() == {left: 3}
    assert_episodes(root, range(2), range(5, 8))


def test_a_journal_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    with Recorder(tmp_path / "set") as recorder:
        folder = record(recorder, 0, 1)
        values = json.loads((folder / "header.json").read_text())
        (folder / "header.json").write_text(json.dumps(values | {"schema_version": 99}))
        with pytest.raises(RecordingError, match="version 99"):
            recorder.salvage()


def test_a_journal_is_not_overwritten(tmp_path: Path) -> None:
    Journal(tmp_path / "j", header())
    with pytest.raises(RecordingError, match="no journal can be written"):
        Journal(tmp_path / "j", header())
