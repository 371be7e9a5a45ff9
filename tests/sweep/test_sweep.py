"""A sweep makes every file once, compares them in pairs, and writes a page that says so."""

import json
import re
from dataclasses import replace
from pathlib import Path

import html5lib
import pytest
from rich.progress import Progress
from tiny_policies import build_tiny_smolvla
from typer.testing import CliRunner

import actquant.sweep.sweep as sweep_module
from actquant.cli import app
from actquant.evaluation.compare import paired_difference
from actquant.recipes.settings import CompressionSettings
from actquant.sweep.page import write_page
from actquant.sweep.sweep import Sweep, SweepReport, SweepRow
from actquant.tuning.settings import TuningSettings

SCENE, WRIST = "observation.images.scene", "observation.images.wrist"
REFERENCE = Path(__file__).parents[2] / "exports/reference"
SMALL = CompressionSettings(n_frames=4, n_held_out=4, draws=1, tuning=TuningSettings(minutes=0))


@pytest.fixture(scope="module")
def sweep(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    return Sweep(
        checkpoint=build_tiny_smolvla(folder / "tiny", hidden=128),
        dataset=dataset,
        out=folder / "out",
        recipes=("actquant", "rtn", "q8_0"),
        bpws=(1.0, 6.0),
        seeds=(0,),
        env=None,
        starts="0:1",
        settings=SMALL,
    )


@pytest.fixture(scope="module")
def report(sweep: Sweep) -> SweepReport:
    with Progress(disable=True) as progress:
        return sweep.run(progress)


def test_every_recipe_and_budget_is_a_row_and_impossible_ones_say_why(report):
    names = [row.name for row in report.rows]
    assert names == ["f16", "actquant-1bpw", "actquant-6bpw", "rtn-1bpw", "rtn-6bpw", "q8_0"]
    rows = {row.name: row for row in report.rows}
    assert "feasible minimum" in rows["actquant-1bpw"].refused
    made = {name: row for name, row in rows.items() if not row.refused}
    assert set(made) == {"f16", "actquant-6bpw", "rtn-6bpw", "q8_0"}
    for row in made.values():
        assert row.file_bytes == (Path(report.page).parent / f"{row.name}.gguf").stat().st_size
        assert row.action_error is not None and row.action_error_n == 4
    assert made["f16"].action_error < made["actquant-6bpw"].action_error


def test_what_is_made_is_not_made_again(sweep, report, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(sweep_module, "load_for_dataset", refuse)
    (sweep.out / "sweep.html").unlink()
    impossible = replace(sweep, bpws=(6.0,))
    with Progress(disable=True) as progress:
        again = impossible.run(progress)
    assert [row for row in again.rows] == [row for row in report.rows if not row.refused]
    assert (sweep.out / "sweep.html").is_file()


def test_evaluations_are_taken_over_and_stand_for_files_that_were_deleted(tmp_path, monkeypatch):
    """Of a policy whose cameras are named otherwise than the dataset's and the environment's."""
    hand = "observation.images.hand"
    sweep = Sweep(
        checkpoint=build_tiny_smolvla(
            tmp_path / "tiny",
            hidden=128,
            state_dim=13,
            max_state_dim=16,
            max_length=48,
            cameras=(SCENE, hand),
        ),
        renames={WRIST: hand},
        dataset=REFERENCE / "calibration",
        out=tmp_path / "out",
        recipes=("rtn",),
        bpws=(6.0,),
        seeds=(0,),
        env="ur3e",
        starts="0:1",
        settings=SMALL,
    )
    with Progress(disable=True) as progress:
        report = sweep.run(progress)
        assert [row.n for row in report.rows] == [6, 6]

        class Asked(Exception):
            pass

        def ask(*_, **__):
            raise Asked

        monkeypatch.setattr(sweep_module, "evaluate", ask)
        monkeypatch.setattr(sweep_module, "compress", ask)
        assert sweep.run(progress).rows == report.rows
        for file in sweep.out.glob("*.gguf"):
            file.unlink()
        moved = replace(sweep, out=sweep.out.rename(tmp_path / "moved"))
        assert moved.run(progress).rows == report.rows
        with pytest.raises(Asked):  # other starts were not evaluated: the file is made again
            replace(moved, starts="1:2").run(progress)


def test_other_settings_make_the_files_anew(sweep, report, monkeypatch):
    class Asked(Exception):
        pass

    def ask(*_, **__):
        raise Asked

    monkeypatch.setattr(sweep_module, "compress", ask)
    other = replace(sweep, settings=CompressionSettings(n_held_out=5))
    with Progress(disable=True) as progress, pytest.raises(Asked):
        other.run(progress)


def test_the_page_has_every_file_and_two_figures(sweep, report):
    page = (sweep.out / "sweep.html").read_text()
    assert all(f"<td>{row.name}<td" in page for row in report.rows if not row.refused)
    html5lib.HTMLParser(strict=True).parse(page)
    assert page.count("<svg") == 2 and not re.search(r'(src|href)="http', page)
    assert SweepReport.model_validate_json((sweep.out / "sweep.json").read_text()).rows


def test_successes_are_shown_with_pairs_and_by_task(report, tmp_path):
    won = [True] * 40 + [False] * 10
    lost = [False] * 20 + [True] * 20 + [False] * 10
    shared = {"wilson95": (0.2, 0.95), "n": 50, "action_error": 0.1}
    shared |= {"action_error_standard_error": 0.01, "action_error_n": 4, "file_bytes": 1000}
    rows = [
        SweepRow(
            **{"name": name, "recipe": name, "bpw_budget": None, "seed": 0, **shared},
            successes=sum(wins),
            success_by_task={"lift": (sum(wins), 50)},
            against={} if name == "f16" else {"f16": paired_difference(wins, won)},
        )
        for name, wins in (("f16", won), ("rtn", lost))
    ]
    found = report.model_copy(update={"rows": rows, "env": "ur3e", "starts": "0:50"})
    write_page(found, {}, tmp_path / "page.html")
    page = " ".join((tmp_path / "page.html").read_text().split())
    assert '<td class="bad">-40.0 points, p 1.9e-06' in page
    assert '<td class="bad">20/50' in page and "<td>40/50 80.0%" in page
    assert "20.0% to 95.0%" in page


def test_the_command_says_what_is_wrong_before_it_loads(tmp_path):
    options = ["sweep", str(tmp_path), "--dataset", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, [*options, "--recipes", "best"])
    assert result.exit_code == 2
    assert "unknown recipe 'best'" in json.loads(result.output)["message"]
    assert CliRunner().invoke(app, [*options, "--bpw", "two"]).exit_code == 2
