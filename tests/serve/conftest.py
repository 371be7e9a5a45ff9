"""Either server with a tiny policy on a free port: every test that asks for one runs with both."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from served import KINDS, Served, running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from policy_files import write_policy

    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.gguf")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which server."""
    return request.param


@pytest.fixture(scope="module")
def shared(kind: str, model: Path) -> Iterator[Served]:
    """A server for all tests of a module."""
    with running(kind, {"tiny": model}) as server:
        yield server


@pytest.fixture
def serving(kind: str, model: Path) -> Iterator[Callable[..., Served]]:
    """Makes servers of the tiny policy with other settings; they end with the test."""
    with ExitStack() as servers:

        def make(**changes: Any) -> Served:
            values = {"models": {"tiny": model}, "watch_s": 0.05}
            return servers.enter_context(running(kind, **(values | changes)))

        yield make
