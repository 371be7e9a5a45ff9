"""The action Jacobian is that of the executed actions, for every family's own way to act."""

import numpy as np
import pytest
import torch
from recipe_hashes import make_dataset
from tiny_families import BUILDERS, build_tiny, loading

from actquant.calibration.accumulators import ActionJacobian, SecondMoments
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import calibrate
from actquant.calibration.losses import action_projections
from actquant.calibration.statistics import collect
from actquant.calibration.work_folder import WorkFolder
from actquant.capture.policy import quantizable
from actquant.policies import load_policy


@pytest.mark.parametrize("family", BUILDERS)
def test_hooks_give_the_squared_gradient_of_the_executed_actions(family: str, tmp_path):
    checkpoint = build_tiny(family, tmp_path / "checkpoint")
    with loading(family):
        face = load_policy(checkpoint, control_rate_hz=10).interface
        make_dataset(tmp_path / "data", face, episodes=2, length=4)
        loaded = load_for_dataset(checkpoint, tmp_path / "data", streamed=False)
    frames = calibrate(loaded, tmp_path / "data", n_frames=2, n_held_out=0).calibration
    tensors = quantizable(loaded)
    kinds = [ActionJacobian, SecondMoments]
    work = WorkFolder(tmp_path / "work")
    found = collect(loaded, tensors, frames, kinds, work, {}, draws=1, seed=3, batch_size=2)
    weights = {t.name: loaded.policy.get_submodule(t.module).weight for t in tensors}
    for weight in weights.values():
        weight.requires_grad_(True)
    expected = {name: np.zeros(tuple(weight.shape)) for name, weight in weights.items()}
    for batch in frames.batches(1):
        loaded.policy.zero_grad()
        with torch.enable_grad():
            action_projections(loaded, batch, 3).sum().backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                expected[name] += weight.grad.double().numpy() ** 2 / len(frames)
    moved = 0
    for name, value in expected.items():
        jacobian = found.of(name, ActionJacobian)["action_jacobian"]
        np.testing.assert_allclose(
            jacobian, value, rtol=2e-3, atol=1e-5 * value.max(), err_msg=name
        )
        moments = found.of(name, SecondMoments)["second_moments"]
        assert len(moments) == value.shape[1] and np.linalg.eigvalsh(moments).min() > -1e-6
        moved += bool(value.any())
    assert moved > 0.8 * len(expected)
