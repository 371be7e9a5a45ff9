"""EVO1: the stages are LeRobot's policy, captured, from noise that the driver does not draw."""

import json
import math

import composition
import half_file
import numpy as np
import pytest
import torch
from layer_groups import layers_of
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file, save_file
from tiny_evo1 import build_tiny_evo1
from tiny_policies import CAMERAS
from tiny_xvla import build_bart_tokenizer

from actquant.capture.policy import convert_f32
from actquant.common.errors import CheckpointError
from actquant.fidelity.parity import PROMPTS, ReferenceRunner, check_parity
from actquant.policies import checkpoint, load_policy
from actquant.policies.evo1 import Denoise, sampler, uniform
from actquant.policies.given_noise import given_noise

TOLERANCE = 1e-5
TASKS = ("put the cup on it", " Lift\n", "")
MEAN_STD = {kind: NormalizationMode.MEAN_STD for kind in ("STATE", "ACTION")}
SETTINGS = {
    "default": {},
    "pooled": {"return_cls_only": True, "normalization_mapping": MEAN_STD},
    "embodiments": {"num_categories": 3, "default_embodiment_id": 2},
    "one action": {"chunk": 1, "num_inference_timesteps": 5},
    "one camera": {"cameras": CAMERAS[:1], "empty_cameras": 1},
    "all views": {"max_views": 2, "max_text_length": 44},
    "other backbone": {
        "text_type": "qwen3",
        "tower": {"norm_type": "rms_norm", "use_qk_norm": True},
        "vlm_num_layers": None,
    },
    "gripper": {"binarize_gripper": True, "gripper_index": 3, "postprocess_action_dim": 5},
}
GRIPPER = {"gripper_threshold": -1.9, "gripper_above_threshold_value": 0.25}


def observation(face, seed: int, task: str = TASKS[0]):
    rng = np.random.default_rng(seed)
    size = (face.image_source_height, face.image_source_width, 3)
    images = {key: rng.integers(0, 256, size, np.uint8) for key in face.cameras}
    state = rng.uniform(-2, 1, len(face.state_names)).astype(np.float32)
    return {**images, "observation.state": state, "task": task}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = build_tiny_evo1(tmp_path_factory.mktemp("evo1") / "policy")
    return load_policy(folder, control_rate_hz=10)


