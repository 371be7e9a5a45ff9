import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _caches_of_our_own(tmp_path_factory: pytest.TempPathFactory):
    """Arrow copies of the test datasets go into the test's folder, not into the user's cache."""
    import datasets

    old = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("arrow")
    yield
    datasets.config.HF_DATASETS_CACHE = old


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy_policy import make_dataset

    return make_dataset(tmp_path_factory.mktemp("data") / "tiny")
