"""What the published weights do not tell: platform, cameras, statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actquant.common.errors import CheckpointError

OPTIONS = ("unnorm_key", "num_images_in_input", "num_action_chunks", "center_crop")
"""Of `load_policy`, with the names of the published code; keys of config.json, too."""
WIDTH_EPS = 1e-8
"""Added to the width of every range."""
STATISTICS = "dataset_statistics.json"


@dataclass(frozen=True)
class Platform:
    """Constants that the published code keeps per robot."""

    name: str
    action_dim: int
    state_dim: int
    chunk_length: int
    bounds: tuple[str, str]
    """The statistics that become -1 and 1."""
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    control_rate_hz: float
    source_size: int
    """Height and width of the training images."""


def _arms(*joints: str) -> tuple[str, ...]:
    return tuple(f"{side}_{joint}" for side in ("left", "right") for joint in joints)


ALOHA_JOINTS = _arms(
    *("waist.rad", "shoulder.rad", "elbow.rad", "forearm_roll.rad", "wrist_angle.rad"),
    *("wrist_rotate.rad", "gripper"),
)
POSE_CHANGE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
PLATFORMS = (
    Platform(
        "LIBERO",
        action_dim=7,
        state_dim=8,
        chunk_length=8,
        bounds=("q01", "q99"),
        cameras=("observation.images.image", "observation.images.image2"),
        state_names=(
            *("x.m", "y.m", "z.m", "rotation_x.rad", "rotation_y.rad", "rotation_z.rad"),
            *("left_finger.m", "right_finger.m"),
        ),
        action_names=POSE_CHANGE,
        control_rate_hz=20.0,
        source_size=256,
    ),
    Platform(
        "ALOHA",
        action_dim=14,
        state_dim=14,
        chunk_length=25,
        bounds=("min", "max"),
        cameras=(
            "observation.images.cam_high",
            "observation.images.cam_left_wrist",
            "observation.images.cam_right_wrist",
        ),
        state_names=ALOHA_JOINTS,
        action_names=ALOHA_JOINTS,
        control_rate_hz=25.0,
        source_size=256,
    ),
    Platform(
        "BridgeData",
        action_dim=7,
        state_dim=7,
        chunk_length=5,
        bounds=("q01", "q99"),
        cameras=("observation.images.image_0",),
        state_names=("x.m", "y.m", "z.m", "roll.rad", "pitch.rad", "yaw.rad", "gripper"),
        action_names=POSE_CHANGE,
        control_rate_hz=5.0,
        source_size=256,
    ),
)


@dataclass(frozen=True)
class Affine:
    """normalised = (x - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class CheckpointSettings:
    platform: Platform
    cameras: tuple[str, ...]
    chunk_length: int
    center_crop: bool
    action: Affine
    state: Affine


def read_settings(
    folder: Path,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    action_dim: int,
    state_dim: int | None,
) -> CheckpointSettings:
    """Reads settings: options go before config.json, config.json before the platform's constants.

    Raises CheckpointError for a platform that is not known, a dataset that must be chosen and
    statistics that are missing, all by name.
    """
    given = {key: config[key] for key in OPTIONS if config.get(key) is not None} | dict(options)
    key, statistics = _dataset(folder, given.get("unnorm_key"))
    proprio = statistics.get("proprio") or {}
    platform = _platform(folder, action_dim, state_dim or _length(proprio))
    missing: list[str] = []
    action = _affine(statistics.get("action") or {}, platform, action_dim, "action", missing)
    state = _affine(proprio, platform, state_dim or 0, "proprio", missing)
    if missing:
        raise CheckpointError(
            f"{folder / STATISTICS}: statistics of {key} are missing or no numbers: "
            f"{', '.join(missing)}"
        )
    count = int(given.get("num_images_in_input", len(platform.cameras)))
    if not 1 <= count <= len(platform.cameras):
        raise CheckpointError(
            f"{folder}: num_images_in_input is {count}; {platform.name} has the cameras "
            f"{', '.join(platform.cameras)}"
        )
    return CheckpointSettings(
        platform=platform,
        cameras=platform.cameras[:count],
        chunk_length=int(given.get("num_action_chunks", platform.chunk_length)),
        center_crop=_flag("center_crop", given.get("center_crop", True)),
        action=action,
        state=state,
    )


def _flag(name: str, value: Any) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
    except KeyError as error:
        raise CheckpointError(f"{name} is {value!r}; true or false is expected") from error


def _platform(folder: Path, action_dim: int, state_dim: int) -> Platform:
    fits = [p for p in PLATFORMS if p.action_dim == action_dim and p.state_dim == state_dim]
    if not fits:
        known = ", ".join(f"{p.name} {p.action_dim} and {p.state_dim}" for p in PLATFORMS)
        raise CheckpointError(
            f"{folder}: no known platform has actions of {action_dim} and a state of {state_dim} "
            f"numbers; known: {known}"
        )
    return fits[0]


def _dataset(folder: Path, wanted: str | None) -> tuple[str, dict[str, Any]]:
    file = folder / STATISTICS
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {STATISTICS}")
    try:
        datasets = dict(json.loads(file.read_text()))
    except ValueError as error:
        raise CheckpointError(f"{file} is not a JSON object: {error}") from error
    listed = ", ".join(sorted(datasets))
    if wanted is None:
        if len(datasets) != 1:
            raise CheckpointError(
                f"{file} has several datasets; set unnorm_key, an option or a key of config.json, "
                f"to one of: {listed}"
            )
        wanted = next(iter(datasets))
    # The published evaluation takes the name of a LIBERO suite for that of its dataset.
    found = next((key for key in (wanted, f"{wanted}_no_noops") if key in datasets), None)
    if found is None:
        raise CheckpointError(f"{file} has no dataset {wanted!r}; unnorm_key is one of: {listed}")
    return found, datasets[found]


def _length(statistics: Mapping[str, Any]) -> int:
    return len(statistics.get("q01") or statistics.get("min") or ())


def _affine(
    statistics: Mapping[str, Any], platform: Platform, size: int, name: str, missing: list[str]
) -> Affine:
    """From bounds: low becomes -1 and high 1, where the mask is true; others stay as they are."""
    if not size:
        return Affine((), ())
    pairs: list[list[float]] = []
    for bound in platform.bounds:
        values = statistics.get(bound)
        if not isinstance(values, list) or len(values) != size:
            missing.append(f"{name}.{bound} ({size} numbers)")
        elif odd := [i for i, value in enumerate(values) if not math.isfinite(value)]:
            missing.append(f"{name}.{bound} (element {odd[0]} is {values[odd[0]]})")
        else:
            pairs.append([float(value) for value in values])
    mask = statistics.get("mask") or [True] * size
    if len(mask) != size:
        missing.append(f"{name}.mask ({size} truth values)")
    if len(pairs) != len(platform.bounds) or len(mask) != size:
        return Affine((), ())
    mean, std = [], []
    for low, high, normalised in zip(*pairs, mask, strict=True):
        if not normalised:
            centre, half = 0.0, 1.0
        else:
            half = (high - low + WIDTH_EPS) / 2
            # What was constant in training was 0 there (in the published evaluation it is -1).
            centre = low if low == high else low + half
        mean.append(centre)
        std.append(half)
    return Affine(tuple(mean), tuple(std))