def answer_of_lerobot(folder, cameras, raw, noise):
    """The chunk of LeRobot's policy with its backbone and processors, as LeRobot loads them."""
    config = PreTrainedConfig.from_pretrained(str(folder))
    config.vlm_model_name = str(folder / "vlm")
    policy = Evo1Policy.from_pretrained(folder, config=config)
    pre, post = make_pre_post_processors(config, pretrained_path=str(folder))
    drawn = torch.from_numpy(noise.reshape(1, -1) / 2 + 0.5)
    with torch.no_grad(), given_noise(drawn, function=torch.rand):
        chunk = policy.predict_action_chunk(checkpoint.batch(pre, cameras, [raw]))
    return post(chunk)[0].numpy()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_stages_are_the_policy_as_lerobot_loads_it(tmp_path, settings):
    folder = build_tiny_evo1(tmp_path / "policy", with_backbone=True, **settings)
    loaded = load_policy(folder)
    face, chunks = loaded.interface, []
    for seed, task in enumerate(TASKS):
        raw = observation(face, seed, task)
        noise = np.random.default_rng(7 + seed).standard_normal(face.noise_shape, np.float32)
        flat = torch.erf(torch.from_numpy(noise) / math.sqrt(2)).numpy()
        chunks.append(answer_of_lerobot(folder, face.cameras, raw, flat))
        for act in (loaded.family.act, composition.act):
            np.testing.assert_allclose(act(loaded, raw, noise), chunks[-1], atol=TOLERANCE, rtol=0)
    assert np.abs(chunks[0] - chunks[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_captured_program_is_the_policy(tmp_path, settings):
    folder = build_tiny_evo1(tmp_path / "policy", **settings)
    loaded = load_policy(folder, control_rate_hz=10)
    path = convert_f32(loaded, tmp_path / "policy.gguf")
    check_parity(path, loaded, n=3, runner=ReferenceRunner.from_file(path))
    check_parity(path, loaded)


@pytest.mark.parametrize("kind", half_file.TYPES)
def test_half_precision_weights_cost_less_than_pytorchs_own(loaded, tmp_path, kind):
    half_file.check_half_precision(loaded, kind, tmp_path, PROMPTS, 4)


def test_a_threshold_decides_about_the_gripper(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy", **SETTINGS["gripper"], **GRIPPER)
    loaded = load_policy(folder)
    chunks = []
    for seed in range(4):
        noise = np.random.default_rng(seed).standard_normal(loaded.interface.noise_shape)
        raw = observation(loaded.interface, seed)
        chunks.append(composition.act(loaded, raw, noise.astype(np.float32)))
    values = {round(float(value), 5) for value in np.stack(chunks)[..., 3].flatten()}
    assert values == {1.0, 0.25}


def test_a_gripper_that_never_moved_in_training_is_refused(tmp_path):
    settings = {"binarize_gripper": True, "normalization_mapping": MEAN_STD}
    folder = build_tiny_evo1(tmp_path / "policy", **settings)
    for file in folder.glob("policy_postprocessor*normalizer_processor.safetensors"):
        tensors = load_file(file)
        tensors["action.std"][6] = 0
        save_file(tensors, file)
    with pytest.raises(CheckpointError, match="action.std is 0 for the gripper, element 6"):
        load_policy(folder)


def test_every_view_counts_and_absent_ones_keep_their_places(tmp_path):
    """A policy with a third view that is never there is not one of two views."""
    folder = build_tiny_evo1(tmp_path / "policy")
    answers = []
    for views in (2, 3, 4):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_views": views}))
        loaded = load_policy(folder)
        raw = observation(loaded.interface, 0)
        answers.append(loaded.family.act(loaded, raw, np.zeros((5, 9), np.float32)))
        swapped = {**raw, CAMERAS[0]: raw[CAMERAS[1]], CAMERAS[1]: raw[CAMERAS[0]]}
        answers.append(loaded.family.act(loaded, swapped, np.zeros((5, 9), np.float32)))
    for index, answer in enumerate(answers):
        for other in answers[:index]:
            assert np.abs(answer - other).max() > 10 * TOLERANCE


def test_normal_noise_becomes_uniform():
    noise = torch.cat([torch.linspace(-6, 6, 10001), torch.tensor([0.0, 1e-7, -1e-12, 40.0])])
    expected = torch.erf(noise.double() / math.sqrt(2))
    torch.testing.assert_close(uniform(noise).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [4, 27, 37])
def test_steps_have_the_times_of_the_policys_own(tmp_path, steps):
    """999 k / steps is whole in some of them, where rounding decides."""
    loaded = load_policy(build_tiny_evo1(tmp_path / "policy", num_inference_timesteps=steps))
    head, seen = loaded.policy.model.action_head, []
    for block in head.transformer_blocks[:1]:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    raw, noise = observation(loaded.interface, 0), np.zeros((5, 9), np.float32)
    for act in (loaded.family.act, composition.act):
        act(loaded, raw, noise)
    assert len(seen) == 2 * steps
    for theirs, ours in zip(seen[:steps], seen[steps:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_the_first_step_starts_from_nothing():
    table = sampler(4)
    assert table.timesteps == (0.0, 0.25, 0.5, 0.75)
    assert [row[4] for row in table.coefficients] == [0.0, 1.0, 1.0, 1.0]
    assert [row[5] for row in table.coefficients] == [0.25] * 4


def test_actions_that_are_padding_move_nothing(loaded):
    (denoise,) = (m for m in loaded.family.modules(loaded).values() if isinstance(m, Denoise))
    x, context = torch.randn(1, 5, 9), torch.randn(1, 12, 64)
    other = x.clone()
    other[..., 7:] += 1
    for time in (0.0, 0.5):
        one, two = (
            denoise(x_t=y, timestep=torch.tensor([time]), context=context)["output"]
            for y in (x, other)
        )
        torch.testing.assert_close(one, two, atol=0, rtol=0)
        assert not one[..., 7:].any() and one[..., :7].all()


def test_the_loss_is_the_policys_own_and_has_gradients_everywhere(loaded, monkeypatch):
    policy = loaded.policy
    batch = loaded.batch([observation(loaded.interface, seed, TASKS[seed]) for seed in range(2)])
    batch["action"] = torch.randn(2, 5, 7)
    batch["action_is_pad"] = torch.arange(5)[None] >= torch.tensor([5, 3])[:, None]
    noise, time = torch.randn(2, *loaded.interface.noise_shape), torch.tensor([0.4, 0.85])
    patches = policy.model.embedder.model.vision_tower.embeddings.patch_embeddings.projection
    patches.requires_grad_(True)
    losses = loaded.family.action_loss(loaded, batch, noise, time)
    drawn = torch.erf(noise / math.sqrt(2)) / 2 + 0.5
    monkeypatch.setattr(torch, "rand_like", lambda *_: drawn)
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda *_: 1 - time)
    expected, _ = policy.forward(dict(batch), reduction="none")
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert patches.weight.grad.abs().max() > 0
    patches.requires_grad_(False)
    patches.weight.grad = None


def test_times_are_drawn_as_in_training(loaded):
    rng = np.random.default_rng(0)
    times = np.array([loaded.family.draw_time(loaded, rng) for _ in range(2000)])
    assert times.min() >= 0.02 and times.max() <= 0.98
    assert abs(times.mean() - 0.5) < 0.02 and abs(times.var() - 0.05) < 0.005


def test_every_weight_has_a_group(loaded):
    blocks = {f"{group}.{k}" for group in ("vision", "language", "expert") for k in range(2)}
    assert layers_of(loaded) == {"projection", *blocks}


def test_a_file_for_one_of_several_embodiments_says_so(tmp_path):
    loaded = load_policy(build_tiny_evo1(tmp_path / "policy", **SETTINGS["embodiments"]))
    assert loaded.remarks == (
        "of 3 embodiments, the file is for the number 2 (default_embodiment_id)",
    )


def test_weights_of_another_number_of_embodiments_are_refused(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy", num_categories=3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_categories": 2}))
    with pytest.raises(CheckpointError, match=r"unexpected \(14\): .*action_encoder.W1.bias"):
        load_policy(folder)


WRONG = {
    "observations": ({"n_obs_steps": 2}, {}, "not supported: n_obs_steps = 2"),
    "width": ({"embed_dim": 32}, {}, "its width is 64, embed_dim 32"),
    "cameras": ({"max_views": 1}, {}, "at most 1 camera"),
    "room": ({"max_text_length": 41}, {}, "max_text_length 41 leaves no room for a task"),
    "head": ({"action_head": "diffusion"}, {}, "not supported: action_head = 'diffusion'"),
    "gripper": (
        {"binarize_gripper": True, "gripper_index": 7},
        {},
        "gripper_index 7 is none of 7 actions",
    ),
    "actions": ({"postprocess_action_dim": 12}, {}, "12 numbers of action, wanted 1 to 9"),
    "state": (
        {
            "input_features": {
                CAMERAS[0]: {"type": "VISUAL", "shape": [3, 40, 56]},
                "observation.state": {"type": "STATE", "shape": [12]},
            }
        },
        {},
        r"12 numbers of state, wanted 1 to 8 \(max_state_dim\)",
    ),
    "steps": ({"num_inference_timesteps": 0}, {}, "num_inference_timesteps is 0"),
    "size": ({"image_resolution": [56, 56]}, {}, r"image_resolution \(56\)"),
    "window": (
        {},
        {"layer_types": ["sliding_attention"] * 3, "use_sliding_window": True},
        "attention in a sliding window is not supported",
    ),
    "frequencies": ({}, {"max_position_embeddings": 64}, "rotary embeddings of the type dynamic"),
}


@pytest.mark.parametrize(("config", "text", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_not_captured_is_refused(tmp_path, config, text, message):
    folder = build_tiny_evo1(tmp_path / "policy")
    for file, part, changes in (("config.json", None, config), ("vlm/config.json", "text", text)):
        content = json.loads((folder / file).read_text())
        (content["text_config"] if part else content).update(changes)
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_a_backbone_of_another_kind_is_refused(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy")
    build_bart_tokenizer(folder / "other")
    (folder / "other" / "config.json").write_text(json.dumps({"model_type": "bart"}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vlm_model_name": "other"}))
    with pytest.raises(CheckpointError, match="the backbone .*/other is of bart, not internvl"):
        load_policy(folder)


def test_a_language_model_of_another_kind_is_refused(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy", text_type="llama")
    with pytest.raises(CheckpointError, match="its language model is llama, supported: qwen2"):
        load_policy(folder)


def test_a_tokenizer_without_image_tokens_is_refused(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / "vlm" / name
        file.write_text(file.read_text().replace("IMG_CONTEXT", "IMAGE"))
    with pytest.raises(CheckpointError, match="has no token <IMG_CONTEXT>"):
        load_policy(folder)


def test_processor_steps_are_known_and_complete(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy")
    file = folder / "policy_preprocessor.json"
    whole = json.loads(file.read_text())
    without = [s for s in whole["steps"] if s["registry_name"] != "evo1_pad_state_processor"]
    file.write_text(json.dumps({**whole, "steps": without}))
    with pytest.raises(CheckpointError, match="lacks the step evo1_pad_state_processor"):
        load_policy(folder)
    extra = {"registry_name": "smolvla_new_line_processor", "config": {}}
    file.write_text(json.dumps({**whole, "steps": [*whole["steps"], extra]}))
    with pytest.raises(CheckpointError, match="smolvla_new_line_processor is not known"):
        load_policy(folder)


def test_statistics_as_wide_as_the_robot_are_padded_as_lerobot_does(tmp_path, loaded):
    """LeRobot's training overrides a checkpoint's statistics by the dataset's, unpadded."""
    folder = build_tiny_evo1(tmp_path / "policy")
    sizes = {"observation.state": 6, "action": 7}
    for file in folder.glob("policy_*normalizer_processor.safetensors"):
        tensors = load_file(file)
        cut = {
            name: value[: sizes[name.rpartition(".")[0]]].clone() for name, value in tensors.items()
        }
        save_file(cut, file)
    again = load_policy(folder)
    raw, noise = observation(again.interface, 0), np.zeros((5, 9), np.float32)
    answers = [policy.family.act(policy, raw, noise) for policy in (loaded, again)]
    np.testing.assert_array_equal(*answers)


def test_statistics_that_move_the_padding_are_refused(tmp_path):
    folder = build_tiny_evo1(tmp_path / "policy")
    for file in folder.glob("policy_preprocessor*normalizer_processor.safetensors"):
        tensors = load_file(file)
        tensors["observation.state.min"][6:] = 0
        save_file(tensors, file)
    with pytest.raises(CheckpointError, match="move element 6 of the state, which is padding"):
        load_policy(folder)
