"""Kept programs are those of the same policy, processors and code, or captured anew."""

import json
import shutil
from pathlib import Path

from actquant.calibration.work_folder import WorkFolder
from actquant.compression.programs import kept_stages
from actquant.policies import load_policy


def test_programs_of_other_processors_are_not_taken(checkpoint: Path, tmp_path: Path):
    folder, moved = tmp_path / "policy", tmp_path / "moved"
    shutil.copytree(checkpoint, folder)
    shutil.copytree(checkpoint, moved)

    def kept(path: Path) -> bool:
        return kept_stages(work, load_policy(path, control_rate_hz=10, streamed=False))[1]

    work = WorkFolder(tmp_path / "work")
    assert [kept(folder), kept(folder), kept(moved)] == [False, True, True]
    processor = folder / "policy_preprocessor.json"
    changed = {**json.loads(processor.read_text()), "name": "another"}
    processor.write_text(json.dumps(changed))
    assert [kept(folder), kept(folder), kept(moved)] == [False, True, False]
