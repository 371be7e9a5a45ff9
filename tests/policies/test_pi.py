"""pi0 and pi0.5: the stages are the policy, and a checkpoint is read as LeRobot reads it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pi import HUB_TOKENIZER, build_tiny_pi, tiny_backbone
from tiny_policies import CAMERAS

from actquant.common.errors import CheckpointError
from actquant.policies import LoadedPolicy, load_policy, paligemma

TYPES = ("pi0", "pi05")
PROMPTS = ("push", " put_the black\ncup on the tray ", "the the the put put put")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=TYPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_pi(tmp_path_factory.mktemp(request.param) / "tiny", request.param)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedPolicy:
    return load(folder)


def load(folder: Path) -> LoadedPolicy:
    policy_type = json.loads((folder / "config.json").read_text())["type"]
    with tiny_backbone(policy_type):
        return load_policy(folder)


def observation(prompt: str, seed: int = 0, height: int = 28, width: int = 28, dim: int = 6):
    random = np.random.default_rng(seed)
    return {
        **{key: random.integers(0, 256, (height, width, 3), np.uint8) for key in CAMERAS},
        "observation.state": random.normal(size=dim).astype(np.float32),
        "task": prompt,
    }


def noise(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(seed))


def lerobot_chunk(loaded: LoadedPolicy, given: dict, start: torch.Tensor) -> np.ndarray:
    """`predict_action_chunk` on a batch from which absent cameras are absent."""
    batch = loaded.batch([given])
    for key in CAMERAS:
        if key not in given:
            assert batch.pop(f"{key}_padding_mask").tolist() == [False]
            del batch[key]
    with torch.no_grad():
        chunk = loaded.policy.predict_action_chunk(batch, noise=start)
        return loaded.postprocessor(chunk).numpy()[0]


def staged_chunk(
    loaded: LoadedPolicy, given: dict, start: torch.Tensor, padding: int
) -> np.ndarray:
    """The driver `sampling` on the stages' modules, with `padding` masked tokens at the end."""
    face, batch = loaded.interface, loaded.batch([given])
    length = int(batch[paligemma.TOKEN_MASK].sum()) + padding
    vision, prefix, denoise = loaded.family.stages(loaded, length)
    images, _ = loaded.policy._preprocess_images(batch)
    inputs = {
        "tokens": batch[paligemma.TOKENS][:, :length],
        "token_mask": batch[paligemma.TOKEN_MASK][:, :length],
        "state": torch.nn.functional.pad(batch["observation.state"], (0, 2)),
    }
    with torch.no_grad():
        for index, (key, image) in enumerate(zip(CAMERAS, images, strict=False)):
            embedding = vision.module(image=image)["embedding"]
            seen = key in given
            inputs[f"image_embedding_{index}"] = embedding if seen else 0 * embedding
            inputs[f"image_mask_{index}"] = torch.tensor([seen])
        cached = prefix.module(**{name: inputs[name] for name in prefix.example_inputs})
        x = start
        for time, row in zip(face.sampler.timesteps, face.sampler.coefficients, strict=True):
            output = denoise.module(x_t=x, timestep=torch.tensor([time]), **cached)["output"]
            x = row[4] * x + row[5] * output
    return loaded.postprocessor(x[:, :, : len(face.action_names)]).numpy()[0]


@pytest.mark.parametrize("absent", [(), CAMERAS[:1], CAMERAS[1:]], ids=["all", "second", "first"])
def test_the_stages_together_are_the_policy(loaded, absent):
    chunks = []
    for index, prompt in enumerate(PROMPTS):
        given = observation(prompt, seed=index)
        given = {key: value for key, value in given.items() if key not in absent}
        expected = lerobot_chunk(loaded, given, noise())
        for padding in (0, 3):
            got = staged_chunk(loaded, given, noise(), padding)
            np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
        chunks.append(expected)
    assert np.abs(chunks[0] - chunks[1]).max() > 100 * TOLERANCE


def test_example_inputs_have_the_shapes_of_real_ones(loaded):
    for length in (3, 8):
        vision, prefix, denoise = loaded.family.stages(loaded, length)
        with torch.no_grad():
            embedding = vision.module(**vision.example_inputs)["embedding"]
            cached = prefix.module(**prefix.example_inputs)
            output = denoise.module(**denoise.example_inputs)["output"]
        assert embedding.shape == prefix.example_inputs["image_embedding_0"].shape
        assert prefix.example_inputs["tokens"].shape == (1, length)
        examples = {name: x.shape for name, x in denoise.example_inputs.items()}
        wanted = {name: x.shape for name, x in cached.items()}
        assert examples == {**wanted, "x_t": output.shape, "timestep": (1,)}


