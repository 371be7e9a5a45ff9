"""The demo on the reference policy, with one start a task."""

from pathlib import Path

import imageio.v3 as imageio
import pytest
from rich.progress import Progress

from actquant.cli.demo import DemoReport, run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    out = tmp_path_factory.mktemp("demo")
    with Progress(disable=True) as progress:
        made = run(out, bpw=3.0, starts="0:1", progress=progress)
    assert DemoReport.model_validate_json((out / "report.json").read_text()) == made
    return made


def test_budgets_are_kept_and_used(report: DemoReport) -> None:
    f16, paper, rtn = report.rows
    for row in (paper, rtn):
        assert 2.95 < row.whole_file_bpw <= 3.0
        assert row.file_bytes == Path(row.path).stat().st_size
    assert f16.whole_file_bpw > 16


def test_three_bits_cost_more_than_sixteen_and_leave_a_policy(report: DemoReport) -> None:
    f16, paper, rtn = (row.held_out_action_error for row in report.rows)
    assert f16 is not None and paper is not None and rtn is not None
    assert 0 < f16 < 0.01
    # A policy that ignores its input is about 1 standard deviation away.
    assert 10 * f16 < paper < 0.5
    assert 10 * f16 < rtn < 0.5


def test_all_models_play_the_same_starts(report: DemoReport) -> None:
    assert [row.n for row in report.rows] == [report.n_tasks] * 3


def test_the_film_shows_all_models_moving(report: DemoReport) -> None:
    film = imageio.imread(report.gif, index=None)
    frames, height, width, _ = film.shape
    assert frames > 5 and width == 3 * height
    for part in range(3):
        columns = slice(part * height, (part + 1) * height)
        assert (film[0, :, columns] != film[-1, :, columns]).mean() > 0.01
