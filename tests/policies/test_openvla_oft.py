"""The policy is what other people's modules make of the same checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F  # noqa: N812
from actquant_runtime._core import preprocess_image
from openvla_oft_checkpoint import STEP, Sizes, build_openvla_oft
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from actquant.fidelity.parity import golden_observations
from actquant.format.image_steps import apply_image_steps
from actquant.policies import LoadedPolicy, load_policy
from actquant.policies.openvla_oft import images

TOLERANCE = 1e-5
HEADS = 16
SUITE = "libero_spatial_no_noops"
PROMPTS = ("Put the cup on the tray", "lift", "the the the put put put the the tower")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; do not change it, copy it."""
    return build_openvla_oft(tmp_path_factory.mktemp("policy") / "oft")


@pytest.fixture(scope="module")
def oft(folder: Path) -> LoadedPolicy:
    return load_policy(folder)


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder, as it has them."""
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    for part in ("action_head", "proprio_projector"):
        content = torch.load(folder / f"{part}--{STEP}_checkpoint.pt", weights_only=True)
        found |= {f"{part}.{key.removeprefix('module.')}": value for key, value in content.items()}
    return {key: value.float() for key, value in found.items()}


def observations(face, n: int = 3) -> list[dict]:
    generator = np.random.default_rng(0)
    return [
        {
            **{c: generator.integers(0, 256, (40, 56, 3), np.uint8) for c in face.cameras},
            "observation.state": generator.standard_normal(len(face.state_names), np.float32),
            "task": PROMPTS[index % len(PROMPTS)],
        }
        for index in range(n)
    ]


def rename(tensors, prefix: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors under a prefix, their names changed by all replacements in order."""
    result = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            key = key[len(prefix) :]
            for old, new in names.items():
                key = key.replace(old, new)
            result[key] = value
    return result


def rename_last_norm(tensors: dict[str, torch.Tensor], name: str):
    for key in ("norm.weight", "norm.bias"):
        tensors[key.replace("norm", name)] = tensors.pop(key)


def split_qkv(tensors: dict[str, torch.Tensor], names: tuple[str, str, str]):
    for key in [key for key in tensors if "QKV" in key]:
        for name, part in zip(names, tensors.pop(key).chunk(3), strict=True):
            tensors[key.replace("QKV", name)] = part


def dino_reference(tensors, sizes: Sizes) -> Dinov2WithRegistersModel:
    width, hidden, blocks = sizes.dino
    config = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        mlp_ratio=hidden // width,
        image_size=sizes.image,
        patch_size=14,
        num_register_tokens=4,
        attn_implementation="eager",
    )
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "blocks.": "encoder.layer.",
        "attn.qkv": "attention.attention.QKV",
        "attn.proj": "attention.output.dense",
        "ls1.scale_factor": "layer_scale1.lambda1",
        "ls2.scale_factor": "layer_scale2.lambda1",
    }
    state = rename(tensors, "vision_backbone.featurizer.", names)
    rename_last_norm(state, "layernorm")
    split_qkv(state, ("query", "key", "value"))
    positions = state["embeddings.position_embeddings"]
    state["embeddings.position_embeddings"] = F.pad(positions, (0, 0, 1, 0))
    state["embeddings.mask_token"] = torch.zeros(1, width)
    model = Dinov2WithRegistersModel(config).eval()
    model.load_state_dict(state)
    return model


def siglip_reference(tensors, sizes: Sizes) -> SiglipVisionModel:
    width, hidden, blocks = sizes.siglip
    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        image_size=sizes.image,
        patch_size=14,
        hidden_act="gelu",
        vision_use_head=False,
        attn_implementation="eager",
    )
    names = {
        "patch_embed.proj": "embeddings.patch_embedding",
        "pos_embed": "embeddings.position_embedding.weight",
        "blocks.": "encoder.layers.",
        "attn.qkv": "self_attn.QKV",
        "attn.proj": "self_attn.out_proj",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
    }
    state = rename(tensors, "vision_backbone.fused_featurizer.", names)
    state = {key: value for key, value in state.items() if not key.startswith("attn_pool")}
    rename_last_norm(state, "post_layernorm")
    split_qkv(state, ("q_proj", "k_proj", "v_proj"))
    state["embeddings.position_embedding.weight"] = state["embeddings.position_embedding.weight"][0]
    model = SiglipVisionModel(config).eval()
    wanted = model.state_dict()
    prefix = "" if "embeddings.patch_embedding.weight" in wanted else "vision_model."
    model.load_state_dict({prefix + key: value for key, value in state.items()})
    return model


def llama_reference(tensors, sizes: Sizes) -> LlamaForCausalLM:
    width, hidden, layers = sizes.language
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=sizes.heads,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(rename(tensors, "language_model.", {}))
    return model


def mlp(tensors, prefix: str, x: torch.Tensor, layers: int) -> torch.Tensor:
    for index in range(1, layers + 1):
        weight, bias = (tensors[f"{prefix}fc{index}.{kind}"] for kind in ("weight", "bias"))
        x = F.linear(x if index == 1 else F.gelu(x), weight, bias)
    return x


