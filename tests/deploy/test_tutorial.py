"""docs/tutorial.md: every command there runs, in its order, and prints what the page shows of it.

Blocks ```sh are typed into one terminal, ```sh second terminal into another, where what ran there
before is ended with Ctrl-C first. A block of the second terminal has begun when it has printed the
lines that the page shows below it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/tutorial.md").read_text()
BEGINS_WITHIN_S = 300


@dataclass(frozen=True)
class Step:
    """Commands, and what the page shows of their output (empty: nothing)."""

    commands: str
    second: bool
    shown: str


def steps() -> list[Step]:
    blocks = re.findall(r"^```([\w ]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: list[Step] = []
    for kind, text in blocks:
        if kind in ("sh", "sh second terminal"):
            found.append(Step(text, kind != "sh", ""))
        elif kind == "text":
            last = found.pop()
            found.append(Step(last.commands, last.second, last.shown + text))
    return found


class Terminal:
    """A terminal in which something may run on; its output goes to a file."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.output = folder / "second-terminal.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, commands: str, shown: str) -> None:
        self.stop()
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                ["bash", "-euc", f"exec {commands}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        last = time.monotonic() + BEGINS_WITHIN_S
        while not (said := self.output.read_text()) or missing(shown, said):
            assert self.process.poll() is None, said
            assert time.monotonic() < last, f"{commands}: {missing(shown, said)} not in {said}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends what runs as Ctrl-C does, and expects that it ends well."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(60) == 0, self.output.read_text()
            self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def missing(shown: str, said: str) -> list[str]:
    """Returns the lines of the page that were not printed.

    Numbers differ from run to run, and with them the widths of columns: lines are compared without
    them. A line with `…` is compared up to there; one in brackets is the page's own.
    """
    printed = {_words(line) for line in said.splitlines()}
    lines = [_words(line.split("…")[0]) for line in shown.splitlines()]
    cut = [_words(line.split("…")[0]) for line in shown.splitlines() if "…" in line]
    return [
        line
        for line in lines
        if line and line not in printed and not (line in cut and _begins(line, printed))
    ]


def _begins(line: str, printed: set[str]) -> bool:
    return any(other.startswith(line) for other in printed)


def _words(line: str) -> str:
    """The words of a line that are the same in every run."""
    text = re.sub(r"[─━│┃┏┓┗┛┡┩├┤└┘┌┐┬┴┼╇╈┳┻╋]+", " ", line)
    words = re.findall(r"[^\W\d_][\w.:/-]*", text)
    return " ".join(word for word in words if not re.search(r"\d", word))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the repository's, as far as the page uses it."""
    (tmp_path / "exports").symlink_to(REPOSITORY / "exports")
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ACTQUANT_CACHE": str(folder / "cache"),
        "COLUMNS": "100",
    }


@pytest.fixture
def second(folder: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(folder, environment)
    yield terminal
    terminal.kill()


def test_the_page_from_begin_to_end(
    folder: Path, environment: dict[str, str], second: Terminal
) -> None:
    assert shutil.which("lerobot-eval", path=environment["PATH"]), "make setup installs LeRobot"
    for step in steps():
        if step.second:
            second.start(step.commands, step.shown)
            continue
        done = subprocess.run(
            ["bash", "-euc", step.commands],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{step.commands}\n{done.stdout}\n{done.stderr[-3000:]}"
        lacking = missing(step.shown, done.stdout)
        assert not lacking, f"{step.commands}\nlacks {lacking}\n{done.stdout}"
    second.stop()
    made = sorted(path.name for path in (folder / "tutorial").iterdir())
    assert {"f16.gguf", "small.gguf", "rounded.gguf", "report.html", "log"} <= set(made)


def test_the_page_is_read_whole() -> None:
    commands = " ".join(step.commands for step in steps())
    assert commands.count("actquant ") >= 15 and "lerobot-eval " in commands
    assert [step.shown != "" for step in steps() if step.second] == [True, True]
