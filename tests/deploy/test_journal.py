"""A journal gives back what was appended, whatever ended the process that wrote it."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from frames import frame, header

from actquant.common.errors import RecordingError
from actquant.deploy.journal import Journal, read

HERE = Path(__file__).parent


def written(folder: Path, count: int) -> Journal:
    journal = Journal(folder, header())
    for k in range(count):
        journal.append(frame(k))
    return journal


def assert_frames(folder: Path, count: int) -> None:
    found_header, frames = read(folder)
    found = list(frames)
    assert found_header == header()
    assert len(found) == count
    for k, one in enumerate(found):
        expected = frame(k)
        assert one.time_s == expected.time_s and one.extra == expected.extra
        np.testing.assert_array_equal(one.state, expected.state)
        np.testing.assert_array_equal(one.action, expected.action)
        for camera, image in expected.images.items():
            np.testing.assert_array_equal(one.images[camera], image)


def test_frames_can_be_read_before_the_journal_is_closed(tmp_path: Path) -> None:
    written(tmp_path / "j", 3)
    assert_frames(tmp_path / "j", 3)


@pytest.mark.parametrize("lost_bytes", [1, 40])
def test_a_torn_last_line_is_left_out(tmp_path: Path, lost_bytes: int) -> None:
    written(tmp_path / "j", 3).close()
    path = tmp_path / "j" / "frames.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - lost_bytes])
    assert_frames(tmp_path / "j", 2)


def test_a_frame_with_torn_pixels_is_left_out(tmp_path: Path) -> None:
    written(tmp_path / "j", 3).close()
    path = tmp_path / "j" / "images.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert_frames(tmp_path / "j", 2)


def test_a_killed_process_loses_at_most_the_current_frame(tmp_path: Path) -> None:
    script = (
        "import itertools, pathlib, sys\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from frames import frame, header\n"
        "from actquant.deploy.journal import Journal\n"
        f"journal = Journal(pathlib.Path({str(tmp_path / 'j')!r}), header())\n"
        "for k in itertools.count():\n"
        "    journal.append(frame(k))\n"
        "    print(k, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 20:
            break
    process.send_signal(signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().split()]
    process.wait()
    appended = (said[-1] if said else 20) + 1
    frames = list(read(tmp_path / "j")[1])
    assert appended <= len(frames) <= appended + 1
    assert_frames(tmp_path / "j", len(frames))


def test_a_file_that_may_not_grow_ends_in_an_error_and_keeps_what_was_there(
    tmp_path: Path,
) -> None:
    # The size limit of a process: its files fail to grow, as on a full disk.
    script = (
        "import pathlib, resource, signal, sys\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from frames import frame, header\n"
        "from actquant.deploy.journal import Journal\n"
        "from actquant.common.errors import RecordingError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"journal = Journal(pathlib.Path({str(tmp_path / 'j')!r}), header())\n"
        "try:\n"
        "    for k in range(100):\n"
        "        journal.append(frame(k))\n"
        "except RecordingError as error:\n"
        "    print(k, error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    count, _, message = said.stdout.partition(" ")
    assert int(count) == 3 and "frame 3 could not be written" in message
    assert_frames(tmp_path / "j", 3)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", header(cameras={"observation.images.scene": [9, 8, 3]}))
    with pytest.raises(
        RecordingError, match=r"observation.images.scene .*\(8, 8, 3\).*\(9, 8, 3\)"
    ):
        journal.append(frame(0))


def test_what_is_no_journal_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no journal"):
        read(tmp_path)
