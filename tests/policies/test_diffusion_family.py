"""Diffusion Policy: the stages and the sampler's table are LeRobot's policy, from given noise."""

import json
from pathlib import Path

import composition
import numpy as np
import pytest
import torch
from layer_groups import layers_of
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from safetensors.torch import load_file, save_file
from tiny_cnn_policies import ACTION_DIM, STATE_DIM, build_tiny_diffusion
from tiny_policies import CAMERAS

from actquant.common.errors import CheckpointError
from actquant.policies import load_policy

TOLERANCE = 1e-5
RESIZED = {"resize_shape": (44, 52), "crop_ratio": 0.9, "crop_shape": None}
SETTINGS = {
    "ddpm": {},
    "ddim": {"noise_scheduler_type": "DDIM"},
    "all-steps": {"num_inference_steps": None, "clip_sample_range": 0.7},
    "sample": {"prediction_type": "sample", "noise_scheduler_type": "DDIM", **RESIZED},
    "statistics": {"same_statistics": False, "prediction_type": "sample"},
    "separate": {"use_separate_rgb_encoder_per_camera": True, "use_film_scale_modulation": False},
    "one-observation": {"n_obs_steps": 1, "use_group_norm": True, "crop_shape": None},
    "one-camera": {
        "cameras": CAMERAS[:1],
        "use_separate_rgb_encoder_per_camera": True,
        "n_obs_steps": 3,
        "clip_sample": False,
        "beta_schedule": "linear",
    },
}


def observation(face, seed: int, size=(48, 64)):
    rng = np.random.default_rng(seed)
    time = (face.observation_steps,) if face.observation_steps > 1 else ()
    images = {key: rng.integers(0, 256, (*time, *size, 3), np.uint8) for key in face.cameras}
    state = rng.standard_normal((*time, STATE_DIM)).astype(np.float32)
    return {**images, "observation.state": state}


