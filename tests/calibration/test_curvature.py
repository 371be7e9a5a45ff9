from pathlib import Path

import numpy as np
import pytest
import torch
from toy_policy import make_toy, toy_tensors

from actquant.calibration.curvature import PARTIAL_STAGE, curvature
from actquant.calibration.frames import action_losses, calibrate
from actquant.common.errors import CalibrationError
from actquant.compression.artifacts import WorkFolder


def autograd_fisher(loaded, tensors, frames, draws: int, seed: int) -> dict[str, np.ndarray]:
    """One backward pass per sample through the parameters themselves."""
    sums = {t.name: np.zeros(t.shape) for t in tensors}
    weights = {t.name: loaded.policy.get_submodule(t.module).weight for t in tensors}
    for draw in range(draws):
        for batch in frames.batches(1):
            loaded.policy.zero_grad()
            action_losses(loaded, batch, seed, draw).sum().backward()
            for name, weight in weights.items():
                sums[name] += weight.grad.double().numpy() ** 2
    return {name: value / (draws * len(frames)) for name, value in sums.items()}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_hooks_give_the_squared_gradient_of_every_sample(dataset, batch_size: int):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=7).calibration
    tensors = toy_tensors(loaded)
    expected = autograd_fisher(loaded, tensors, frames, draws=2, seed=5)
    found = curvature(loaded, tensors, frames, draws=2, seed=5, batch_size=batch_size)
    for name, value in expected.items():
        assert value.max() > 0
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=value.max() * 1e-6)
    assert all(p.requires_grad for p in loaded.policy.parameters())


class Killed(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_stopped(dataset, tmp_path: Path, monkeypatch):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=8).calibration
    tensors, work = toy_tensors(loaded), WorkFolder(tmp_path)
    whole = curvature(loaded, tensors, frames, batch_size=2)
    calls = []

    def fail_at_the_sixth(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise Killed
        return action_losses(*arguments)

    monkeypatch.setattr("actquant.calibration.curvature.action_losses", fail_at_the_sixth)
    settings = {"made_from": {"checkpoint": "a"}, "batch_size": 2, "work": work, "save_every": 4}
    with pytest.raises(Killed):
        curvature(loaded, tensors, frames, **settings)
    saved = work.load(PARTIAL_STAGE, {"checkpoint": "a"})
    assert saved is not None
    sizes = [len(batch.frames) for batch in frames.batches(2)] * 2
    kept = list(np.cumsum(sizes)).index(saved.info["samples"]) + 1
    assert 0 < kept <= 5
    calls.clear()
    monkeypatch.setattr(
        "actquant.calibration.curvature.action_losses",
        lambda *a: (calls.append(a), action_losses(*a))[1],
    )
    resumed = curvature(loaded, tensors, frames, **settings)
    assert len(calls) == len(sizes) - kept
    for name in whole:
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-6)
    calls.clear()
    curvature(loaded, tensors, frames, **{**settings, "made_from": {"checkpoint": "b"}})
    assert len(calls) == len(sizes)


def test_layers_that_get_no_gradient_have_no_curvature(dataset):
    loaded = make_toy()
    loaded.policy.unused = torch.nn.Linear(4, 4)
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    found = curvature(loaded, toy_tensors(loaded), frames, draws=1)
    assert not found["unused.weight"].any()


def test_gradients_that_are_not_finite_name_the_tensor(dataset):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    weight = loaded.policy.get_submodule("velocity").weight
    with torch.no_grad():
        weight[0] = 1e18
    with pytest.raises(CalibrationError, match=r"weight: NaN or infinity"):
        curvature(loaded, toy_tensors(loaded), frames, draws=1)
