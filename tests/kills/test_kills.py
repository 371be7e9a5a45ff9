"""kill -9 at several moments of each long command: the next run gives what an undisturbed one
gives, to the byte, and nothing half-written has a final name. `benchmarks/kill_sweep.py` kills more
often.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from killing import Command, digest, leftovers
from tiny_policies import build_tiny_smolvla

from actquant.format.model_file import read_model

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
BRIEF = ("--frames", "4", "--draws", "1", "--held-out", "4", "--tune-minutes", "0")


def compress(folder: Path, *words: object, dated: bool = True) -> Command:
    """A compression with its file, work folder and log in `folder`."""
    folder.mkdir(exist_ok=True)
    places = ("--out", folder / "out.gguf", "--work", folder / "work")
    return Command(
        tuple(map(str, ("compress", *words, *places, *BRIEF))),
        EPOCH if dated else {},
        folder / "log",
        sampled_weights=1 << 10,
    )


def count(folder: Path, pattern: str = "*.safetensors") -> int:
    return len(list(folder.rglob(pattern)))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_smolvla(tmp_path_factory.mktemp("kills") / "tiny", hidden=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.mark.parametrize("recipe", ["rtn", "paper", "actquant"])
def test_a_compression_goes_on_to_the_same_bytes(
    recipe: str, policy: Path, dataset: Path, folder: Path
) -> None:
    """Recipes share work folders, as they may; each finds what is its own anew."""
    words = (policy, "--dataset", dataset, "--recipe", recipe, "--bpw", "6")
    undisturbed = compress(folder / "undisturbed", *words)
    undisturbed.finish()
    expected = digest(folder / "undisturbed" / "out.gguf")

    killed = compress(folder / "killed", *words)
    out, work = folder / "killed" / "out.gguf", folder / "killed" / "work"
    out.unlink(missing_ok=True)
    kept = count(work)
    moments = [
        lambda: count(work) > kept,
        lambda: count(work) > kept + 20,
        lambda: bool(list(out.parent.glob(".out.gguf.*.tmp"))),
    ]
    kills = 0
    for moment in moments:
        kills += killed.kill_when(moment)
        assert not out.exists() or digest(out) == expected
    assert kills >= 2
    killed.finish()
    assert digest(out) == expected
    assert leftovers(folder / "killed") == []


def test_a_compression_that_goes_on_keeps_the_date_it_began(
    policy: Path, dataset: Path, tmp_path: Path
) -> None:
    words = (policy, "--dataset", dataset, "--recipe", "q8_0")
    command = compress(tmp_path / "m", *words, dated=False)
    work = tmp_path / "m" / "work"
    assert command.kill_when(lambda: count(work, "began-*.txt") > 0)
    (note,) = work.glob("began-*.txt")
    began = note.read_text()
    time.sleep(1.1)
    command.finish()
    assert read_model(tmp_path / "m" / "out.gguf").metadata.provenance["date"] == began
    command.finish()  # nothing was stopped: a file of its own date
    assert read_model(tmp_path / "m" / "out.gguf").metadata.provenance["date"] > began


def test_a_sweep_goes_on_to_the_same_files(policy: Path, dataset: Path, tmp_path: Path) -> None:
    def sweep(out: Path) -> Command:
        words = ("sweep", policy, "--dataset", dataset, "--out", out, "--recipes", "rtn", "--bpw",
                 "6", "--held-out", "4")  # fmt: skip
        return Command(tuple(map(str, words)), EPOCH, tmp_path / "log")

    sweep(tmp_path / "undisturbed").finish()
    out = tmp_path / "killed"
    names = ["f16.gguf", "rtn-6bpw.gguf"]
    kills = 0
    for moment in (
        lambda: (out / "work").exists(),
        lambda: (out / "f16.gguf").exists(),
        lambda: (out / "f16.made.json").exists(),
        lambda: (out / "rtn-6bpw.gguf").exists(),
    ):
        kills += sweep(out).kill_when(moment)
        for name in names:
            path = out / name
            assert not path.exists() or digest(path) == digest(tmp_path / "undisturbed" / name)
    assert kills >= 3
    sweep(out).finish()
    assert leftovers(out) == []
    for name in names:
        assert digest(out / name) == digest(tmp_path / "undisturbed" / name)
    assert rows(out) == rows(tmp_path / "undisturbed")


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a sweep without what was measured by the clock."""
    found = json.loads((out / "sweep.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def test_an_evaluation_goes_on_to_the_same_episodes(tmp_path: Path) -> None:
    sizes = {"state_dim": 13, "max_state_dim": 16, "max_length": 48}
    policy = build_tiny_smolvla(tmp_path / "tiny", hidden=128, **sizes)
    model = tmp_path / "m.gguf"
    words = ("compress", policy, "--recipe", "q8_0", "--control-rate-hz", "10", "--verify", "none")
    Command((*map(str, words), "--out", str(model)), {}, tmp_path / "log").finish()

    def evaluate(out: Path) -> Command:
        words = ("eval", model, "--out", out, "--tasks", "push_zone", "--starts", "0:3", "--jobs",
                 "1")  # fmt: skip
        return Command(tuple(map(str, words)), {}, tmp_path / "log")

    undisturbed, out = tmp_path / "undisturbed.json", tmp_path / "killed.json"
    evaluate(undisturbed).finish()

    def has_lines(wanted: int) -> bool:
        found = list(tmp_path.glob("killed.json.*.partial.jsonl"))
        return bool(found) and found[0].read_bytes().count(b"\n") >= wanted

    for wanted in (1, 2, 3):  # the first line is the date
        assert evaluate(out).kill_when(partial(has_lines, wanted))
        assert not out.exists()
    (kept,) = tmp_path.glob("killed.json.*.partial.jsonl")
    began = json.loads(kept.read_text().splitlines()[0])["began"]
    kept.write_bytes(kept.read_bytes()[:-9])  # as if the last line had been cut
    evaluate(out).finish()
    expected, found = (json.loads(path.read_text()) for path in (undisturbed, out))
    assert found["provenance"].pop("date") == began
    del expected["provenance"]["date"], expected["latency_ms"], found["latency_ms"]
    assert found == expected
    assert leftovers(tmp_path) == []
