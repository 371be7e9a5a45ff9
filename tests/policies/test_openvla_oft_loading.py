"""A faulty checkpoint in the published layout is refused with the name of what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from openvla_oft_checkpoint import STEP, Sizes, build_openvla_oft
from safetensors.torch import load_file, save_file

from actquant.common.errors import CheckpointError
from actquant.policies import load_policy, supported_policies

HEAD = f"action_head--{STEP}_checkpoint.pt"
STATE = f"proprio_projector--{STEP}_checkpoint.pt"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_openvla_oft(tmp_path_factory.mktemp("policy") / "oft")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(file: Path, **changes):
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_statistics(folder: Path, change):
    file = folder / "dataset_statistics.json"
    content = json.loads(file.read_text())
    change(content["libero_spatial_no_noops"])
    file.write_text(json.dumps(content))


def test_a_published_folder_is_recognised_without_a_policy_type(folder):
    assert "type" not in json.loads((folder / "config.json").read_text())
    loaded = load_policy(folder, action_names=[f"a{i}" for i in range(7)])
    face = loaded.interface
    assert loaded.family.policy_type == "openvla_oft" and "openvla_oft" in supported_policies()
    assert (face.driver, face.chunk_length, face.steps_per_chunk) == ("one_shot", 8, 8)
    assert (len(face.state_names), face.state_names[0], face.action_names[6]) == (8, "x.m", "a6")
    assert (
        face.control_rate_hz == 20 and load_policy(folder, control_rate_hz=10).control_rate_hz == 10
    )
    assert {p.dtype for p in loaded.policy.parameters()} == {torch.float32}
    assert not any(p.is_meta or p.requires_grad for p in loaded.policy.parameters())


def test_another_model_type_is_refused(copy):
    edit(copy / "config.json", model_type="paligemma")
    with pytest.raises(CheckpointError, match="'paligemma' is not supported; supported: .*oft"):
        load_policy(copy)


def test_all_missing_unexpected_and_differing_tensors_are_listed(copy):
    files = {key: file for file in copy.glob("*.safetensors") for key in load_file(file)}
    missing = "language_model.model.layers.1.mlp.up_proj.weight"
    other = "projector.fc2.bias"
    for file in set(files.values()):
        tensors = load_file(file)
        tensors.pop(missing, None)
        if other in tensors:
            tensors[other] = torch.zeros(3)
            tensors["extra.weight"] = torch.zeros(1)
        save_file(tensors, file)
    parts = torch.load(copy / STATE, weights_only=True)
    del parts["module.fc2.weight"]
    torch.save({**parts, "module.fc9.weight": torch.zeros(1)}, copy / STATE)
    with pytest.raises(CheckpointError) as caught:
        load_policy(copy)
    message = str(caught.value)
    assert f"missing (2): {missing}, proprio_projector.fc2.weight" in message
    assert "unexpected (2): extra.weight, proprio_projector.fc9.weight" in message
    assert "of another shape (1): projector.fc2.bias is [3], wanted [64]" in message


def test_tensors_that_tell_the_sizes_are_listed_with_all_others(copy):
    told = ("language_model.model.embed_tokens.weight", "projector.fc1.weight")
    other = "language_model.model.layers.0.mlp.up_proj.weight"
    unread = "language_model.lm_head.weight"
    for file in copy.glob("*.safetensors"):
        tensors = load_file(file)
        kept = {k: v for k, v in tensors.items() if k not in (*told, other, unread)}
        save_file({**kept, f"extra.{file.stem}": torch.zeros(1)}, file)
    parts = torch.load(copy / HEAD, weights_only=True)
    del parts["module.model.fc1.weight"]
    torch.save(parts, copy / HEAD)
    with pytest.raises(CheckpointError) as caught:
        load_policy(copy)
    message = str(caught.value)
    missing = sorted((*told, other, unread, "action_head.model.fc1.weight"))
    assert f"missing (5): {', '.join(missing)}\n" in message
    assert "unexpected (3): extra.model-00001-of-00003, extra." in message
    assert "of another shape (0): none" in message


class Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("file", [HEAD, STATE])
def test_a_part_whose_pickle_would_call_a_function_is_refused_uncalled(copy, tmp_path, file):
    made = tmp_path / "made"
    torch.save({"module.fc1.weight": Opens(made)}, copy / file)
    with pytest.raises(CheckpointError, match=f"{file} cannot be loaded"):
        load_policy(copy)
    assert not made.exists()
    torch.load(copy / file, weights_only=False)["module.fc1.weight"].close()
    assert made.exists()  # so it would have been called


def test_what_inference_does_not_read_may_be_absent(copy, folder):
    found = {}
    for file in copy.glob("*.safetensors"):
        unread = ("lm_head", "attn_pool", "featurizer.norm", "featurizer.blocks.2.")
        kept = {k: v for k, v in load_file(file).items() if not any(part in k for part in unread)}
        dino = "vision_backbone.featurizer.blocks.2.norm1.bias"
        siglip = "vision_backbone.fused_featurizer.blocks.2.norm1.bias"
        kept |= {k: v for k, v in load_file(file).items() if k in (dino, siglip)}
        save_file(kept, file)
        found |= dict.fromkeys(kept, file.name)
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): language_model.lm_head.weight, "):
        load_policy(copy)  # the index still lists them
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))
    state = load_policy(copy).policy.state_dict()
    for key, value in load_policy(folder).policy.state_dict().items():
        assert torch.equal(state[key], value)


def test_keys_of_training_on_several_devices_are_those_of_training_on_one(tmp_path, folder):
    single = load_policy(build_openvla_oft(tmp_path / "oft", ddp=False)).policy.state_dict()
    for key, value in load_policy(folder).policy.state_dict().items():
        assert torch.equal(single[key], value)


def test_a_base_checkpoint_says_what_it_lacks(copy):
    (copy / HEAD).unlink()
    with pytest.raises(CheckpointError, match=r"no action_head--.*base OpenVLA.*L1 regression"):
        load_policy(copy)


@pytest.mark.parametrize("part", ["vision_backbone", "noisy_action_projector"])
def test_unsupported_variants_are_refused(copy, part):
    torch.save({}, copy / f"{part}--{STEP}_checkpoint.pt")
    with pytest.raises(CheckpointError, match="(FiLM|diffusion).* is not supported"):
        load_policy(copy)


def test_two_heads_are_one_too_many(copy):
    shutil.copy(copy / HEAD, copy / "action_head--300_checkpoint.pt")
    with pytest.raises(CheckpointError, match="keep one: .*150.*300|keep one: .*300.*150"):
        load_policy(copy)


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json", "dataset_statistics.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"(has no|lacks) {name}"):
        load_policy(copy)


def test_files_that_cannot_be_read_are_named(copy):
    (copy / STATE).write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=f"{STATE} cannot be loaded"):
        load_policy(copy)
    (copy / STATE).unlink()
    (copy / "model-00001-of-00003.safetensors").write_bytes(b"none")
    with pytest.raises(
        CheckpointError, match=r"model-00001-of-00003\.safetensors cannot be loaded"
    ):
        load_policy(copy)


def test_settings_of_another_architecture_are_all_listed(copy):
    edit(
        copy / "config.json",
        timm_override_act_layers=["quick_gelu"],
        text_config={"model_type": "phi"},
    )
    with pytest.raises(CheckpointError, match=r"not supported: .*quick_gelu.*'phi'"):
        load_policy(copy)


def test_the_dataset_is_chosen_by_name(tmp_path):
    names = ("libero_goal_no_noops", "libero_object_no_noops")
    folder = build_openvla_oft(tmp_path / "oft", datasets=names)
    with pytest.raises(CheckpointError, match=f"set unnorm_key.* one of: {', '.join(names)}"):
        load_policy(folder)
    with pytest.raises(
        CheckpointError, match=f"no dataset 'bridge'; unnorm_key is one of: {names[0]}"
    ):
        load_policy(folder, options={"unnorm_key": "bridge"})
    means = [load_policy(folder, options={"unnorm_key": x}).interface.action_mean for x in names]
    assert means[0] != means[1]
    assert (
        load_policy(folder, options={"unnorm_key": "libero_goal"}).interface.action_mean == means[0]
    )
    edit(folder / "config.json", unnorm_key=names[1])
    assert load_policy(folder).interface.action_mean == means[1]
    with pytest.raises(CheckpointError, match="has no option speed; its options: unnorm_key"):
        load_policy(folder, options={"speed": 1})


def test_all_missing_statistics_are_listed(copy):
    def remove(statistics):
        del statistics["action"]["q99"], statistics["proprio"]["q01"]
        statistics["action"]["mask"] = [True]

    edit_statistics(copy, remove)
    with pytest.raises(CheckpointError, match=r"action\.q99 .*, action\.mask .*, proprio\.q01 "):
        load_policy(copy)


def test_ranges_become_centre_and_half_width_and_the_gripper_stays(copy):
    def change(statistics):
        statistics["action"] |= {"q01": [-1.0] * 7, "q99": [3.0] * 7}
        statistics["proprio"] |= {"q01": [2.0] * 8, "q99": [4.0] * 7 + [2.0]}

    edit_statistics(copy, change)
    loaded = load_policy(copy)
    face = loaded.interface
    np.testing.assert_allclose(face.action_mean, [1] * 6 + [0])
    np.testing.assert_allclose(face.action_std, [2] * 6 + [1])
    np.testing.assert_allclose(face.state_mean, [3] * 7 + [2])
    observation = {c: np.zeros((28, 28, 3), np.uint8) for c in face.cameras}
    observation |= {"observation.state": np.full(8, 2, np.float32), "task": "lift"}
    np.testing.assert_allclose(loaded.batch([observation])["state"][0], [-1] * 7 + [0])


def test_the_platform_follows_from_the_numbers_of_actions_and_states(tmp_path):
    aloha = build_openvla_oft(tmp_path / "aloha", Sizes(action_dim=14, state_dim=14))
    face = load_policy(aloha).interface
    assert (face.chunk_length, len(face.cameras), face.control_rate_hz) == (25, 3, 25)
    statistics = json.loads((aloha / "dataset_statistics.json").read_text())
    action = statistics["libero_spatial_no_noops"]["action"]
    assert face.action_mean[0] + face.action_std[0] == pytest.approx(action["max"][0])
    odd = build_openvla_oft(tmp_path / "odd", Sizes(action_dim=5, state_dim=3))
    with pytest.raises(
        CheckpointError, match="actions of 5 and a state of 3 numbers; known: LIBERO"
    ):
        load_policy(odd)


def test_options_go_before_config_and_config_before_the_platform(copy):
    edit(copy / "config.json", num_action_chunks=4, num_images_in_input=1)
    face = load_policy(copy).interface
    assert (face.chunk_length, len(face.cameras), len(face.image_steps)) == (4, 1, 2)
    options = {"num_images_in_input": 2, "center_crop": "false"}
    face = load_policy(copy, options=options).interface
    assert (face.chunk_length, len(face.cameras), len(face.image_steps)) == (4, 2, 1)
    for options in ({"num_images_in_input": 3}, {"center_crop": "some"}):
        with pytest.raises(CheckpointError, match="num_images_in_input is 3|center_crop is 'some'"):
            load_policy(copy, options=options)


def test_a_tokenizer_of_another_kind_is_refused(copy):
    file = copy / "tokenizer.json"
    edit(file, post_processor=None)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "post_processor": None}))
    with pytest.raises(CheckpointError, match="does not put <s> before a text"):
        load_policy(copy)


def test_an_observation_without_a_camera_is_refused(folder):
    loaded = load_policy(folder)
    observation = {"observation.state": np.zeros(8, np.float32), "task": "lift"}
    with pytest.raises(CheckpointError, match="lack observation.images.image, "):
        loaded.batch([observation])
