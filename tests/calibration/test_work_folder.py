from pathlib import Path

import numpy as np
import pytest

from actquant.calibration import work_folder as artifacts
from actquant.calibration.work_folder import WorkFolder
from actquant.common.files import atomic_path, hash_json, hash_path

SOURCES = {"checkpoint": "abc", "settings": "1"}


def test_what_was_saved_comes_back(tmp_path: Path):
    work = WorkFolder(tmp_path / "work")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array([1, 2], np.uint8)}
    work.save("stage", "a.b", SOURCES, (arrays, {"n": 3, "names": ["x"]}))
    loaded = work.load("stage", "a.b", SOURCES)
    assert loaded is not None and loaded.info == {"n": 3, "names": ["x"]}
    assert work.holds("stage", "a.b", SOURCES) and not work.holds("stage", "a", SOURCES)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == array.dtype


def test_a_kept_artefact_is_not_built_again_and_a_stale_one_is(tmp_path: Path):
    work, built = WorkFolder(tmp_path), []

    def make():
        built.append(1)
        return {"a": np.ones(2)}, {}

    assert work.build("stage", "a", SOURCES, make)[1] is False
    assert work.build("stage", "a", SOURCES, make)[1] is True
    assert work.build("stage", "a", {**SOURCES, "checkpoint": "def"}, make)[1] is False
    assert len(built) == 2


def test_another_schema_and_damaged_files_are_not_taken(tmp_path: Path, monkeypatch):
    work = WorkFolder(tmp_path)
    work.save("stage", "a", SOURCES, ({"a": np.ones(1000)}, {}))
    whole = work.path("stage", "a").read_bytes()
    work.path("stage", "a").write_bytes(whole[: len(whole) // 2])
    assert work.load("stage", "a", SOURCES) is None
    work.path("stage", "a").write_bytes(b"")
    assert work.load("stage", "a", SOURCES) is None
    work.path("stage", "a").write_bytes(whole)
    assert work.load("stage", "a", SOURCES) is not None
    monkeypatch.setattr(artifacts, "SCHEMA_VERSION", artifacts.SCHEMA_VERSION + 1)
    assert work.load("stage", "a", SOURCES) is None


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_hashes_see_content_and_names(tmp_path: Path):
    for name in "xy":
        (tmp_path / name).mkdir()
    (tmp_path / "x" / "a").write_text("1")
    (tmp_path / "y" / "a").write_text("1")
    assert hash_path(tmp_path / "x") == hash_path(tmp_path / "y")
    (tmp_path / "y" / "a").rename(tmp_path / "y" / "b")
    assert hash_path(tmp_path / "x") != hash_path(tmp_path / "y")
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 1})