def test_prediction_is_lerobots_also_where_observations_lack_different_cameras(loaded):
    given = [observation(prompt, seed=index) for index, prompt in enumerate(PROMPTS)]
    del given[0][CAMERAS[0]], given[1][CAMERAS[1]]
    start = noise(3)
    got = loaded.family.predict(loaded, given, start)
    for index, one in enumerate(given):
        expected = lerobot_chunk(loaded, one, start[index : index + 1])
        np.testing.assert_allclose(got[index], expected, atol=TOLERANCE, rtol=0)
        alone = loaded.family.act(loaded, one, start[index].numpy())
        np.testing.assert_allclose(alone, expected, atol=TOLERANCE, rtol=0)


def test_prompt_state_image_and_camera_mask_all_matter(loaded):
    given = observation(PROMPTS[1])
    expected = lerobot_chunk(loaded, given, noise())
    changed = (
        {**given, "task": "zz"},
        {**given, "observation.state": given["observation.state"] + 0.5},
        {**given, CAMERAS[0]: 255 - given[CAMERAS[0]]},
        {key: value for key, value in given.items() if key != CAMERAS[1]},
    )
    for other in changed:
        assert np.abs(lerobot_chunk(loaded, other, noise()) - expected).max() > 100 * TOLERANCE


def test_times_are_those_of_the_policy(loaded):
    seen = []
    handle = loaded.policy.model.denoise_step

    def step(*args, timestep, **kwargs):
        seen.append(timestep.item())
        return handle(*args, timestep=timestep, **kwargs)

    loaded.policy.model.denoise_step = step
    try:
        lerobot_chunk(loaded, observation("push"), noise())
    finally:
        del loaded.policy.model.denoise_step
    assert seen == [float(np.float32(t)) for t in loaded.interface.sampler.timesteps]


def test_empty_cameras_are_as_if_absent(tmp_path: Path):
    loaded = load(build_tiny_pi(tmp_path / "policy", "pi05", empty_cameras=1))
    assert len(loaded.config.image_features) == 3
    assert loaded.interface.cameras == CAMERAS
    given = observation("push")
    expected = lerobot_chunk(loaded, given, noise())
    got = staged_chunk(loaded, given, noise(), padding=0)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def test_the_interface_says_what_the_checkpoint_says(tmp_path: Path):
    build_tiny_pi(tmp_path / "pi0", "pi0", camera_shape=(3, 30, 40))
    build_tiny_pi(tmp_path / "pi05", "pi05", camera_shape=(3, 30, 40))
    pi0, pi05 = (load(tmp_path / name) for name in TYPES)
    for face in (pi0.interface, pi05.interface):
        assert (face.driver, face.noise_shape) == ("sampling", (6, 8))
        assert (face.image_height, face.image_width) == (28, 28)
        assert (face.image_source_height, face.image_source_width) == (30, 40)
        assert (face.image_scale, face.image_offset) == (2.0, -1.0)
        assert face.image_steps[0].startswith("resize_pad height=28 width=28 filter=bilinear")
        assert (face.optional_cameras, face.chunk_length, face.steps_per_chunk) == (1, 6, 4)
        assert (len(face.state_names), face.state_padded_dim) == (6, 8)
        assert (face.tokenizer_min_length, face.tokenizer_max_length) == (1, 72)
    assert pi0.interface.tokenizer_suffix == "\n"
    assert pi05.interface.prompt_state_bins == 256
    stats = pi05.preprocessor.steps[3].state_dict()
    low, high = (stats[f"observation.state.{name}"] for name in ("q01", "q99"))
    normalised = (low - torch.tensor(pi05.interface.state_mean)) / torch.tensor(
        pi05.interface.state_std
    )
    torch.testing.assert_close(normalised, -torch.ones(6))
    torch.testing.assert_close(low + 2 * torch.tensor(pi05.interface.state_std), high)


