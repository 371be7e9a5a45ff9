"""What a LeRobotDataset says of itself, and whether it fits a policy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actquant.common.errors import DatasetError
from actquant.common.files import hash_path
from actquant.policies import load_policy
from actquant.policies.base import LoadedPolicy

STATE, ACTION, ACTION_IS_PAD, TASK = "observation.state", "action", "action_is_pad", "task"


@dataclass(frozen=True)
class DatasetInfo:
    """What a LeRobotDataset folder says of itself, read without its frames."""

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]
    total_episodes: int

    @cached_property
    def sha256(self) -> str:
        return hash_path(self.folder)

    @property
    def cameras(self) -> list[str]:
        return [k for k, f in self.features.items() if f.get("dtype") in ("image", "video")]

    def names(self, feature: str) -> list[str] | None:
        """Returns names of a vector's components, or None where the dataset has none."""
        names = self.features.get(feature, {}).get("names")
        if isinstance(names, dict):
            parts = [v if isinstance(v, list) else [k] for k, v in names.items()]
            names = [name for part in parts for name in part]
        size = int(np.prod(self.features.get(feature, {}).get("shape", [0])))
        return [str(name) for name in names] if names and len(names) == size else None


def read_dataset_info(folder: str | Path) -> DatasetInfo:
    """Reads `meta/info.json` of a local LeRobotDataset (format v3).

    Raises DatasetError if the folder is none.
    """
    folder = Path(folder)
    path = folder / "meta" / "info.json"
    if not path.is_file():
        raise DatasetError(f"{folder} is no LeRobotDataset: it has no meta/info.json")
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
        result = DatasetInfo(
            folder, float(info["fps"]), dict(info["features"]), int(info["total_episodes"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {type(error).__name__} {error}") from error
    if not version.startswith("v3"):
        raise DatasetError(f"{folder} has dataset format {version}; LeRobot's v3.0 is needed")
    return result


def check_features(info: DatasetInfo, loaded: LoadedPolicy) -> None:
    """Compares a dataset's features with what the policy takes and gives.

    Raises DatasetError with all differences: name, expected and found shape.
    """
    interface, problems = loaded.interface, []
    required = len(interface.cameras) - interface.optional_cameras
    present = [camera for camera in interface.cameras if camera in info.cameras]
    if len(present) < max(required, 1):
        problems.append(
            f"cameras: expected {list(interface.cameras)} "
            f"({interface.optional_cameras} of them optional), found {info.cameras}"
        )
    size = (interface.image_height, interface.image_width)
    for camera in present:
        found = _image_size(info.features[camera])
        if not interface.image_steps and found != size:
            problems.append(f"{camera}: expected height x width {size}, found {found}")
    for key, names in ((STATE, interface.state_names), (ACTION, interface.action_names)):
        feature = info.features.get(key)
        found = None if feature is None else tuple(feature["shape"])
        if names and found != (len(names),):
            problems.append(f"{key}: expected shape {(len(names),)}, found {found or 'nothing'}")
    if problems:
        raise DatasetError(
            f"dataset {info.folder} does not fit the policy:\n  "
            + "\n  ".join(problems)
            + f"\nthe dataset has: {', '.join(info.features)}"
        )


def _image_size(feature: dict[str, Any]) -> tuple[int, int]:
    shape = tuple(int(side) for side in feature["shape"])
    channels_first = list(feature.get("names") or [])[:1] in (["channels"], ["channel"])
    return shape[1:] if channels_first else shape[:2]  # pyright: ignore[reportReturnType]


def load_for_dataset(
    checkpoint: str | Path,
    dataset: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    streamed: bool | None = False,
) -> LoadedPolicy:
    """Loads a checkpoint with control rate and names as the dataset gives them.

    options, streamed: as of `load_policy`.

    Raises CheckpointError for the checkpoint, DatasetError for the dataset and for features that do
    not match.
    """
    info = read_dataset_info(dataset)
    loaded = load_policy(checkpoint, control_rate_hz=info.fps, options=options, streamed=streamed)
    check_features(info, loaded)
    face = loaded.interface
    loaded.interface = replace(
        face,
        state_names=tuple(face.state_names and (info.names(STATE) or face.state_names)),
        action_names=tuple(info.names(ACTION) or face.action_names),
    )
    return loaded
