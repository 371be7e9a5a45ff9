"""Episodes that were finished are kept, whatever ended the evaluation."""

import json
from pathlib import Path

import pytest

from actquant.common.errors import EvaluationError, OutputError
from actquant.evaluation.partial import PartialResult
from actquant.evaluation.rollout import Episode
from actquant.evaluation.starts import LAST_START, parse_starts

FIRST, SECOND = Episode("push", 0, True, 7, [1.5]), Episode("push", 1, False, 9, [2.5])


def written(path: Path) -> bytes:
    partial = PartialResult(path, "2026-01-01")
    partial.add(FIRST)
    partial.add(SECOND)
    return path.read_bytes()


def test_every_cut_keeps_whole_lines_and_takes_new_ones(tmp_path: Path):
    whole = written(tmp_path / "whole")
    for length in range(len(whole) + 1):
        path = tmp_path / f"cut{length}"
        path.write_bytes(whole[:length])
        again = PartialResult(path, "2027-01-01")
        expected = [e for e in (FIRST, SECOND) if e.start < whole[:length].count(b"\n") - 1]
        assert list(again.episodes.values()) == expected
        assert again.began == ("2026-01-01" if b"\n" in whole[:length] else "2027-01-01")
        again.add(SECOND)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[-1]["start"] == 1 and PartialResult(path, "").episodes[("push", 1)] == SECOND


def test_without_a_place_nothing_is_written(tmp_path: Path):
    PartialResult(None, "").add(FIRST)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path: Path):
    path = tmp_path / "link"
    path.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"link cannot be written: No space left on device; the "):
        PartialResult(path, "")


def test_starts():
    assert parse_starts("0:3,7,2:5") == [0, 1, 2, 7, 3, 4]
    assert parse_starts(f"{LAST_START}") == [LAST_START]
    with pytest.raises(EvaluationError, match="at most"):
        parse_starts("0:3000000000")
