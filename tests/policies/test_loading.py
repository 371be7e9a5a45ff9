"""Weights stay on disk where memory is too small for them."""

from pathlib import Path

import pytest

import actquant.policies.loading as loading
from actquant.common.errors import CheckpointError
from actquant.policies import load_policy


@pytest.fixture(scope="module")
def size(checkpoint: Path) -> int:
    """Bytes of all weights in float32."""
    streamed = load_policy(checkpoint, streamed=True).streamed
    assert streamed is not None
    return streamed.bytes


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch):
    def of(size: int):
        monkeypatch.setattr(loading, "total_memory", lambda: size)

    return of


def test_more_than_half_of_the_memory_stays_on_disk(checkpoint, size, memory):
    memory(2 * size - 1)
    loaded = load_policy(checkpoint)
    assert loaded.streamed is not None and loaded.streamed.bytes == size
    assert not loaded.policy.model.state_proj.weight.any()


def test_half_of_the_memory_is_read(checkpoint, size, memory):
    memory(2 * size)
    loaded = load_policy(checkpoint)
    assert loaded.streamed is None
    assert loaded.policy.model.state_proj.weight.any()


def test_weights_that_must_be_in_memory_may_take_all_of_it(checkpoint, size, memory):
    memory(size)
    assert load_policy(checkpoint, streamed=False).streamed is None


def test_weights_that_must_be_in_memory_and_do_not_fit_are_refused(checkpoint, size, memory):
    memory(size - 1)
    gigabytes = rf"{size / 1e9:.1f} GB, this machine has {(size - 1) / 1e9:.1f} GB"
    with pytest.raises(CheckpointError, match=f"as float32 the weights take {gigabytes}.*recipe"):
        load_policy(checkpoint, streamed=False)


def test_weights_may_stay_on_disk_in_any_memory(checkpoint, size, memory):
    memory(1000 * size)
    assert load_policy(checkpoint, streamed=True).streamed is not None
