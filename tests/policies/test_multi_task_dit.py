"""Multi-task DiT: the stages are LeRobot's policy under both objectives, at any prompt length."""

import composition
import numpy as np
import pytest
import torch
from layer_groups import layers_of
from lerobot.policies.multi_task_dit import modeling_multi_task_dit as lerobot_dit
from safetensors.torch import load_model
from tiny_cnn_policies import ACTION_DIM, STATE_DIM
from tiny_multi_task_dit import build_tiny_multi_task_dit
from tiny_policies import CAMERAS

from actquant.common.errors import CheckpointError
from actquant.policies import load_policy
from actquant.policies.given_noise import given_noise

TOLERANCE = 1e-5
PROMPTS = ("put the Cup on  it", "lift", "the the put the tray's lid")
SETTINGS = {
    "ddpm": {},
    "ddim": {"noise_scheduler_type": "DDIM", "prediction_type": "sample", "legacy_end": True},
    "flow": {"objective": "flow_matching", "same_statistics": False},
    "attention": {
        "objective": "flow_matching",
        "use_rope": False,
        "use_positional_encoding": True,
        "image_resize_shape": (40, 44),
        "tokenizer_padding": "longest",
    },
    "separate": {"use_separate_rgb_encoder_per_camera": True, "n_obs_steps": 1},
}


def observation(face, seed: int, task: str):
    rng = np.random.default_rng(seed)
    time = (face.observation_steps,) if face.observation_steps > 1 else ()
    images = {key: rng.integers(0, 256, (*time, 48, 64, 3), np.uint8) for key in face.cameras}
    state = rng.standard_normal((*time, STATE_DIM)).astype(np.float32)
    return {**images, "observation.state": state, "task": task}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_policy(build_tiny_multi_task_dit(tmp_path_factory.mktemp("dit") / "policy"))


def original(loaded):
    """LeRobot's own policy with the checkpoint's weights, untouched by us."""
    policy = loaded.family.make(loaded.config).eval()
    load_model(policy, str(loaded.folder / "model.safetensors"))
    return policy


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_stages_are_the_policy(tmp_path, settings):
    loaded = load_policy(build_tiny_multi_task_dit(tmp_path / "policy", **settings))
    face, policy = loaded.interface, original(loaded)
    chunks = []
    for seed, task in enumerate(PROMPTS):
        raw = observation(face, seed, task)
        noise = np.random.default_rng(7).standard_normal(face.noise_shape, dtype=np.float32)
        draws = torch.from_numpy(noise.reshape(-1, 1, face.noise_rows, face.noise_dim))
        with torch.no_grad(), given_noise(*draws):
            chunk = policy._generate_actions(policy._prepare_batch(loaded.batch([raw])))
        expected = loaded.postprocessor(chunk)[0].numpy()
        for act in (loaded.family.act, composition.act):
            np.testing.assert_allclose(act(loaded, raw, noise), expected, atol=TOLERANCE, rtol=0)
        chunks.append(expected)
    assert np.abs(chunks[0] - chunks[1]).max() > 100 * TOLERANCE


def test_the_prompt_matters(loaded):
    noise = np.zeros(loaded.interface.noise_shape, np.float32)
    raw = [observation(loaded.interface, 0, task) for task in PROMPTS[:2]]
    first, second = (loaded.family.act(loaded, x, noise) for x in raw)
    assert np.abs(first - second).max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [{}, {"objective": "flow_matching", "sigma_min": 0.1, "do_mask_loss_for_padding": True}],
    ids=["diffusion", "flow"],
)
def test_the_loss_is_the_policys_own_per_sample(tmp_path, settings, monkeypatch):
    loaded = load_policy(build_tiny_multi_task_dit(tmp_path / "policy", **settings))
    face, policy = loaded.interface, original(loaded)
    loaded.policy.noise_predictor.output_proj.requires_grad_(True)
    batch = loaded.batch([observation(face, seed, "lift") for seed in range(3)])
    batch["action"] = torch.randn(3, 8, ACTION_DIM)
    batch["action_is_pad"] = torch.arange(8)[None] >= torch.tensor([8, 3, 5])[:, None]
    noise, time = torch.randn(3, *face.noise_shape), torch.tensor([0.01, 0.55, 1.0])
    losses = loaded.family.action_loss(loaded, batch, noise, time)
    first = noise.reshape(3, -1, 8, ACTION_DIM)[:, 0]
    timesteps = torch.tensor([0, 10, 19])
    for index in range(3):
        one = slice(index, index + 1)
        single = {k: v[one] for k, v in batch.items() if isinstance(v, torch.Tensor)}
        monkeypatch.setattr(torch, "randn_like", lambda *_, i=one: first[i])
        monkeypatch.setattr(torch, "randint", lambda *_, i=one, **__: timesteps[i])
        monkeypatch.setattr(
            policy.objective, "_sample_timesteps", lambda *_, i=one: 1 - time[i], raising=False
        )
        expected, _ = policy.forward(single)
        torch.testing.assert_close(losses[index], expected)
    losses.sum().backward()
    assert loaded.policy.noise_predictor.output_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("separate", [False, True])
def test_every_weight_has_a_group(tmp_path, separate):
    loaded = load_policy(
        build_tiny_multi_task_dit(
            tmp_path / "policy", use_separate_rgb_encoder_per_camera=separate, use_rope=False
        )
    )
    towers = ("vision.0", "vision.1") if separate else ("vision",)
    assert layers_of(loaded) == {
        *(f"{tower}.{k}" for tower in towers for k in range(2)),
        *(f"{part}.{k}" for part in ("language", "expert") for k in range(2)),
        "projection",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "flow_matching", "integration_method": "rk4"}, "integration_method 'rk4'"),
        ({"tokenizer_padding_side": "left"}, "tokenizer_padding_side = 'left'"),
        ({"n_action_steps": 8}, "n_action_steps is 8"),
    ],
)
def test_settings_that_cannot_be_captured_are_refused(tmp_path, settings, message):
    folder = build_tiny_multi_task_dit(tmp_path / "policy", **settings)
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_clips_own_weights_are_neither_needed_nor_left_replaced(loaded):
    assert not (loaded.folder / "clip" / "model.safetensors").exists()
    assert lerobot_dit.CLIPTextModel.__name__ == "CLIPTextModel"
    assert loaded.interface.cameras == CAMERAS and loaded.interface.tokenizer_max_length == 24
