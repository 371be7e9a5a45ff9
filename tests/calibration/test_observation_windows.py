"""Calibration for a policy that takes several observations and learns actions from before now."""

import numpy as np
import pytest
import torch
from tiny_cnn_policies import build_tiny_diffusion
from tiny_policies import CAMERAS
from toy_policy import make_dataset

from actquant.calibration.dataset import STATE, load_for_dataset
from actquant.calibration.frames import calibrate
from actquant.calibration.losses import action_losses, draw_noise
from actquant.fidelity.action_error import measure_action_error, reference_chunks

WINDOW, CHUNK = 8, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    dataset = make_dataset(folder / "data", state_dim=5, action_dim=4, length=10)
    checkpoint = build_tiny_diffusion(folder / "policy", image=(48, 48))
    return calibrate(load_for_dataset(checkpoint, dataset), dataset, n_frames=30, n_held_out=4)


def sample_at(frames, place):
    return frames[next(i for i, f in enumerate(frames.frames) if f.frame == place)]


def test_a_sample_holds_the_last_observations(data):
    first, third = (sample_at(data.calibration, place) for place in (0, 3))
    assert third.observation[STATE].shape == (2, 5)
    assert third.observation[CAMERAS[0]].shape == (2, 48, 48, 3)
    before = sample_at(data.calibration, 2)
    for key in (STATE, *CAMERAS):
        np.testing.assert_array_equal(third.observation[key][0], before.observation[key][1])
        np.testing.assert_array_equal(first.observation[key][0], first.observation[key][1])
        assert not np.array_equal(third.observation[key][0], third.observation[key][1])


def test_a_sample_holds_the_actions_of_the_policys_window(data):
    first, third = (sample_at(data.calibration, place) for place in (0, 3))
    before = sample_at(data.calibration, 2)
    assert third.actions.shape == (WINDOW, 4) and third.now == 1
    np.testing.assert_array_equal(third.actions[:-1], before.actions[1:])
    assert first.is_pad.tolist() == [True] + [False] * 7
    assert third.is_pad.tolist() == [False] * 8


def test_losses_and_errors_follow(data):
    loaded = data.calibration.loaded
    batch = next(data.calibration.batches(3))
    losses = action_losses(loaded, batch, seed=0)
    assert losses.shape == (3,) and torch.isfinite(losses).all()
    samples = [data.held_out[i] for i in range(4)]
    reference = reference_chunks(loaded, samples, 0)
    error = measure_action_error(
        lambda observation, noise: loaded.family.act(loaded, observation, noise) + 0.1,
        loaded,
        data.held_out,
    )
    scale = np.array(loaded.interface.action_std)
    assert error.to_reference == pytest.approx(np.sqrt(np.mean((0.1 / scale) ** 2)), rel=1e-4)
    truth = np.stack([s.actions[1 : 1 + CHUNK] for s in samples])
    valid = ~np.stack([s.is_pad[1 : 1 + CHUNK] for s in samples])
    distance = np.abs((reference - truth) / scale)
    expected = np.mean([d[v].mean() for d, v in zip(distance, valid, strict=True)])
    assert error.reference_l1_to_truth == pytest.approx(expected, rel=1e-4)


def test_diffusion_times_are_uniform(data):
    frames = data.calibration.frames
    times = torch.cat([draw_noise(data.calibration.loaded, frames, 0, d)[1] for d in range(20)])
    assert times.min() > 0 and times.max() <= 1
    assert times.mean() == pytest.approx(0.5, abs=0.05)
    assert times.var() == pytest.approx(1 / 12, abs=0.02)
