"""ACT: the stages are LeRobot's policy, for every setting, and what cannot be said is refused."""

import json
from pathlib import Path

import composition
import numpy as np
import pytest
import torch
from layer_groups import layers_of
from lerobot.policies.act.modeling_act import ACTPolicy
from safetensors.torch import load_file, save_file
from tiny_cnn_policies import ACTION_DIM, STATE_DIM, build_tiny_act
from tiny_policies import CAMERAS

from actquant.common.errors import CheckpointError
from actquant.policies import load_policy

TOLERANCE = 1e-5
NO_NOISE = np.zeros(0, np.float32)
SETTINGS = (
    {},
    {"same_statistics": False},
    {"cameras": CAMERAS[:1], "use_vae": False},
    {"pre_norm": True, "feedforward_activation": "gelu", "n_decoder_layers": 2},
    {
        "normalization_mapping": {"VISUAL": "MIN_MAX", "STATE": "IDENTITY", "ACTION": "MIN_MAX"},
    },
)


def observation(seed: int, size=(48, 64), cameras=CAMERAS):
    rng = np.random.default_rng(seed)
    images = {key: rng.integers(0, 256, (*size, 3), np.uint8) for key in cameras}
    return {**images, "observation.state": rng.standard_normal(STATE_DIM).astype(np.float32)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_policy(build_tiny_act(tmp_path_factory.mktemp("act") / "policy"))


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=["default", "statistics", "one-camera", "pre-norm", "min-max"]
)
def test_the_stages_are_the_policy(tmp_path: Path, settings):
    loaded = load_policy(build_tiny_act(tmp_path / "policy", **settings))
    original = ACTPolicy.from_pretrained(tmp_path / "policy").eval()
    chunks = []
    for seed in range(2):
        raw = observation(seed, cameras=loaded.interface.cameras)
        with torch.no_grad():
            chunk = original.predict_action_chunk(loaded.batch([raw]))
        expected = loaded.postprocessor(chunk)[0].numpy()
        for got in (
            loaded.family.act(loaded, raw, NO_NOISE),
            composition.act(loaded, raw, NO_NOISE),
        ):
            np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
        chunks.append(expected)
    assert np.abs(chunks[0] - chunks[1]).max() > 100 * TOLERANCE


def test_the_interface_is_the_configs(loaded):
    face = loaded.interface
    assert (face.driver, face.sampler, face.noise_shape) == ("one_shot", None, (0,))
    assert (face.chunk_length, face.steps_per_chunk, face.observation_steps) == (6, 4, 1)
    assert (face.cameras, face.optional_cameras) == (CAMERAS, 0)
    assert (face.image_height, face.image_width, face.image_steps) == (48, 64, ())
    assert face.tokenizer_json is None and face.tokenizer_max_length == 0


def test_every_input_matters(loaded):
    raw = observation(0)
    expected = loaded.family.act(loaded, raw, NO_NOISE)
    for key in raw:
        changed = 255 - raw[key] if "images" in key else raw[key] + 1
        other = loaded.family.act(loaded, {**raw, key: changed}, NO_NOISE)
        assert np.abs(other - expected).max() > 100 * TOLERANCE


def test_the_loss_is_the_policys_own_per_sample_and_differentiable(tmp_path):
    loaded = load_policy(build_tiny_act(tmp_path / "policy"))
    loaded.policy.model.action_head.requires_grad_(True)
    batch = loaded.batch([observation(seed) for seed in range(3)])
    batch["action"] = torch.randn(3, 6, ACTION_DIM)
    batch["action_is_pad"] = torch.zeros(3, 6, dtype=torch.bool)
    losses = loaded.family.action_loss(loaded, batch, torch.zeros(3, 0), torch.ones(3))
    mean, _ = loaded.policy.forward(dict(batch))  # in evaluation: no latent, so no KL term
    torch.testing.assert_close(losses.mean(), mean)
    batch["action_is_pad"][1, 2:] = True
    padded = loaded.family.action_loss(loaded, batch, torch.zeros(3, 0), torch.ones(3))
    single = {key: value[1:2] for key, value in batch.items() if isinstance(value, torch.Tensor)}
    mean, _ = loaded.policy.forward(single)
    torch.testing.assert_close(padded[1], mean)
    assert padded[0] == losses[0] and padded[1] != losses[1]
    padded.sum().backward()
    assert loaded.policy.model.action_head.weight.grad.abs().max() > 0


def test_every_weight_of_the_stages_has_a_group(loaded):
    assert layers_of(loaded, but="vae") == {
        *(f"vision.{k}" for k in range(5)),
        *("expert.encoder.0", "expert.encoder.1", "expert.decoder.0"),
        "projection",
    }
    with pytest.raises(CheckpointError, match="no group"):
        loaded.family.group_of("model.vae_encoder.layers.0.linear1.weight")


def test_a_missing_camera_is_refused(loaded):
    raw = observation(0, cameras=CAMERAS[:1])
    with pytest.raises(CheckpointError, match=f"lacks {CAMERAS[1]}"):
        loaded.family.act(loaded, raw, NO_NOISE)


def test_missing_statistics_of_images_are_named(tmp_path):
    folder = build_tiny_act(tmp_path / "policy")
    (file,) = folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors")
    keep = {k: v for k, v in load_file(file).items() if k != f"{CAMERAS[1]}.std"}
    save_file(keep, file)
    with pytest.raises(CheckpointError, match=rf"missing: {CAMERAS[1]}\.std; the dataset"):
        load_policy(folder)


def test_missing_keys_are_listed(tmp_path):
    folder = build_tiny_act(tmp_path / "policy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder.layers.0.self_attn.in_proj_weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \(1\): .*self_attn\.in_proj_weight"):
        load_policy(folder)


def test_temporal_ensembling_is_said_to_be_the_callers(tmp_path, caplog):
    folder = build_tiny_act(tmp_path / "policy", temporal_ensemble_coeff=0.01, n_action_steps=1)
    assert load_policy(folder).interface.steps_per_chunk == 1
    assert "temporal_ensemble_coeff" in caplog.text


def test_an_environment_state_is_refused(tmp_path):
    folder = build_tiny_act(tmp_path / "policy")
    config = json.loads((folder / "config.json").read_text())
    config["input_features"]["observation.environment_state"] = {"type": "ENV", "shape": [3]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not supported: env_state_feature"):
        load_policy(folder)
