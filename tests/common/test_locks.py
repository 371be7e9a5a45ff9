"""One process at a time writes a file or works in a folder; what a dead one left is cleared."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actquant.common.errors import BusyError, OutputError
from actquant.common.files import TEMPORARY, atomic_path
from actquant.common.locks import holder, sole_user, sole_writer

HOLD = """
import sys, time
from pathlib import Path
from actquant.common.files import atomic_path
from actquant.common.locks import sole_user, sole_writer
out, work = map(Path, sys.argv[1:])
with sole_writer(out), sole_user(work), atomic_path(out) as temporary:
    temporary.write_bytes(bytes(1000))
    (work / "f32-1.gguf").touch()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path):
    """A process that writes `out` and works in `work`."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out"), str(tmp_path / "work")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_who_comes_second_is_told_who_is_first(other, tmp_path: Path):
    with pytest.raises(BusyError, match=f"out is being written by process {other.pid};"):
        sole_writer(tmp_path / "out").__enter__()
    with pytest.raises(BusyError, match=f"work is in use by process {other.pid};"):
        sole_user(tmp_path / "work").__enter__()
    assert holder(tmp_path / "work") == other.pid
    assert list(tmp_path.glob(".out.*.tmp"))  # it is at work: nothing of its is cleared


def test_what_a_killed_process_left_is_cleared_by_the_next(other, tmp_path: Path):
    foreign = tmp_path / ".output.0123456789abcdef.tmp"  # of another file
    foreign.touch()
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(tmp_path / "work") is None
    assert list(tmp_path.glob(".out.*.tmp"))
    with sole_writer(tmp_path / "out"), sole_user(tmp_path / "work", "f32-*.gguf"):
        assert not list(tmp_path.glob(".out.*.tmp"))
        assert [path.name for path in (tmp_path / "work").iterdir()] == [".actquant.lock"]
        assert holder(tmp_path / "work") == os.getpid()
    assert sorted(path.name for path in tmp_path.iterdir()) == [foreign.name, "work"]
    assert not list((tmp_path / "work").iterdir())


def test_names_of_what_is_not_whole_do_not_grow(tmp_path: Path):
    target = tmp_path / ("n" * 215)
    with atomic_path(target) as outer, atomic_path(outer) as inner:
        assert len(inner.name) == len(outer.name) <= 255
        assert TEMPORARY.fullmatch(inner.name)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/work cannot be made: Not a directory"):
        sole_user(tmp_path / "file" / "work").__enter__()
