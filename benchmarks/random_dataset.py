"""A LeRobotDataset of random pictures and walks at 10 Hz, with the features of a policy.

Usage: python benchmarks/random_dataset.py CHECKPOINT FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from actquant.policies import load_policy
from actquant.policies.base import PolicyInterface

RATE_HZ = 10


def make_dataset(folder: Path, face: PolicyInterface, episodes: int = 4, length: int = 8) -> None:
    """Writes a LeRobotDataset of random pictures and walks with the features of a policy."""
    size = (face.image_source_height, face.image_source_width)
    picture = {"dtype": "image", "shape": (*size, 3), "names": ["height", "width", "channels"]}
    features: dict[str, dict[str, Any]] = {camera: dict(picture) for camera in face.cameras}
    sizes = {"observation.state": len(face.state_mean) or 1, "action": len(face.action_mean)}
    for key, count in sizes.items():
        names = [f"{key[0]}{i}" for i in range(count)]
        features[key] = {"dtype": "float32", "shape": (count,), "names": names}
    dataset = LeRobotDataset.create(
        "local/walks", fps=RATE_HZ, features=features, root=folder, use_videos=False
    )
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        walk = np.cumsum(rng.normal(0, 0.3, (length, sum(sizes.values()))), axis=0)
        for step in walk.astype(np.float32):
            state, action = np.split(step, [sizes["observation.state"]])
            pictures = {c: rng.integers(0, 256, (*size, 3), np.uint8) for c in face.cameras}
            numbers = {"observation.state": state, "action": action}
            task = "lift the cube" if episode % 2 else "put the cube into the tray"
            dataset.add_frame({**pictures, **numbers, "task": task})
        dataset.save_episode()
    dataset.finalize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--length", type=int, default=16, help="frames of an episode")
    arguments = parser.parse_args()
    policy = load_policy(arguments.checkpoint, control_rate_hz=RATE_HZ)
    make_dataset(arguments.folder, policy.interface, arguments.episodes, arguments.length)


if __name__ == "__main__":
    main()