def test_the_lower_end_of_the_states_range_is_minus_one_also_where_nothing_varied(tmp_path: Path):
    """LeRobot makes it -1 exactly, which is bin 0; the least below would be the text `-1`."""
    folder = build_tiny_pi(tmp_path / "policy", "pi05")
    (file,) = folder.glob("policy_preprocessor_step_*.safetensors")
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        low = torch.randn(6, generator=random) * torch.logspace(-3, 3, 6)
        width = torch.rand(6, generator=random) * torch.tensor([1, 1e-3, 1, 1e-2, 1, 0])
        stats = load_file(file)
        stats |= {"observation.state.q01": low, "observation.state.q99": low + width}
        save_file(stats, file)
        loaded = load(folder)
        face = loaded.interface
        batch = loaded.batch([{**observation("push"), "observation.state": low.numpy()}])
        assert batch["task"] == ["Task: push, State: 0 0 0 0 0 0;\nAction: "]
        mean, std = np.float32(face.state_mean), np.float32(face.state_std)
        for dtype in (np.float32, np.float64):
            normalised = (low.numpy() - mean.astype(dtype)) / (
                std.astype(dtype) + dtype(np.float32(face.normalization_eps))
            )
            assert ((normalised >= -1) & (normalised < -1 + 2**-7)).all()
        assert normalised == pytest.approx(-np.ones(6), abs=1e-6)


def test_cameras_may_differ_in_size(folder: Path, tmp_path: Path):
    other = copy(folder, tmp_path / "other")
    edit(
        other / "config.json",
        lambda content: content["input_features"][CAMERAS[1]].update(shape=[3, 20, 30]),
    )
    face = load(other).interface
    assert (face.image_source_height, face.image_source_width) == (28, 28)


def test_the_prompt_fields_render_what_lerobots_processor_renders(tmp_path: Path):
    loaded = load(build_tiny_pi(tmp_path / "policy", "pi05"))
    face = loaded.interface
    given = observation(" put_the black\ncup ")
    batch = loaded.batch([given])
    task = given["task"].strip().replace("_", " ").replace("\n", " ")
    assert face.prompt_task_steps == ("strip", "underscores_to_spaces", "newlines_to_spaces")
    edges = -1 + 2 * np.arange(face.prompt_state_bins) / face.prompt_state_bins
    state = batch["observation.state"][0].numpy()
    numbers = " ".join(str(int((edges <= x).sum()) - 1) for x in state)
    rendered = face.prompt_template.replace("{task}", task).replace("{state}", numbers)
    assert batch["task"] == [rendered]


def test_the_action_loss_is_the_policys_own_per_sample_and_differentiable(folder: Path):
    loaded = load(folder)
    policy = loaded.policy
    policy.model.action_in_proj.requires_grad_(True)
    given = [observation(prompt, seed=index) for index, prompt in enumerate(PROMPTS)]
    batch = {**loaded.batch(given), "action": torch.randn(3, 6, 7)}
    start, time = noise(3), torch.tensor([0.2, 0.7, 1.0])
    policy.model.sample_noise = lambda *_: start
    policy.model.sample_time = lambda *_: time
    expected, _ = policy.forward(dict(batch), reduction="none")
    losses = loaded.family.action_loss(loaded, batch, start, time)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert policy.model.action_in_proj.weight.grad.abs().max() > 0


def test_a_masked_camera_does_not_enter_the_loss(loaded):
    given = observation(PROMPTS[0])
    del given[CAMERAS[0]]
    batch = {**loaded.batch([given]), "action": torch.randn(1, 6, 7)}
    time = torch.tensor([0.5])
    loss = loaded.family.action_loss(loaded, batch, noise(), time)
    other = {**batch, CAMERAS[0]: torch.rand_like(batch[CAMERAS[0]])}
    torch.testing.assert_close(loaded.family.action_loss(loaded, other, noise(), time), loss)
    del other[f"{CAMERAS[0]}_padding_mask"]
    assert (loaded.family.action_loss(loaded, other, noise(), time) - loss).abs() > TOLERANCE


