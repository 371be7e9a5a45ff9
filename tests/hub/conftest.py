"""A hub on this machine, and the command line with the hub's own client against it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_commands import TOKEN
from hub_server import HubServer, serving

from actquant.compression.pipeline import compress

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def policy(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with golden values; do not change it, copy it."""
    out = tmp_path_factory.mktemp("file") / "policy.gguf"
    compress(checkpoint, out, recipe="q8_0", control_rate_hz=10)
    return out


@pytest.fixture
def hub():
    with serving(HubServer(token=TOKEN)) as server:
        yield server


@pytest.fixture
def settings(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """The client's settings. It reads them when it is imported, so each command is a process."""
    return {
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN},
        **{"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"},
        **{"HF_HUB_ETAG_TIMEOUT": "30", "HF_HUB_DOWNLOAD_TIMEOUT": "30", "COLUMNS": "200"},
    }


@pytest.fixture
def python(settings: dict[str, str], tmp_path: Path) -> Command:
    """Runs Python in a folder of its own; the token is nowhere in what it prints."""
    folder = tmp_path / "here"
    folder.mkdir()

    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **settings, **changed},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def actquant(python: Command) -> Command:
    def run(*arguments: str | Path, **changed: str) -> subprocess.CompletedProcess[str]:
        return python("-m", "actquant.cli", *map(str, arguments), **changed)

    return run
