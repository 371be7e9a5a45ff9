"""Record demonstrations as a LeRobotDataset: `record_demonstrations.py OUT --episodes 100`.

Goes on after an interruption with the next missing episode; the same arguments always give the
same frames. `--calibration` writes the small set that quantisation is calibrated on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from build_policy import ACTION, ACTION_DIM, CAMERAS, STATE, STATE_DIM, write_json
from simulation import (
    CALIBRATION_START,
    TASK_NAMES,
    TRAINING_START,
    Demonstration,
    UR3eEnv,
    all_instructions,
    demonstrate,
)

from actquant.common.files import atomic_folder

FPS = 10
STATE_NAMES = [
    *(f"joint_{i}_rad" for i in range(1, 7)),
    "gripper_opening_m",
    *(f"tool_{axis}_m" for axis in "xyz"),
    *(f"tool_rotation_{axis}_rad" for axis in "xyz"),
]
ACTION_NAMES = [f"{kind}_{axis}" for kind in ("move", "turn") for axis in "xyz"] + ["gripper"]


def features(image_size: int) -> dict[str, Any]:
    image = {
        "dtype": "image",
        "shape": (image_size, image_size, 3),
        "names": ["height", "width", "channels"],
    }
    return {
        **{key: dict(image) for key in CAMERAS},
        STATE: {"dtype": "float32", "shape": (STATE_DIM,), "names": STATE_NAMES},
        ACTION: {"dtype": "float32", "shape": (ACTION_DIM,), "names": ACTION_NAMES},
    }


class Recorder:
    """A LeRobotDataset on disk that can be gone on with after a kill.

    Parquet files are readable only once closed. So they are closed every few episodes, and the
    journal holds what was complete then; anything newer is dropped before going on.
    """

    def __init__(self, root: Path, image_size: int) -> None:
        self.root, self.image_size = root, image_size
        self.journal = root.parent / f".{root.name}.journal"
        self.dataset: Any | None = None
        self.done = self._recover()

    @property
    def name(self) -> str:
        return f"actquant/{self.root.name}"

    def _recover(self) -> int:
        """Episodes tried so far, with the dataset put back to how it was after them."""
        note = self.journal / "done.json"
        if not note.exists():
            if (self.root / "meta" / "info.json").exists():
                raise FileExistsError(
                    f"{self.root} is complete, or not ours; remove it to record anew"
                )
            shutil.rmtree(self.root, ignore_errors=True)
            shutil.rmtree(self.journal, ignore_errors=True)
            return 0
        state = json.loads(note.read_text(encoding="utf-8"))
        if not state["files"]:
            shutil.rmtree(self.root, ignore_errors=True)
            return 0
        for path in self.root.rglob("*"):
            if path.is_file() and str(path.relative_to(self.root)) not in state["files"]:
                path.unlink()
        shutil.copytree(self.journal / "meta", self.root / "meta", dirs_exist_ok=True)
        return int(state["done"])

    def open(self) -> Any:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        if self.root.exists():
            return LeRobotDataset.resume(self.name, root=self.root)
        self._note([])  # whose the folder is that begins now
        layout = features(self.image_size)
        return LeRobotDataset.create(
            self.name, FPS, layout, root=self.root, robot_type="ur3e", use_videos=False
        )

    def add(self, episode: Demonstration | None) -> None:
        """Appends an episode; None counts as tried."""
        dataset: Any = self.open() if self.dataset is None else self.dataset
        self.dataset = dataset
        self.done += 1
        if episode is None:
            return
        for frame, action in zip(episode.frames, episode.actions, strict=False):
            dataset.add_frame(
                {key: frame["images"][i] for i, key in enumerate(CAMERAS)}
                | {STATE: frame["state"], ACTION: action, "task": episode.instruction}
            )
        dataset.save_episode()

    def save(self) -> None:
        """Closes the files, so that recording can go on from here."""
        if self.dataset is None:
            return
        self.dataset.finalize()
        self.dataset = None
        self._note([str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()])

    def _note(self, files: list[str]) -> None:
        """Notes in the journal that these files are complete."""
        with atomic_folder(self.journal) as draft:
            if files:
                shutil.copytree(self.root / "meta", draft / "meta")
            write_json(draft / "done.json", {"done": self.done, "files": sorted(files)})

    def finish(self, complete: bool) -> None:
        """Closes the files; a complete dataset needs no journal."""
        self.save()
        shutil.rmtree(self.root / "images", ignore_errors=True)
        if complete:
            shutil.rmtree(self.journal, ignore_errors=True)


def plan(first: int, episodes: int, tasks: list[str]) -> Iterator[tuple[str, int]]:
    """Returns (task, start) of every episode, tasks taking turns."""
    for i in range(episodes):
        for task in tasks:
            yield task, first + i


def record(
    root: Path, first: int, episodes: int, tasks: list[str],
    stop_after: int | None = None, save_every: int = 20,
) -> int:  # fmt: skip
    """Records `episodes` per task from start `first`; returns the episodes tried so far.

    `stop_after` ends the session after so many new episodes; recording can go on from every
    `save_every`-th.
    """
    prompts = {text: i for i, text in enumerate(all_instructions())}
    environments = {task: UR3eEnv(task) for task in tasks}
    recorder = Recorder(root, environments[tasks[0]].image_size)
    done, new, complete = recorder.done, 0, True
    for number, (task, start) in enumerate(plan(first, episodes, tasks)):
        if number < done:
            continue
        if stop_after is not None and new >= stop_after:
            complete = False
            break
        recorder.add(demonstrate(environments[task], start, prompts, chunk=0))
        new += 1
        if new % save_every == 0:
            recorder.save()
            print(f"{recorder.done} episodes", flush=True)
    recorder.finish(complete)
    return recorder.done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the dataset")
    parser.add_argument("--episodes", type=int, default=100, help="per task")
    parser.add_argument("--first", type=int, default=TRAINING_START, help="first start number")
    parser.add_argument("--tasks", default="all", help=f"all, or some of: {', '.join(TASK_NAMES)}")
    parser.add_argument(
        "--calibration", action="store_true", help="13 episodes per task of their own"
    )
    parser.add_argument(
        "--save-every", type=int, default=20, help="episodes; it goes on from there"
    )
    args = parser.parse_args()
    tasks = list(TASK_NAMES) if args.tasks == "all" else args.tasks.split(",")
    first, episodes = (CALIBRATION_START, 13) if args.calibration else (args.first, args.episodes)
    if first < CALIBRATION_START:
        parser.error(f"starts below {CALIBRATION_START} are kept for evaluation")
    try:
        done = record(args.out, first, episodes, tasks, save_every=args.save_every)
    except FileExistsError as error:
        sys.exit(f"error: {error}")
    print(f"{done} episodes in {args.out}")


if __name__ == "__main__":
    main()
