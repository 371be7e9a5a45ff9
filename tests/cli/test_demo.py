"""The demo on the reference policy, with one start a task."""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from rich.progress import Progress

from actquant.cli.demo import DemoReport, _film_start, run
from actquant.evaluation.result import EvaluationResult
from actquant.recipes import actquant
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.settings import TuningSettings

BRIEF = CompressionSettings(
    n_frames=16, n_held_out=16, draws=1, tuning=TuningSettings(steps=6, batch_size=4)
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch, Progress(disable=True) as progress:
        patch.setattr(actquant, "SAMPLED_WEIGHTS", 1 << 14)
        made = run(out, bpw=2.5, starts="0:1", progress=progress, settings=BRIEF)
    assert DemoReport.model_validate_json((out / "report.json").read_text()) == made
    return made


def test_budgets_are_kept_and_used(report: DemoReport) -> None:
    f16, *quantized = report.rows
    for row in quantized:
        assert 2.45 < row.whole_file_bpw <= 2.5
        assert row.file_bytes == Path(row.path).stat().st_size
    assert f16.whole_file_bpw > 16


def test_two_and_a_half_bits_cost_more_than_sixteen_and_ours_cost_least(report: DemoReport) -> None:
    f16, actquant, paper, rtn = (row.held_out_action_error or 0 for row in report.rows)
    assert 0 < f16 < 0.01
    # By 16 frames and a few steps of tuning the lead is smaller than the demo's own. A policy that
    # ignores its input is about 1 standard deviation away.
    assert 10 * f16 < actquant < paper < rtn < 1


def test_all_models_play_the_same_starts(report: DemoReport) -> None:
    assert [row.n for row in report.rows] == [report.n_tasks] * 4


def test_the_film_is_of_a_start_that_tells_models_apart(report: DemoReport) -> None:
    results = [EvaluationResult.load(Path(row.path).with_suffix(".json")) for row in report.rows]
    shown = (report.gif_task, report.gif_start)
    outcomes = [{(e.task, e.start): e.success for e in result.episodes} for result in results]
    first, *others = outcomes
    telling = [pair for pair, won in first.items() if won and not all(o[pair] for o in others)]
    assert shown == (telling or list(first))[0]
    # an episode of another model that the simulator lost does not shift the others
    won, lost = ([e.model_copy(update={"success": s}) for e in results[0].episodes] for s in (1, 0))
    a, b = (results[0].model_copy(update={"episodes": each}) for each in (won, lost[2:]))
    assert _film_start([a, b]) == (lost[2].task, lost[2].start)


def test_the_film_shows_all_models_moving_under_their_captions(report: DemoReport) -> None:
    film = imageio.imread(report.gif, index=None)
    frames, height, width, _ = film.shape
    assert frames > 5 and (height, width) == (480, 4 * 360)
    panels = np.split(film, 4, axis=2)
    for panel in panels:
        assert (panel[0] != panel[-1]).mean() > 0.01
        assert (panel[0, :100] > 200).all(axis=-1).mean() > 0.01  # letters, over the dark
        # what came of it is written under the rest in the end
        line = slice(80, 105)
        assert (panel[-1, line] > 90).sum() > (panel[0, line] > 90).sum() + 200
    captions = [panel[0, :80] for panel in panels]
    assert all((captions[0] != other).any() for other in captions[1:])
