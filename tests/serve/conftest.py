"""A server with a tiny policy on a free port, in a thread of its own."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from served import running

from actquant.serve.server import Server
from actquant.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from policy_files import write_policy

    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.gguf")


@pytest.fixture
def serving(model: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of the tiny policy with other settings; they end with the test."""
    contexts = []

    def make(**changes: Any) -> Server:
        values = {"models": {"tiny": model}, "port": 0, "watch_s": 0.05}
        context = running(ServeSettings(**(values | changes)))
        contexts.append(context)
        return context.__enter__()

    yield make
    for context in contexts:
        context.__exit__(None, None, None)
