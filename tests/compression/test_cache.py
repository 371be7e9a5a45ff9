"""What a compression found is there for the next one of the same policy, and can be cleared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_policies import build_tiny_smolvla
from typer.testing import CliRunner

from actquant.cli import app
from actquant.common.errors import CacheError
from actquant.compression.cache import cache_folder, clear_cache, read_cache
from actquant.compression.pipeline import compress
from actquant.format.model_file import read_model
from actquant.recipes import RECIPES
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.settings import TuningSettings

SMALL = CompressionSettings(n_frames=4, n_held_out=2, draws=1, tuning=TuningSettings(minutes=0))


@pytest.fixture(scope="module")
def options(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("cached")
    checkpoint = build_tiny_smolvla(folder / "tiny", hidden=128)
    return {"checkpoint": checkpoint, "dataset": dataset, "cache": folder / "cache"}


def test_another_budget_and_recipe_start_from_what_is_there(options, tmp_path):
    def made(name: str, **others):
        return compress(out=tmp_path / name, settings=SMALL, **options, **others)

    first = made("a.gguf", bpw=6.0)
    assert first.reused == []
    (entry,) = read_cache(options["cache"]).entries
    proofs = {path: path.stat().st_mtime_ns for path in Path(entry.path, "proof").iterdir()}
    assert {path.stem for path in proofs} == {"program", "reference"}
    other = made("b.gguf", bpw=5.5)
    assert other.reused[:3] == ["program", "action_jacobian", "guided_moments"]
    assert made("c.gguf", bpw=6.0, recipe="gptq").reused == ["program"]
    assert made("d.gguf", bpw=6.0, recipe="imatrix").reused == ["program", "second_moments"]
    (entry,) = read_cache(options["cache"]).entries
    assert all(path.stat().st_mtime_ns == time for path, time in proofs.items())  # not made again
    assert read_model(tmp_path / "b.gguf").metadata.golden[0]["actions_reference"]
    assert other.program_error == first.program_error
    assert entry.checkpoint == "tiny" and entry.dataset == options["dataset"].name
    assert entry.bytes > 100_000 and not list(Path(entry.path).glob("*.gguf"))
    assert made("e.gguf", bpw=6.0, seed=1).reused == []
    assert len(read_cache(options["cache"]).entries) == 2


def test_a_recipe_that_looks_at_other_statistics_encodes_anew(options, tmp_path, monkeypatch):
    def made(name: str):
        return compress(out=tmp_path / name, settings=SMALL, bpw=6.0, seed=2, **options).reused

    made("a.gguf")
    assert "encoding" in made("b.gguf")
    recipe = RECIPES["actquant"]
    more = {**recipe.matrices, "linear": (*recipe.matrices["linear"], "second_moments")}
    monkeypatch.setitem(RECIPES, recipe.name, replace(recipe, matrices=more))
    assert "encoding" not in made("c.gguf")


def test_the_command_shows_and_clears(options, tmp_path):
    compress(out=tmp_path / "a.gguf", settings=SMALL, bpw=6.0, **options)
    folder = ["--cache", str(options["cache"]), "--json"]
    (options["cache"] / "notes.txt").write_text("not ours")
    shown = json.loads(CliRunner().invoke(app, ["cache", *folder]).output)
    keys = [entry["key"] for entry in shown["entries"]]
    assert keys and shown["folder"] == str(options["cache"])
    gone = json.loads(CliRunner().invoke(app, ["cache", "--remove", keys[0], *folder]).output)
    assert [entry["key"] for entry in gone["removed"]] == keys[:1]
    assert not (options["cache"] / keys[0]).exists()
    assert CliRunner().invoke(app, ["cache", "--clear", *folder]).exit_code == 0
    assert [path.name for path in options["cache"].iterdir()] == ["notes.txt"]


def test_an_entry_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CacheError, match="has no entry 'abc'; it has none"):
        clear_cache(tmp_path, "abc")
    assert read_cache(tmp_path / "nothing").entries == []


def test_the_folder_is_the_one_given_or_named_or_the_users(monkeypatch, tmp_path):
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("ACTQUANT_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("ACTQUANT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / "actquant"
