"""Paired comparison of two evaluation files."""

from pathlib import Path

import pytest

from actquant.common.errors import EvaluationError
from actquant.evaluation.compare import compare, judge, paired_difference
from actquant.evaluation.plan import paired_episodes, paired_power
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


def pairs(both: int, only_a: int, only_b: int, neither: int):
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return judge(paired_difference(a, b))


def test_what_so_many_starts_cannot_tell_comes_with_how_many_would() -> None:
    pair = pairs(280, 12, 5, 3)
    assert pair.verdict == "cannot tell" and pair.mcnemar_p > 0.05
    assert pair.pairs_needed == paired_episodes(7 / 300, 17 / 300) > 300
    assert pair.tells_from is not None
    assert pair.tells_from > 7 / 300 and paired_power(300, pair.tells_from, 17 / 300) >= 0.8


def test_what_is_shown_needs_no_more() -> None:
    assert pairs(280, 15, 2, 3).verdict == "A is better"
    worse = pairs(280, 2, 15, 3)
    assert (worse.verdict, worse.pairs_needed) == ("B is better", None)


def test_no_difference_needs_no_number_and_few_pairs_tell_nothing() -> None:
    alike = pairs(90, 4, 4, 2)
    assert (alike.verdict, alike.pairs_needed) == ("cannot tell", None)
    few = pairs(2, 2, 0, 0)
    assert (few.verdict, few.tells_from) == ("cannot tell", None) and few.pairs_needed is not None
