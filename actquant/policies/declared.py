"""What a checkpoint's JSON files say of its cameras, read without LeRobot and without weights."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from actquant.policies.steps import PREPROCESSOR
from actquant.weights.hub import find_checkpoint

EMPTY_CAMERA = "observation.images.empty_camera_"
"""LeRobot's name for a camera that never exists but has a place in the prompt."""


def declared_cameras(checkpoint: str | Path) -> list[str]:
    """Reads from the JSON files of a checkpoint alone by what names its cameras are shown to it.

    Returns none where they do not say; `load_policy` tells what is wrong with them.
    """
    folder = find_checkpoint(checkpoint).folder
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        features = json.loads((folder / "config.json").read_text())["input_features"]
        keys = [key for key, value in features.items() if value["type"] == "VISUAL"]
        file, renamed = folder / PREPROCESSOR, {}
        steps = json.loads(file.read_text())["steps"] if file.is_file() else []
        for step in steps:
            renamed |= {new: old for old, new in step["config"].get("rename_map", {}).items()}
        return [renamed.get(key, key) for key in keys if not key.startswith(EMPTY_CAMERA)]
    return []
