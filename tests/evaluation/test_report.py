"""The page of results: valid, self-contained, and true to the results."""

import json
import re
from pathlib import Path

import html5lib
import pytest
from fast_world import FAILING, FastWorld
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app
from actquant.environments import base
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.report import write_report
from actquant.evaluation.result import EvaluationResult, UncountedEpisode
from actquant.format.stored_error import StoredActionError

HTML = "{http://www.w3.org/1999/xhtml}"
ODD = "<b onload=x()>&\"'$x^{ \x07"
"""What must come out of a page as it went in, or not at all."""


@pytest.fixture(scope="module")
def results(loaded, tmp_path_factory) -> list[Path]:
    """One policy in two small evaluations, the second with films of its failures."""
    folder = tmp_path_factory.mktemp("results")
    model = convert_f32(loaded, folder / "policy.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base.SUITES, "fast", "fast_world:FastSuite")
        patch.setattr(FastWorld, "breaks", {3: 100})
        options = {"env": "fast", "starts": "0:4", "jobs": 1}
        evaluate(model, out=folder / "a.json", **options)
        evaluate(model, out=folder / "b.json", videos=folder / "films", **options)
    return [folder / "a.json", folder / "b.json"]


def parsed(page: Path):
    """Parses a page; raises html5lib's ParseError where it is not valid."""
    text = page.read_text()
    assert not re.search(r"""(src|href)=["']?(https?:|//|file:)|url\((?!#)|<script|@import""", text)
    tree = html5lib.HTMLParser(strict=True).parse(text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|xlink:href=")#([^")]+)', text)) <= set(ids)
    return tree


def texts(tree, tag: str) -> list[str]:
    return [" ".join("".join(each.itertext()).split()) for each in tree.iter(HTML + tag)]


def changed(path: Path, out: Path, **provenance) -> Path:
    result = EvaluationResult.load(path)
    result.provenance = result.provenance.model_copy(update=provenance)
    out.write_text(result.model_dump_json())
    return out


def test_the_page_shows_what_the_results_say(results, tmp_path):
    summary = write_report(results, tmp_path / "page.html")
    tree = parsed(tmp_path / "page.html")
    assert (summary.videos, summary.recordings) == (len(FAILING), len(FAILING))
    videos = [each.attrib for each in tree.iter(HTML + "video")]
    assert len(videos) == 3 and all(v["src"].startswith("data:video/mp4;base64,") for v in videos)
    cells = texts(tree, "td")
    assert "3/6, 50.0 %18.8 to 81.2 %" in cells and "1, 2" in cells
    assert cells.count("cannot tell") == 3
    assert "step 2: FloatingPointError: the solver of reach <diverged>" in cells
    captions = texts(tree, "figcaption")
    (lift,) = [caption for caption in captions if caption.startswith("lift, start 2, b")]
    assert "“lift <it>”" in lift and "failure after 6 steps, 0.6 s" in lift
    assert any(
        "Whether it differs from a cannot be told: +0.0 points" in x for x in texts(tree, "li")
    )
    assert EvaluationResult.load(results[0]).provenance.model_sha256[:16] in cells


def test_texts_of_results_are_texts_on_the_page(results, tmp_path):
    result = EvaluationResult.load(results[0])
    result.tasks[ODD] = result.tasks.pop("lift")
    for episode in result.episodes:
        episode.task = ODD if episode.task == "lift" else episode.task
        episode.failure = ODD
    result.not_counted = [UncountedEpisode(task=ODD, start=1, attempts=3, error=ODD)]
    of = result.provenance
    of.model, of.env, of.command, of.machine = ODD, ODD, ["actquant", ODD], ODD
    of.versions[ODD] = ODD
    odd = tmp_path / "<i>&$x.json"
    odd.write_text(result.model_dump_json())
    write_report([odd, results[1]], tmp_path / "page.html")
    tree = parsed(tmp_path / "page.html")
    assert not list(tree.iter(HTML + "b")) and not list(tree.iter(HTML + "i"))
    assert "<b onload=x()>&\"'$x^{ \\x07" in texts(tree, "td")
    assert any("not compared" in line.lower() for line in texts(tree, "p"))


def test_one_result_and_one_without_latencies_or_recordings(results, tmp_path):
    result = EvaluationResult.load(results[0])
    result.latency_ms, result.provenance.model_facts, result.provenance.conventions = (
        None,
        None,
        None,
    )
    (tmp_path / "old.json").write_text(result.model_dump_json())
    summary = write_report([tmp_path / "old.json"], tmp_path / "page.html")
    tree = parsed(tmp_path / "page.html")
    assert summary.comparisons == [] and "Latency" not in texts(tree, "h2")
    assert any("actquant eval --videos FOLDER" in line for line in texts(tree, "p"))


def test_films_are_capped_in_number_and_size(results, tmp_path):
    page = tmp_path / "page.html"
    assert write_report(results, page, most_videos=1).videos == 1
    parsed(page)
    smallest = min(path.stat().st_size for path in results[1].parent.glob("films/*.mp4"))
    assert write_report(results, page, most_video_bytes=2 * smallest - 1).videos == 1
    assert write_report(results, page, most_video_bytes=smallest - 1).videos == 0
    assert "None of 3 recordings" in page.read_text()


def test_a_recording_of_something_else_is_not_shown(results, tmp_path):
    """A result that was given to us may name any file of ours."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"\0\0\0\x18ftyp, and what is nobody's business")
    result = EvaluationResult.load(results[1])
    for episode in result.episodes:
        episode.recording = "secret.mp4"
    (tmp_path / "c.json").write_text(result.model_dump_json())
    assert write_report([tmp_path / "c.json"], tmp_path / "page.html").videos == 0
    other = changed(results[1], results[1].with_name("other.json"), model_sha256="0" * 64)
    assert write_report([other], tmp_path / "page.html").videos == 0


def test_the_action_error_is_the_files_own(results, tmp_path):
    page = tmp_path / "page.html"
    result = EvaluationResult.load(results[0])
    facts = result.provenance.model_facts
    assert facts is not None and facts.action_error is None  # made without a dataset
    facts.action_error = StoredActionError(mean=0.1487, standard_error=0.01, n=64)
    known = tmp_path / "known.json"
    known.write_text(result.model_dump_json())
    write_report([known, results[1]], page)
    assert "0.1487 ± 0.0100 (n 64)" in texts(parsed(page), "td")


def test_the_command_and_its_refusals(results, tmp_path):
    def run(*words: object):
        return CliRunner().invoke(app, ["report", *map(str, words)])

    page = tmp_path / "page.html"
    done = run(*results, "--out", page, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["bytes"] == page.stat().st_size
    assert run(*results, "--out", page).exit_code == 0  # a page of ours is replaced
    (tmp_path / "mine.html").write_text("mine")
    assert "say --force" in run(results[0], "--out", tmp_path / "mine.html").output
    assert run(results[0], "--out", results[0]).exit_code == 2
    assert run("nowhere.json", "--out", page).exit_code == 2
    (tmp_path / "no.json").write_text("{}")
    assert "is no evaluation result" in run(tmp_path / "no.json", "--out", page).output
    twice = run(results[0], results[0], "--out", page)
    assert twice.exit_code == 1 and "given twice" in twice.output
    other = changed(results[1], tmp_path / "other.json", seed=9)
    told = run(results[0], other, "--out", page).output
    assert "seed is 9 in other and 0 in a" in " ".join(told.split())
    parsed(page)
