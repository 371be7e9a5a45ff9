"""X-VLA: the stages are LeRobot's policy, captured, at any action space."""

import copy

import composition
import half_file
import numpy as np
import pytest
import torch
from layer_groups import layers_of
from safetensors.torch import load_file, save_file
from tiny_policies import CAMERAS
from tiny_xvla import build_tiny_xvla

from actquant.capture.policy import convert_f32
from actquant.fidelity.parity import PROMPTS, ReferenceRunner, check_parity
from actquant.policies import load_policy
from actquant.policies.xvla import sampler

TOLERANCE = 1e-5
SETTINGS = {
    "auto": {"num_image_views": 3},
    "grippers": {"action_mode": "ee6d", "action_dim": 20},
    "one camera": {"cameras": CAMERAS[:1]},
    "padded": {"image": (20, 36), "resize_imgs_with_padding": (32, 32)},
    "heterogeneous": {"use_hetero_proj": True},
}


def observation(face, seed: int, task: str = "put the cup on it"):
    rng = np.random.default_rng(seed)
    size = (face.image_source_height, face.image_source_width, 3)
    images = {key: rng.integers(0, 256, size, np.uint8) for key in face.cameras}
    state = rng.standard_normal(len(face.state_names)).astype(np.float32)
    return {**images, "observation.state": state, "task": task}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_policy(
        build_tiny_xvla(tmp_path_factory.mktemp("xvla") / "policy", num_image_views=3),
        control_rate_hz=10,
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_stages_are_the_policy(tmp_path, settings):
    loaded = load_policy(build_tiny_xvla(tmp_path / "policy", **settings), control_rate_hz=10)
    noise = np.random.default_rng(7).standard_normal(loaded.interface.noise_shape, np.float32)
    chunks = []
    for seed in range(2):
        raw = observation(loaded.interface, seed)
        chunks.append(loaded.family.act(loaded, raw, noise))
        got = composition.act(loaded, raw, noise)
        np.testing.assert_allclose(got, chunks[-1], atol=TOLERANCE, rtol=0)
    assert np.abs(chunks[0] - chunks[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("settings", list(SETTINGS.values())[:4], ids=list(SETTINGS)[:4])
def test_the_captured_program_is_the_policy(tmp_path, settings):
    loaded = load_policy(build_tiny_xvla(tmp_path / "policy", **settings), control_rate_hz=10)
    path = convert_f32(loaded, tmp_path / "policy.gguf")
    check_parity(path, loaded, n=3, runner=ReferenceRunner.from_file(path))
    check_parity(path, loaded)


@pytest.mark.parametrize("kind", half_file.TYPES)
def test_half_precision_weights_cost_less_than_pytorchs_own(loaded, tmp_path, kind):
    half_file.check_half_precision(loaded, kind, tmp_path, PROMPTS, 4)


def test_a_view_that_is_absent_changes_the_answer_and_is_not_the_view_after_it(loaded):
    noise = np.zeros(loaded.interface.noise_shape, np.float32)
    raw = observation(loaded.interface, 0)
    first, second = ({k: v for k, v in raw.items() if k != camera} for camera in CAMERAS)
    whole, without_first, without_second = (
        loaded.family.act(loaded, x, noise) for x in (raw, first, second)
    )
    assert np.abs(whole - without_second).max() > 100 * TOLERANCE
    assert np.abs(without_first - without_second).max() > 100 * TOLERANCE


def test_the_sampler_mixes_the_initial_noise_with_the_prediction():
    table = sampler(4)
    assert table.timesteps == (1.0, 0.75, 0.5, 0.25)
    assert [row[5] for row in table.coefficients] == [0.25, 0.5, 0.75, 1.0]
    assert [row[7] for row in table.coefficients] == [0.75, 0.5, 0.25, 0.0]


def test_the_loss_is_the_policys_own(loaded, monkeypatch):
    policy = loaded.policy
    batch = loaded.batch([observation(loaded.interface, 0)])
    batch["action"] = torch.randn(1, loaded.interface.chunk_length, 7)
    noise, time = torch.randn(1, *loaded.interface.noise_shape), torch.tensor([0.6])
    loss = loaded.family.action_loss(loaded, batch, noise, time)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: time.clone())
    monkeypatch.setattr(torch, "randn_like", lambda *_: noise)
    with torch.no_grad():
        expected, _ = policy.forward(copy.copy(batch))
    torch.testing.assert_close(loss, expected[None])


def test_weights_in_the_layout_of_older_checkpoints(tmp_path):
    folder = build_tiny_xvla(tmp_path / "policy")
    before = load_policy(folder, control_rate_hz=10)
    weights = load_file(folder / "model.safetensors")
    prefix = "model.vlm."
    projection = weights.pop(f"{prefix}multi_modal_projector.image_projection.weight")
    weights[f"{prefix}image_projection"] = projection.T.contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    after = load_policy(folder, control_rate_hz=10)
    noise = np.zeros(before.interface.noise_shape, np.float32)
    raw = observation(before.interface, 0)
    answers = [policy.family.act(policy, raw, noise) for policy in (before, after)]
    np.testing.assert_array_equal(*answers)


def test_every_weight_has_a_group(loaded):
    assert layers_of(loaded)
