import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))

from tiny_policies import build_tiny_smolvla

from actquant.capture.policy import CapturedPolicy, capture_policy
from actquant.policies import LoadedPolicy, load_policy


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; do not change it, copy it."""
    return build_tiny_smolvla(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> LoadedPolicy:
    return load_policy(checkpoint, control_rate_hz=10)


@pytest.fixture(scope="session")
def captured(loaded: LoadedPolicy) -> CapturedPolicy:
    return capture_policy(loaded)