def draw(face, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(face.noise_shape, dtype=np.float32)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_policy(build_tiny_diffusion(tmp_path_factory.mktemp("diffusion") / "policy"))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_stages_are_the_policy(tmp_path: Path, settings):
    loaded = load_policy(build_tiny_diffusion(tmp_path / "policy", **settings))
    face = loaded.interface
    chunks = []
    for seed in range(2):
        raw, noise = observation(face, seed), draw(face, 5)
        expected = loaded.family.act(loaded, raw, noise)
        assert expected.shape == (face.chunk_length, ACTION_DIM)
        got = composition.act(loaded, raw, noise)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
        chunks.append(expected)
    assert np.abs(chunks[0] - chunks[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_the_reference_is_lerobots_select_action(tmp_path, kind):
    """With torch's own draws, observation by observation through LeRobot's queues."""
    folder = build_tiny_diffusion(tmp_path / "policy", noise_scheduler_type=kind)
    loaded = load_policy(folder)
    face = loaded.interface
    original = DiffusionPolicy.from_pretrained(folder).eval()
    raw = observation(face, 0)
    whole = {k: v for k, v in loaded.batch([raw]).items() if isinstance(v, torch.Tensor)}
    batches = [{key: value[:, t] for key, value in whole.items()} for t in range(2)]
    original.config.n_action_steps = 1  # a new chunk with the second observation
    original.reset()
    original.select_action(dict(batches[0]))  # fills the queues with the first observation
    torch.manual_seed(3)
    action = loaded.postprocessor(original.select_action(dict(batches[1])))[0].numpy()
    torch.manual_seed(3)
    shape = (face.noise_rows, face.noise_dim)
    draws = [torch.randn(1, *shape)[0] for _ in range(1 + face.sampler.fresh_count)]
    noise = torch.stack(draws).numpy().reshape(face.noise_shape)
    got = loaded.family.act(loaded, raw, noise)
    np.testing.assert_allclose(got[0], action, atol=TOLERANCE, rtol=0)


def test_the_interface_is_the_configs(loaded):
    face = loaded.interface
    assert (face.driver, face.observation_steps, face.noise_shape) == ("sampling", 2, (5, 8, 4))
    assert (face.chunk_length, face.steps_per_chunk) == (4, 4)
    assert face.sampler.timesteps == (16, 12, 8, 4, 0)
    assert face.image_steps == ("center_crop height=40 width=48",)
    assert (face.image_height, face.image_width) == (40, 48)
    assert (face.image_source_height, face.image_source_width) == (48, 64)
    assert loaded.family.action_window(loaded) == range(-1, 7)


def test_state_images_and_every_noise_matter(loaded):
    raw, noise = observation(loaded.interface, 0), draw(loaded.interface, 1)
    expected = loaded.family.act(loaded, raw, noise)
    for key in raw:
        for t in range(2):
            changed = raw[key].copy()
            changed[t] = 255 - changed[t] if "images" in key else changed[t] + 1
            other = loaded.family.act(loaded, {**raw, key: changed}, noise)
            assert np.abs(other - expected).max() > 10 * TOLERANCE, (key, t)
    for k in range(len(noise)):
        changed = noise.copy()
        changed[k] += 1
        assert np.abs(loaded.family.act(loaded, raw, changed) - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize(
    "settings", [{}, {"prediction_type": "sample", "do_mask_loss_for_padding": True}]
)
def test_the_loss_is_the_policys_own_per_sample(tmp_path, settings, monkeypatch):
    loaded = load_policy(build_tiny_diffusion(tmp_path / "policy", **settings))
    model = loaded.policy.diffusion
    model.unet.final_conv.requires_grad_(True)
    batch = loaded.batch([observation(loaded.interface, seed) for seed in range(3)])
    batch["action"] = torch.randn(3, 8, ACTION_DIM)
    batch["action_is_pad"] = torch.arange(8)[None] >= torch.tensor([8, 3, 5])[:, None]
    noise, time = torch.randn(3, *loaded.interface.noise_shape), torch.tensor([0.01, 0.55, 1.0])
    losses = loaded.family.action_loss(loaded, batch, noise, time)
    assert losses.shape == (3,)
    timesteps = torch.tensor([0, 10, 19])
    for index in range(3):
        one = slice(index, index + 1)
        single = {k: v[one] for k, v in batch.items() if isinstance(v, torch.Tensor)}
        monkeypatch.setattr(torch, "randn", lambda *_, i=one, **__: noise[i, 0])
        monkeypatch.setattr(torch, "randint", lambda *_, i=one, **__: timesteps[i])
        expected, _ = loaded.policy.forward(single)
        torch.testing.assert_close(losses[index], expected)
    losses.sum().backward()
    assert model.unet.final_conv[1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("separate", [False, True])
def test_every_weight_has_a_group(tmp_path, separate):
    folder = tmp_path / "policy"
    build_tiny_diffusion(folder, use_separate_rgb_encoder_per_camera=separate)
    loaded = load_policy(folder)
    prefixes = ("vision.0", "vision.1") if separate else ("vision",)
    assert layers_of(loaded) == {
        *(f"{prefix}.{k}" for prefix in prefixes for k in (0, 4, 5, 6, 7)),
        *("expert.down.0", "expert.down.1", "expert.mid.0", "expert.mid.1", "expert.up.0"),
        *("expert.final", "projection"),
    }


def edit_config(folder: Path, **changes):
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


def test_a_checkpoint_of_a_compiled_unet_is_loaded(tmp_path, loaded):
    folder = build_tiny_diffusion(tmp_path / "policy")
    tensors = load_file(folder / "model.safetensors")
    renamed = {k.replace(".unet.", ".unet._orig_mod."): v for k, v in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    edit_config(folder, compile_model=True)
    compiled = load_policy(folder)
    assert list(dict(compiled.policy.named_parameters())) == list(
        dict(loaded.policy.named_parameters())
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_action_steps": 8}, "n_action_steps is 8, at most .* = 7"),
        ({"num_inference_steps": 21}, "21 inference steps"),
        ({"beta_schedule": "sigmoid2"}, "sigmoid2 is not implemented"),
    ],
)
def test_settings_that_cannot_be_captured_are_refused(tmp_path, changes, message):
    folder = build_tiny_diffusion(tmp_path / "policy")
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_missing_statistics_and_cameras_are_named(tmp_path):
    folder = build_tiny_diffusion(tmp_path / "policy")
    loaded = load_policy(folder)
    raw = observation(loaded.interface, 0)
    del raw[CAMERAS[0]]
    with pytest.raises(CheckpointError, match=f"lacks {CAMERAS[0]}"):
        loaded.batch([raw])
    (file,) = folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors")
    keep = {k: v for k, v in load_file(file).items() if not k.endswith(".max")}
    save_file(keep, file)
    with pytest.raises(CheckpointError, match=r"missing: observation\.state\.max"):
        load_policy(folder)
