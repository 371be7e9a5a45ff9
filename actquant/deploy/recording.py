"""Journals become episodes of a LeRobotDataset: at an episode's end, or at the next start.

LeRobot's files are readable only once they are closed, and appending an episode touches several of
them. So before that a note of what was there is put beside the dataset; if the process ends in
between, the next start puts the dataset back to it and begins anew from the journal.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actquant.common.errors import RecordingError
from actquant.common.files import write_text
from actquant.deploy.journal import Frame, Header, Journal, read

if TYPE_CHECKING:
    from actquant.deploy.policy import Seen, TimedPolicy
    from actquant.deploy.robot import Robot
    from actquant.deploy.settings import DeploySettings

STATE, ACTION = "observation.state", "action"
_NOTE, _META, _DONE = "undo.json", "undo-meta", ".done-"


class Recorder:
    """A dataset folder, and beside it `NAME.journal/`, where episodes in the making lie.

    A context manager: inside it, no other process can record into the same dataset.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self.journals = self.root.with_name(self.root.name + ".journal")

    def __enter__(self) -> "Recorder":
        """Raises RecordingError if another process records there, or nothing can be written."""
        try:
            self.journals.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.journals, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise RecordingError(f"another process is recording into {self.root}") from error
        except OSError as error:
            raise RecordingError(f"{self.journals} cannot be used: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if not any(self.journals.iterdir()):
            self.journals.rmdir()
        os.close(self._lock)

    def begin(self, header: Header) -> Journal:
        """Returns a journal for a new episode.

        Raises RecordingError if the dataset is there and has other features, or is no dataset.
        """
        wrong = self.differences(header)
        if wrong:
            raise RecordingError(
                f"{self.root} cannot take this episode:\n" + "\n".join(f"- {w}" for w in wrong)
            )
        for number in count():
            folder = self.journals / f"episode_{number:06d}"
            if not folder.exists():
                return Journal(folder, header)
        raise AssertionError("unreachable")

    def differences(self, header: Header) -> list[str]:
        """Returns how the dataset that is there differs from what an episode of `header` needs."""
        info_path = self.root / "meta" / "info.json"
        if not self.root.exists():
            return []
        if not info_path.is_file():
            return ["it is there and is no LeRobotDataset; name another folder"]
        info = json.loads(info_path.read_text())
        wrong = []
        if info["fps"] != frames_per_second(header):
            wrong.append(f"it has {info['fps']} frames/s, this {frames_per_second(header)}")
        theirs, ours = info["features"], features(header)
        for name in ours.keys() - theirs.keys():
            wrong.append(f"it has no feature '{name}'")
        for name in theirs.keys() - ours.keys() - set(_default_features()):
            wrong.append(f"it has the feature '{name}', which this robot and policy do not give")
        for name in ours.keys() & theirs.keys():
            for part in ("shape", "names"):
                own, other = ours[name][part], theirs[name].get(part)
                if list(own) != list(other or []):
                    wrong.append(f"'{name}' has the {part} {other} there and {own} here")
        return sorted(wrong)

    def pending(self) -> list[Path]:
        """Returns the journals of episodes that have not become part of the dataset, oldest
        first."""
        folders = self.journals.glob("episode_*")
        return sorted(path for path in folders if (path / "header.json").is_file())

    def salvage(self) -> dict[Path, int]:
        """Turns every pending journal into an episode; returns the frames of each (0: there were
        none).

        Raises RecordingError as `commit`.
        """
        self._undo()
        for folder in self.journals.glob(f"{_DONE}*"):
            shutil.rmtree(folder, ignore_errors=True)
        return {path: self.commit(path) for path in self.pending()}

    def commit(self, journal: Path) -> int:
        """Appends a journal's whole frames as an episode, deletes the journal, returns their
        number.

        Raises RecordingError if that fails, with the dataset put back and the journal kept.
        """
        require_lerobot()
        header, frames = read(journal)
        wrong = self.differences(header)
        if wrong:
            raise RecordingError(f"{journal} does not fit {self.root}: " + "; ".join(wrong))
        try:
            self._note()
            length = self._append(header, frames)
        except Exception as error:  # whatever LeRobot, Arrow or the disk raises, the journal stays
            self._undo()
            raise RecordingError(
                f"{journal} could not be appended to {self.root} and is kept for the next start: "
                f"{type(error).__name__}: {error}"
            ) from error
        # The journal goes first: with the note still there a kill in between would take the
        # episode back, and with the journal still there it would be appended twice.
        done = journal.with_name(_DONE + journal.name)
        os.rename(journal, done)
        self._forget_note()
        shutil.rmtree(done, ignore_errors=True)
        return length

    def _append(self, header: Header, frames: Iterator[Frame]) -> int:
        length, dataset = 0, None  # an empty dataset is false
        for frame in frames:
            if dataset is None:
                dataset = self._open(header)
            state = {STATE: frame.state} if header.state_names else {}
            dataset.add_frame({**frame.images, **state, ACTION: frame.action, "task": header.task})
            length += 1
        if dataset is not None:
            dataset.save_episode()
            dataset.finalize()
            shutil.rmtree(self.root / "images", ignore_errors=True)
        return length

    def _open(self, header: Header) -> Any:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        name = f"actquant/{self.root.name}"
        if self.root.exists():
            return LeRobotDataset.resume(name, root=self.root)
        return LeRobotDataset.create(
            name,
            frames_per_second(header),
            features(header),
            root=self.root,
            robot_type=header.robot_type,
            use_videos=False,
        )

    def _note(self) -> None:
        """Writes down which files the dataset has, and keeps its small ones, which change."""
        files: list[str] = []
        meta = self.journals / _META
        shutil.rmtree(meta, ignore_errors=True)
        if self.root.exists():
            files = [str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()]
            shutil.copytree(self.root / "meta", meta)
        write_text(self.journals / _NOTE, json.dumps({"files": files}))

    def _undo(self) -> None:
        """Puts the dataset back to the last note, if there is one."""
        note = self.journals / _NOTE
        if not note.exists():
            return
        if not any(self.journals.glob(f"{_DONE}*")):
            files = set(json.loads(note.read_text())["files"])
            if not files:
                shutil.rmtree(self.root, ignore_errors=True)
            else:
                for path in list(self.root.rglob("*")):
                    if path.is_file() and str(path.relative_to(self.root)) not in files:
                        path.unlink()
                self._restore_meta()
        self._forget_note()

    def _restore_meta(self) -> None:
        """Restores by renaming, which a full disk does not prevent."""
        kept = self.journals / _META
        if kept.exists():
            shutil.rmtree(self.root / "meta", ignore_errors=True)
            os.rename(kept, self.root / "meta")

    def _forget_note(self) -> None:
        (self.journals / _NOTE).unlink(missing_ok=True)
        shutil.rmtree(self.journals / _META, ignore_errors=True)


def require_lerobot() -> None:
    """Raises RecordingError saying what to install where LeRobot's datasets cannot be imported."""
    try:
        import lerobot.datasets.lerobot_dataset  # noqa: F401
    except ImportError as error:
        raise RecordingError(
            f"episodes are recorded by LeRobot, which is not installed ({error}): "
            "pip install 'actquant[record]'"
        ) from error


def header_of(
    settings: "DeploySettings", robot: "Robot", policy: "TimedPolicy", seen: "Seen", number: int
) -> Header:
    """Returns the header of the recording of episode `number`; pictures are as large as those in
    `seen`."""
    return Header(
        task=robot.task,
        rate_hz=policy.rate_hz,
        robot_type=settings.robot,
        state_names=list(policy.state_names),
        action_names=list(policy.action_names),
        cameras={name: list(seen.raw[name].shape) for name in robot.port.cameras},
        info={"model": str(settings.model), "episode": number},
    )


def frames_per_second(header: Header) -> int:
    """Returns whole frames a second, as LeRobot counts them; at least one."""
    return max(1, round(header.rate_hz))


def features(header: Header) -> dict[str, Mapping[str, Any]]:
    """Returns a LeRobotDataset's features for an episode of `header`."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, shape in header.cameras.items():
        names = ["height", "width", "channels"]
        found[name] = {"dtype": "image", "shape": tuple(shape), "names": names}
    for name, names in ((STATE, header.state_names), (ACTION, header.action_names)):
        if names:
            found[name] = {"dtype": "float32", "shape": (len(names),), "names": list(names)}
    return found


def _default_features() -> Mapping[str, Any]:
    from lerobot.utils.constants import DEFAULT_FEATURES

    return DEFAULT_FEATURES
