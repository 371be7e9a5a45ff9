"""The stages that need no encoder, on a real (tiny) policy with its own processors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policies import build_tiny_smolvla

from actquant.calibration.accumulators import Fisher, MeanActivations
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import calibrate
from actquant.calibration.losses import action_losses
from actquant.calibration.statistics import collect
from actquant.calibration.work_folder import WorkFolder
from actquant.capture.policy import quantizable
from actquant.recipes.paper import hsic_scores


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, dataset: Path):
    folder = build_tiny_smolvla(tmp_path_factory.mktemp("policy") / "tiny")
    return load_for_dataset(folder, dataset)


def test_layout_and_rate_come_from_the_dataset(loaded):
    assert loaded.interface.control_rate_hz == 10
    assert loaded.interface.action_names == tuple(f"a{i}" for i in range(7))


def test_actions_are_normalised_as_the_policys_own_preprocessor_does(loaded, dataset):
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    batch = next(frames.batches(3))
    samples = [frames[frames.frames.index(frame)] for frame in batch.frames]
    raw = {
        "observation.state": torch.from_numpy(
            np.stack([s.observation["observation.state"] for s in samples])
        ),
        "action": torch.from_numpy(np.stack([s.actions for s in samples])),
        "task": [s.observation["task"] for s in samples],
    }
    own = loaded.preprocessor(raw)
    torch.testing.assert_close(batch.tensors["action"], own["action"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batch.tensors["observation.state"], own["observation.state"])


def test_hooks_agree_with_autograd_on_every_tensor(loaded, dataset, tmp_path):
    frames = calibrate(loaded, dataset, n_frames=3).calibration
    tensors = quantizable(loaded)
    work = WorkFolder(tmp_path)
    found = collect(
        loaded, tensors, frames, {"linear": [Fisher.name]}, work, {}, draws=1, batch_size=2
    )
    weights = {t.name: loaded.policy.get_parameter(t.name) for t in tensors}
    expected = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    for batch in frames.batches(1):
        loss = action_losses(loaded, batch, 0).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            expected[name] += gradient**2 / len(frames)
    for weight in weights.values():
        weight.requires_grad_(False)
    for name, value in expected.items():
        assert value.max() > 0, name
        np.testing.assert_allclose(
            found.of(name, Fisher.name)["fisher"],
            value.numpy(),
            rtol=1e-3,
            atol=float(value.max()) * 1e-5,
            err_msg=name,
        )


def test_every_tensor_has_a_score(loaded, dataset, tmp_path):
    frames = calibrate(loaded, dataset, n_frames=6).calibration
    tensors = quantizable(loaded)
    found = collect(
        loaded, tensors, frames, {"linear": [MeanActivations.name]}, WorkFolder(tmp_path), {}
    )
    scores = hsic_scores(tensors, found)
    assert list(scores) == [t.name for t in tensors] and len(tensors) > 30
    assert all(score.hsic_y_out > 0 for score in scores.values())
    assert len({round(score.F_out, 12) for score in scores.values()}) > len(tensors) // 2
