import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "exports" / "reference"))
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


@pytest.fixture(scope="session", autouse=True)
def _caches_of_our_own(tmp_path_factory: pytest.TempPathFactory):
    """Arrow copies of datasets and what compressions keep go into the test's folder, not into the
    user's cache."""
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow"))
    patch.setenv("ACTQUANT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _programs_are_shared(tmp_path_factory: pytest.TempPathFactory):
    """Tests on copies of a checkpoint, in all workers, share its programs; what is kept of programs
    is the same as what was captured (tests/program/test_stored.py)."""
    from actquant.calibration.work_folder import WorkFolder
    from actquant.capture import policy
    from actquant.common.files import hash_json
    from actquant.compression.programs import kept_stages, sources_of_programs

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    capture = policy.policy_stages

    def stages(loaded: LoadedPolicy) -> dict:
        if loaded.streamed is not None:
            return capture(loaded)
        key = hash_json(sources_of_programs(loaded))
        return kept_stages(WorkFolder(folder / "programs" / key), loaded)[0]

    patch = pytest.MonkeyPatch()
    patch.setattr(policy, "policy_stages", stages)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy_policy import make_dataset

    return make_dataset(tmp_path_factory.mktemp("data") / "tiny")