def head(tensors, x: torch.Tensor) -> torch.Tensor:
    def layer(name: str, x: torch.Tensor, norm: bool) -> torch.Tensor:
        weight, bias = (tensors[f"action_head.model.{name}.{k}"] for k in ("weight", "bias"))
        return F.layer_norm(x, weight.shape, weight, bias) if norm else F.linear(x, weight, bias)

    x = layer("fc1", layer("layer_norm1", x, True), False).relu()
    for index in range(2):
        block = f"mlp_resnet_blocks.{index}.ffn"
        x = x + layer(f"{block}.1", layer(f"{block}.0", x, True), False).relu()
    return layer("fc2", layer("layer_norm2", x, True), False)


def reference_features(tensors, image: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """image [3, H, W] in [0, 1] -> [1, T, D]; both models whole, asked for all their features."""
    towers = (dino_reference(tensors, sizes), siglip_reference(tensors, sizes))
    normalizations = (
        ([0.484375, 0.455078125, 0.40625], [0.228515625, 0.2236328125, 0.224609375]),
        ([0.5] * 3, [0.5] * 3),
    )
    features = []
    for tower, (mean, std), skipped in zip(towers, normalizations, (5, 0), strict=True):
        pixels = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        states = tower(pixels[None], output_hidden_states=True).hidden_states
        features.append(states[-2][:, skipped:])
    return mlp(tensors, "projector.", torch.cat(features, dim=2), 3)


def reference_actions(folder: Path, tensors, pixels, state, task: str, sizes: Sizes) -> np.ndarray:
    """pixels [C, 3, H, W] in [0, 1] -> [8, A] in robot units, as the published inference goes."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = f"In: What action should the robot take to {task.lower()}?\nOut:"
    slots = 8 * sizes.action_dim
    prompt_ids = [*tokenizer.encode(prompt).ids, tokenizer.token_to_id("▁")]
    ids = torch.tensor([[*prompt_ids, *[1] * slots, 2]])
    llama = llama_reference(tensors, sizes)
    embedded = llama.get_input_embeddings()(ids)
    embedded[:, len(prompt_ids) : -1] = 0
    statistics = json.loads((folder / "dataset_statistics.json").read_text())[SUITE]
    inserted = [reference_features(tensors, image, sizes) for image in pixels]
    if state is not None:
        low, high = (np.array(statistics["proprio"][name]) for name in ("q01", "q99"))
        normalised = np.clip(2 * (state - low) / (high - low + 1e-8) - 1, -1, 1)
        token = mlp(tensors, "proprio_projector.", torch.tensor(normalised).float(), 2)
        inserted.append(token[None, None])
    sequence = torch.cat([embedded[:, :1], *inserted, embedded[:, 1:]], dim=1)
    length = sequence.shape[1]
    hidden = llama(
        inputs_embeds=sequence,
        attention_mask=torch.zeros(1, 1, length, length),
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states[-1]
    begin = sum(x.shape[1] for x in inserted) + len(prompt_ids) - 1
    normalised = head(tensors, hidden[0, begin : begin + slots].reshape(8, -1)).numpy()
    low, high = (np.array(statistics["action"][name]) for name in ("q01", "q99"))
    scaled = 0.5 * (normalised + 1) * (high - low + 1e-8) + low
    return np.where(statistics["action"]["mask"], scaled, normalised)


def test_vision_is_dinov2_and_siglip_up_to_their_last_block(oft, tensors):
    image = torch.rand(3, 28, 28)
    with torch.no_grad():
        expected = reference_features(tensors, image, Sizes())
        got = oft.policy.embed_image(image[None])
    assert got.shape == (1, 4, 64)
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_actions_are_those_of_the_published_inference(oft, folder, tensors):
    for observation in observations(oft.interface):
        (pixels,) = oft.batch([observation])["images"]
        got = oft.family.act(oft, observation, np.zeros(0, np.float32))
        with torch.no_grad():
            state, task = observation["observation.state"], observation["task"]
            expected = reference_actions(folder, tensors, pixels, state, task, Sizes())
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("cameras", [1, 2])
def test_a_policy_without_state_and_with_one_camera(tmp_path, cameras):
    sizes = Sizes(state_dim=None)
    folder = build_openvla_oft(tmp_path / "oft", sizes, ddp=False, num_images_in_input=cameras)
    loaded = load_policy(folder)
    face = loaded.interface
    assert (len(face.cameras), face.state_names, face.state_padded_dim) == (cameras, (), 0)
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    content = torch.load(folder / f"action_head--{STEP}_checkpoint.pt", weights_only=True)
    found |= {f"action_head.{key}": value for key, value in content.items()}
    found = {key: value.float() for key, value in found.items()}
    (observation,) = observations(face, 1)
    (pixels,) = loaded.batch([observation])["images"]
    with torch.no_grad():
        expected = reference_actions(folder, found, pixels, None, PROMPTS[0], sizes)
    got = loaded.family.act(loaded, observation, np.zeros(0, np.float32))
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def test_images_are_resized_by_lanczos_and_cropped_to_nine_tenths():
    generator = np.random.default_rng(0)
    for height, width in ((40, 56), (28, 20), (28, 28)):
        small = generator.integers(0, 256, (7, 7, 3), np.uint8)
        pixels = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
        got = images.prepare(torch.from_numpy(pixels), 28, center_crop=False) * 255
        expected = np.array(Image.fromarray(pixels).resize((28, 28), Image.Resampling.LANCZOS))
        # Pillow rounds between rows and columns, too.
        assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() <= 1.01
        cropped = images.prepare(torch.from_numpy(pixels), 28, center_crop=True)
        side = 0.9**0.5
        middle = torch.tensor([[[side, 0, 0], [0, side, 0]]])
        grid = F.affine_grid(middle, [1, 3, 28, 28], align_corners=True)
        sampled = F.grid_sample(got[None] / 255, grid, mode="bilinear", align_corners=True)[0]
        torch.testing.assert_close(cropped, sampled, atol=1e-5, rtol=0)


def test_no_rounding_of_a_pixel_tips_in_the_runtime(oft):
    """One level of one pixel would move the actions by a hundred times the runtime's own error."""
    size = oft.interface.image_height
    steps = images.steps(size, center_crop=False)
    for x in golden_observations(oft, n=16):
        for camera in oft.interface.cameras:
            image = x.observation[camera]
            expected = images.prepare(torch.from_numpy(image), size, center_crop=False).numpy()
            got = preprocess_image(image, list(steps), size, size, 1.0, 0.0)
            np.testing.assert_array_equal(got, expected)
            by_format = apply_image_steps(image, steps).numpy() / np.float32(255)
            np.testing.assert_array_equal(by_format, expected)


def test_batches_of_several_prompts_are_as_one_by_one(oft):
    several = observations(oft.interface)
    noise = np.zeros(0, np.float32)
    together = oft.family.predict(oft, several, torch.zeros(0))
    for row, observation in zip(together, several, strict=True):
        np.testing.assert_allclose(row, oft.family.act(oft, observation, noise), atol=TOLERANCE)


def test_everything_that_is_observed_matters(oft):
    (observation,) = observations(oft.interface, 1)
    noise = np.zeros(0, np.float32)
    expected = oft.family.act(oft, observation, noise)
    first, second = oft.interface.cameras
    changed = (
        {"task": "zz"},
        {"observation.state": -observation["observation.state"]},
        {first: 255 - observation[first]},
        {second: 255 - observation[second]},
        {first: observation[second], second: observation[first]},
    )
    for change in changed:
        other = oft.family.act(oft, {**observation, **change}, noise)
        assert np.abs(other - expected).max() > 100 * TOLERANCE


def test_a_state_beyond_its_bounds_is_clamped(oft):
    (observation,) = observations(oft.interface, 1)
    noise = np.zeros(0, np.float32)
    far, further = (
        oft.family.act(oft, {**observation, "observation.state": np.full(8, x, np.float32)}, noise)
        for x in (50, 100)
    )
    np.testing.assert_array_equal(far, further)


def test_stages_compose_to_the_policys_answer(oft):
    face = oft.interface
    for observation in observations(face):
        batch = oft.batch([observation])
        vision, prefix = oft.family.stages(oft, batch["tokens"].shape[1])
        assert (vision.name, prefix.name) == ("vision", "prefix")
        inputs = {key: batch[key] for key in ("tokens", "token_mask", "state")}
        with torch.no_grad():
            for index, image in enumerate(batch["images"][0]):
                embedding = vision.module(image=image[None])["embedding"]
                inputs[f"image_embedding_{index}"] = embedding
                inputs[f"image_mask_{index}"] = torch.tensor([True])
            assert {k: v.shape for k, v in inputs.items()} == {
                k: v.shape for k, v in prefix.example_inputs.items()
            }
            actions = prefix.module(**inputs)["actions"][0]
        got = actions * torch.tensor(face.action_std) + torch.tensor(face.action_mean)
        expected = oft.family.act(oft, observation, np.zeros(0, np.float32))
        np.testing.assert_allclose(got.numpy(), expected, atol=TOLERANCE)


def test_the_action_loss_is_the_mean_absolute_error_and_differentiable(folder):
    loaded = load_policy(folder)
    weight = loaded.policy.projector.fc3.weight.requires_grad_(True)
    several = observations(loaded.interface)
    batch = loaded.batch(several)
    batch["action"] = torch.randn(3, 8, 7)
    losses = loaded.family.action_loss(loaded, batch, torch.zeros(0), torch.zeros(0))
    face = loaded.interface
    answer = torch.from_numpy(loaded.family.predict(loaded, several, torch.zeros(0)))
    normalised = (answer - torch.tensor(face.action_mean)) / torch.tensor(face.action_std)
    expected = (normalised - batch["action"]).abs().mean(dim=(1, 2))
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    losses.sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
