"""Whatever a command is asked: one line, the right exit code, and nothing that it reads is changed.

Most calls run in this process, which is the same; some as processes of their own.
"""

import hashlib
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import odd_calls
import pytest
from odd_calls import Call, calls, places
from rich.console import Console
from typer.testing import CliRunner

from actquant.capture.policy import CapturedPolicy
from actquant.cli import app, command_line
from actquant.format.model_file import write_model

CALLS = calls()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, captured: CapturedPolicy) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return write_model(
        path,
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
    )


@pytest.fixture(scope="module")
def there(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, dataset: Path, model: Path
) -> dict[str, str]:
    return places(tmp_path_factory.mktemp("odd"), checkpoint, dataset, model)


@pytest.fixture(scope="module")
def inputs(there: dict[str, str]) -> Path:
    return Path(there["model"]).parent


@pytest.fixture(scope="module", autouse=True)
def _inputs_stay(inputs: Path) -> Iterator[None]:
    before = fingerprint(inputs)
    yield
    assert fingerprint(inputs) == before


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Returns mode, and contents or target, of everything below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if stat.S_ISLNK(mode) else ""
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(folder).as_posix()] = (mode, content)
    return found


def words_of(call: Call, there: dict[str, str]) -> list[str]:
    return [word.format(**there) for word in shlex.split(call.words)]


def test_the_table_is_long_enough() -> None:
    assert len(CALLS) >= 100
    assert len({call.words for call in CALLS}) == len(CALLS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.words)
def test_it_ends_in_one_line(
    call: Call, there: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "errors", Console(stderr=True, width=80))
    outcome = CliRunner().invoke(app, words_of(call, there))
    lines = outcome.stderr.splitlines()
    assert outcome.exit_code == call.status, outcome.output
    assert isinstance(outcome.exception, SystemExit), outcome.output
    assert len(lines) == 1, outcome.output
    assert outcome.stdout == ""
    assert call.told in lines[0]
    assert not Path(there["free"]).exists() and not Path(there["new"]).exists()


@pytest.mark.parametrize("call", CALLS[:: len(CALLS) // 5], ids=lambda call: call.words)
def test_so_does_a_process(call: Call, there: dict[str, str]) -> None:
    words = [sys.executable, "-m", "actquant.cli", *words_of(call, there)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == call.status, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert call.told in done.stderr


def test_what_looks_like_markup_is_shown_as_it_is(there: dict[str, str], tmp_path: Path) -> None:
    for name, shown in [("[bold]x", "[bold]x"), ("\x1b[31mred", "\\x1b[31mred")]:
        path = tmp_path / name
        path.write_text(odd_calls.result().model_dump_json())
        outcome = CliRunner().invoke(app, ["compare", str(path), there["result"]])
        assert outcome.exit_code == 0 and shown in outcome.stdout and "\x1b" not in outcome.stdout
        outcome = CliRunner().invoke(app, ["inspect", str(tmp_path / f"{name}.gguf")])
        assert outcome.exit_code == 2 and shown in outcome.stderr and "\x1b" not in outcome.stderr
