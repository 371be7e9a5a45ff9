"""A scripted expert in LIBERO: how often it succeeds, and its demonstrations as a LeRobotDataset.

    .venv-libero/bin/python benchmarks/libero_expert.py libero_object --starts 10:20 --json o.json

It knows where everything is, and acts through the same seven numbers as a policy, in the same
environment (actquant/environments/libero_process.py). What it solves can be solved; what it does
not solve says nothing. `--record FOLDER` keeps the episodes that succeed, with pictures. Assets are
those of ACTQUANT_LIBERO_ASSETS, or hf-libero's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MUJOCO_GL", "egl")
ENVIRONMENTS = Path(__file__).parents[1] / "actquant" / "environments"
sys.path.append(str(ENVIRONMENTS))  # behind what is installed: its libero.py is not hf-libero

import libero_process  # noqa: E402
from libero_skills import Expert  # noqa: E402

RATE_HZ = 20


class Recorder:
    """Demonstrations of a suite as a LeRobotDataset."""

    def __init__(self, folder: Path, suite: str) -> None:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        side = libero_process.PIXELS
        picture = {
            "dtype": "image",
            "shape": (side, side, 3),
            "names": ["height", "width", "channels"],
        }
        state = [*(f"hand_{a}_m" for a in "xyz"), *(f"hand_rotation_{a}_rad" for a in "xyz")]
        action = [f"{kind}_{axis}" for kind in ("move", "turn") for axis in "xyz"]
        self.dataset = LeRobotDataset.create(
            f"local/{suite}",
            RATE_HZ,
            {
                **{f"observation.images.{key}": picture for key in libero_process.CAMERAS.values()},
                "observation.state": _numbers([*state, "finger_left_m", "finger_right_m"]),
                "action": _numbers([*action, "gripper"]),
            },
            root=folder,
            robot_type="panda",
            use_videos=False,
        )

    def add(self, frames: list[Any], task: str) -> None:
        """Appends an episode."""
        for observation, action in frames:
            self.dataset.add_frame({**observation, "action": action, "task": task})
        self.dataset.save_episode()

    def close(self) -> None:
        self.dataset.finalize()


def _numbers(names: list[str]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (len(names),), "names": names}


def play(
    world: libero_process.World, start: int, recorder: Recorder | None = None
) -> dict[str, Any]:
    """Plays one start; returns what it came to."""
    begun = time.perf_counter()
    frames: list[Any] | None = [] if recorder is not None else None
    seen = world.reset(start, look=frames is not None)
    success, why = Expert(world, seen, frames).play()
    if success and recorder is not None and frames is not None:
        recorder.add(frames, world.language)
    seconds = round(time.perf_counter() - begun, 1)
    told = {"start": start, "success": success, "steps": world.steps, "seconds": seconds}
    return told if success else {**told, "failure": why}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=["libero_spatial", "libero_object", "libero_goal"])
    parser.add_argument("--tasks", default="", help="numbers of tasks with commas; default all")
    parser.add_argument("--starts", default="10:20", help="low:high")
    parser.add_argument("--record", type=Path, help="a new folder for the demonstrations")
    parser.add_argument("--json", type=Path, help="where the result goes")
    arguments = parser.parse_args()
    libero_process.configure()
    session = libero_process.Session(
        arguments.suite, os.environ.get("ACTQUANT_LIBERO_ASSETS") or None
    )
    about = session.about()
    low, _, high = arguments.starts.partition(":")
    starts = range(int(low), int(high))
    numbers = [int(text) for text in arguments.tasks.split(",") if text]
    recorder = None if arguments.record is None else Recorder(arguments.record, arguments.suite)
    episodes: list[dict[str, Any]] = []
    for number in numbers or range(len(about["tasks"])):
        task = about["tasks"][number]
        session.open(task)
        assert session.world is not None
        for start in starts:
            episodes.append({"task": task, **play(session.world, start, recorder)})
            print(json.dumps(episodes[-1]), flush=True)
    if session.world is not None:
        session.world.env.close()
    if recorder is not None:
        recorder.close()
    won = sum(episode["success"] for episode in episodes)
    result = {
        "suite": arguments.suite,
        "n": len(episodes),
        "successes": won,
        "versions": about["versions"],
        "assets_sha256": about["assets_sha256"],
        "stand_in_visuals": not about["genuine"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "episodes": episodes,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"{arguments.suite}: {won} of {len(episodes)}")


if __name__ == "__main__":
    main()
