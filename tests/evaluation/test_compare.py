"""Paired comparison of two evaluation files."""

from pathlib import Path

import pytest

from actquant.common.errors import EvaluationError
from actquant.evaluation.compare import compare
from actquant.evaluation.result import EpisodeRecord, EvaluationResult, Provenance, rate


def write_result(path: Path, successes: list[bool], **changes: object) -> Path:
    episodes = [
        EpisodeRecord(task="pick_cube", start=i, success=success, steps=10)
        for i, success in enumerate(successes)
    ]
    about: dict[str, object] = {
        "actquant_version": "0", "model": str(path), "model_sha256": "", "env": "ur3e",
        "starts": "0:8", "seed": 0, "steps_per_chunk": 4, "grey_camera": None,
        "wrong_colour": False, "jobs": 1, "threads_per_job": 1, "machine": "", "date": "",
    }  # fmt: skip
    result = EvaluationResult(
        tasks={"pick_cube": rate(episodes)},
        overall=rate(episodes),
        latency_ms=None,
        episodes=episodes,
        provenance=Provenance.model_validate(about | changes),
    )
    path.write_text(result.model_dump_json())
    return path


def test_counts_pairs_by_start(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a.json", [True, True, True, False, True, True, False, False])
    b = write_result(tmp_path / "b.json", [True, False, False, False, True, False, True, False])
    pair = compare(a, b).overall
    assert (pair.both, pair.only_a, pair.only_b, pair.neither) == (2, 3, 1, 2)
    assert pair.difference == pytest.approx(2 / 8)
    assert pair.difference95[0] < pair.difference < pair.difference95[1]
    assert pair.mcnemar_p == pytest.approx(0.625)


def test_pairs_only_what_both_have(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a.json", [True] * 8)
    b = write_result(tmp_path / "b.json", [False] * 3)
    assert compare(a, b).overall.n == 3


def test_refuses_other_conditions(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a.json", [True])
    b = write_result(tmp_path / "b.json", [True], seed=7)
    with pytest.raises(EvaluationError, match=r"seed is 0 in .*a\.json and 7"):
        compare(a, b)


def test_names_a_file_that_is_no_result(tmp_path: Path) -> None:
    a = write_result(tmp_path / "a.json", [True])
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"b\.json is no evaluation result"):
        compare(a, tmp_path / "b.json")
    with pytest.raises(EvaluationError, match="there is nothing at"):
        compare(a, tmp_path / "c.json")