def test_every_linear_weight_belongs_to_a_group(loaded):
    linear = [
        f"{name}.weight"
        for name, module in loaded.policy.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    groups = {loaded.family.group_of(name) for name in linear}
    layers = {f"{part}.{index}" for part in ("vision", "language", "expert") for index in (0, 1)}
    assert {layer for _, layer in groups} == {*layers, "projection"}
    with pytest.raises(CheckpointError, match="no group"):
        loaded.family.group_of("model.unknown.weight")


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def as_published(folder: Path, policy_type: str) -> None:
    """The keys of the published base checkpoints: without prefix, embeddings only in the head."""
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors.pop(paligemma.EMBEDDING)
    tensors[paligemma.HEAD] = embedding
    if policy_type == "pi05":
        tensors["model.state_proj.weight"] = torch.zeros(2, 2)
    save_file(
        {key.removeprefix("model."): value for key, value in tensors.items()},
        folder / "model.safetensors",
    )


def test_published_keys_load_as_lerobots_from_pretrained_loads_them(loaded, folder, tmp_path):
    published = copy(folder, tmp_path / "published")
    as_published(published, loaded.family.policy_type)
    got, wanted = (x.policy.state_dict() for x in (load(published), loaded))
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], wanted[key]) for key in got)
    with tiny_backbone(loaded.family.policy_type):
        theirs = type(loaded.policy).from_pretrained(published).state_dict()
    assert all(torch.equal(theirs[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("policy_type", TYPES)
def test_half_precision_checkpoints_load_in_single_precision(tmp_path: Path, policy_type):
    loaded = load(build_tiny_pi(tmp_path / "policy", policy_type, dtype="bfloat16"))
    stored = load_file(tmp_path / "policy" / "model.safetensors")
    weights = loaded.policy.state_dict()
    assert {x.dtype for x in weights.values()} == {torch.float32}
    assert torch.bfloat16 in {x.dtype for x in stored.values()}
    assert all(torch.equal(x, stored[key].float()) for key, x in weights.items())


def test_all_missing_and_unexpected_keys_are_listed(folder: Path, tmp_path: Path):
    broken = copy(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.action_in_proj.bias"], tensors["model.action_out_proj.weight"]
    tensors["model.extra"] = torch.zeros(1)
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load(broken)
    for key in ("action_in_proj.bias", "action_out_proj.weight", "unexpected (1): model.extra"):
        assert key in str(error.value)


def test_a_tensor_of_another_shape_is_named(folder: Path, tmp_path: Path):
    broken = copy(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.action_in_proj.bias"] = torch.zeros(1)
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"action_in_proj\.bias.*\[1\].*\[32\]"):
        load(broken)


def test_missing_statistics_are_named(folder: Path, tmp_path: Path):
    broken = copy(folder, tmp_path / "broken")
    (file,) = broken.glob("policy_preprocessor_step_*.safetensors")
    stats = load_file(file)
    for key in [key for key in stats if key.startswith("observation.state.")]:
        del stats[key]
    save_file(stats, file)
    with pytest.raises(CheckpointError, match=r"observation\.state\.(mean|q01)"):
        load(broken)


def test_a_tokenizer_may_be_in_a_folder_of_the_checkpoint(folder: Path, tmp_path: Path, loaded):
    moved = copy(folder, tmp_path / "moved")
    (moved / "words").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (moved / name).rename(moved / "words" / name)
    with pytest.raises(CheckpointError, match=f"{HUB_TOKENIZER}.*put its tokenizer.json"):
        load(moved)

    def rename(content):
        for step in content["steps"]:
            if step["registry_name"] == "tokenizer_processor":
                step["config"]["tokenizer_name"] = "words"

    edit(moved / "policy_preprocessor.json", rename)
    assert load(moved).interface.tokenizer_json == loaded.interface.tokenizer_json


def test_relative_actions_of_the_processors_are_refused(folder: Path, tmp_path: Path):
    broken = copy(folder, tmp_path / "broken")

    def enable(content):
        for step in content["steps"]:
            if step["registry_name"] == "relative_actions_processor":
                step["config"]["enabled"] = True

    edit(broken / "policy_preprocessor.json", enable)
    with pytest.raises(CheckpointError, match="relative to the state"):
        load(broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_relative_actions": True}, "use_relative_actions"),
        ({"n_obs_steps": 2}, "n_obs_steps = 2"),
        ({"rtc_config": {"enabled": True}}, "rtc_config.enabled"),
        ({"input_features": {}}, "no camera"),
    ],
)
def test_unsupported_settings_are_refused_by_name(folder, tmp_path, settings, message):
    broken = copy(folder, tmp_path / "broken")
    edit(broken / "config.json", lambda content: content.update(settings))
    with pytest.raises(CheckpointError, match=message):
        load(broken)
