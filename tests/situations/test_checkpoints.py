"""Checkpoints as people have them, from public threads: each works, or one line says what to do.

A test names its threads by repository and number.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import build_tiny, loading
from tiny_policies import CAMERAS, build_tiny_smolvla

from actquant.common.errors import CheckpointError
from actquant.policies import LoadedPolicy, load_policy
from actquant.policies.registry import find_family, supported_policies

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "policy"))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Changes a JSON file in place; `change` may return something else in its stead."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))


def edit_config(folder: Path, **changes: Any) -> None:
    edit(folder / "config.json", lambda config: config.update(changes))


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({rename(key): value for key, value in tensors.items()}, folder / WEIGHTS)


def step_of(name: str, content: Any) -> dict[str, Any]:
    return next(step for step in content["steps"] if step["registry_name"] == name)


def edit_step(folder: Path, name: str, processor: str = "pre", **options: Any) -> None:
    file = folder / f"policy_{processor}processor.json"
    edit(file, lambda content: step_of(name, content)["config"].update(options))


def edit_statistics(folder: Path, change: Callable[[dict], dict]) -> None:
    """Of both processors."""
    for file in folder.glob("policy_*normalizer_processor.safetensors"):
        save_file(change(load_file(file)), file)


def old_statistics(folder: Path, place: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """Takes the processors of a folder away; returns their statistics as LeRobot before 0.4 named
    them among the weights. place: feature -> name in the key."""
    (pre,) = folder.glob("policy_preprocessor_*normalizer_processor.safetensors")
    found = {}
    for key, value in load_file(pre).items():
        feature, _, name = key.rpartition(".")
        for module in ("normalize_targets", "unnormalize_outputs"):
            if feature == "action":
                found[f"{module}.{place(feature)}.{name}"] = value.clone()
        if feature != "action":
            found[f"normalize_inputs.{place(feature)}.{name}"] = value.clone()
    for file in folder.glob("policy_*"):
        file.unlink()
    return found


def buffer(feature: str) -> str:
    return "buffer_" + feature.replace(".", "_")


def act(loaded: LoadedPolicy) -> np.ndarray:
    rng = np.random.default_rng(3)
    face = loaded.interface
    size = (face.image_source_height, face.image_source_width, 3)
    observation: dict[str, Any] = {
        camera: rng.integers(0, 256, size, np.uint8) for camera in face.cameras
    }
    observation["observation.state"] = rng.standard_normal(len(face.state_names), np.float32)
    observation["task"] = "put the cup on it"
    return loaded.family.act(loaded, observation, np.zeros(face.noise_shape, np.float32))


def assert_same(folder: Path, loaded: LoadedPolicy) -> LoadedPolicy:
    """A folder's policy acts as `loaded` does."""
    other = load_policy(folder)
    np.testing.assert_array_equal(act(other), act(loaded))
    return other


def refusal(folder: Path, **settings: Any) -> str:
    """The one line by which a folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_policy(folder, **settings)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 800, text
    return text


def test_statistics_among_the_weights(copy: Path, loaded: LoadedPolicy) -> None:
    """huggingface/lerobot#1992, #2193, #4047: published before LeRobot 0.4, no processor files."""
    statistics = old_statistics(copy, buffer)
    save_file({**load_file(copy / WEIGHTS), **statistics}, copy / WEIGHTS)
    remarks = assert_same(copy, loaded).remarks
    assert any("before 0.4" in remark for remark in remarks)


def test_an_underscore_in_a_cameras_name(tmp_path: Path) -> None:
    """huggingface/lerobot#2353: LeRobot's own migration loses the statistics of such a camera."""
    from tiny_cnn_policies import build_tiny_act

    camera = "observation.images.left_wrist"
    folder = build_tiny_act(tmp_path / "act", cameras=(camera,))
    before = load_policy(folder)
    statistics = old_statistics(folder, buffer)
    assert f"normalize_inputs.buffer_{camera.replace('.', '_')}.mean" in statistics
    save_file({**load_file(folder / WEIGHTS), **statistics}, folder / WEIGHTS)
    assert_same(folder, before)


def test_statistics_of_several_datasets_among_the_weights(copy: Path) -> None:
    """huggingface/lerobot#4446, #4415: one buffer for each dataset of a base policy."""
    names = ("so100", "so100-red")
    kept = [Path(shutil.copytree(copy, copy.parent / name)) for name in names]
    statistics: dict[str, torch.Tensor] = {}
    for name, folder in zip(names, kept, strict=True):
        statistics |= old_statistics(folder, lambda f, name=name: f"{name}_{buffer(f)}")
    save_file({**load_file(copy / WEIGHTS), **statistics}, kept[0] / WEIGHTS)
    text = refusal(kept[0])
    assert "missing: observation.state.mean" in text
    assert "statistics of so100, so100-red alone" in text and "fine-tune" in text


def test_statistics_of_several_datasets_in_the_processors(copy: Path) -> None:
    """strands-labs/robots#985: LeRobot passes everything through where the names do not match."""
    edit_statistics(copy, lambda found: {f"so100.buffer.{k}": v for k, v in found.items()})
    text = refusal(copy)
    assert "action.mean" in text and "statistics of so100 alone" in text


def test_no_statistics_at_all(copy: Path) -> None:
    """huggingface/lerobot#1733, #694, #1095: neither processors nor buffers."""
    old_statistics(copy, buffer)
    text = refusal(copy)
    assert "no policy_preprocessor.json" in text and "normalize_inputs" in text


def test_statistics_that_were_never_filled_in(copy: Path) -> None:
    """huggingface/lerobot#1459, #3645: "mean is infinity"."""
    edit_statistics(copy, lambda found: {k: v.fill_(torch.inf) for k, v in found.items()})
    text = refusal(copy)
    assert "observation.state.mean is infinite (saved before statistics were filled in)" in text


def test_statistics_of_nan(copy: Path) -> None:
    """X-Square-Robot/wall-x#113: actions of NaN at the first inference."""

    def spoil(found: dict) -> dict:
        found["action.std"][1] = torch.nan
        return found

    edit_statistics(copy, spoil)
    assert "action.std is not finite: element 1 is NaN" in refusal(copy)


def test_an_element_that_never_varied(copy: Path) -> None:
    """huggingface/lerobot#211: a range of width 0 is divided by."""

    def stand_still(found: dict) -> dict:
        found["observation.state.std"][2] = 0.0
        return found

    edit_statistics(copy, stand_still)
    assert np.isfinite(act(load_policy(copy))).all()


def test_quantiles_that_the_dataset_did_not_have(copy: Path) -> None:
    """huggingface/lerobot#2189: QUANTILES without q01 and q99."""
    for processor, name in (("pre", "normalizer_processor"), ("post", "unnormalizer_processor")):
        norm_map = {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}
        edit_step(copy, name, processor, norm_map=norm_map)
    assert "missing: observation.state.q01, observation.state.q99, action.q01" in refusal(copy)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_training(copy: Path, loaded: LoadedPolicy, prefix: str) -> None:
    """DLR-RM/stable-baselines3#1438, #2137, Eclectic-Sheep/sheeprl#261: a policy was compiled."""
    rename_tensors(copy, lambda key: prefix + key)
    assert_same(copy, loaded)


def test_a_part_that_was_compiled(copy: Path, loaded: LoadedPolicy) -> None:
    """huggingface/lerobot#2061: torch.compile for a part of the policy."""
    rename_tensors(copy, lambda key: key.replace(".lm_expert.", ".lm_expert._orig_mod."))
    assert_same(copy, loaded)


def test_tensors_that_are_there_twice(copy: Path) -> None:
    """DLR-RM/stable-baselines3#1439: with the prefix and without."""
    tensors = load_file(copy / WEIGHTS)
    save_file({**tensors, "_orig_mod.model.state_proj.bias": torch.zeros(64)}, copy / WEIGHTS)
    assert "there twice, keep one of each: _orig_mod.model.state_proj.bias" in refusal(copy)


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on the tiny policy as `lerobot-train --peft.method_type=LORA` saves it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    policy: Any = load_policy(checkpoint).policy
    policy.name_or_path = str(checkpoint)
    targets = r".*lm_expert.*\.(q|v)_proj"
    torch.manual_seed(0)
    adapted = get_peft_model(
        policy, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    )
    adapted.save_pretrained(folder)
    for file in (*checkpoint.glob("policy_*"), checkpoint / "config.json"):
        shutil.copy(file, folder)
    edit_config(folder, use_peft=True)
    return folder


def test_an_adapter_is_merged_with_its_base(
    adapter: Path, checkpoint: Path, loaded: LoadedPolicy
) -> None:
    """huggingface/lerobot#1411, #3459, openvla/openvla#54: the checkpoint is a LoRA adapter."""
    merged = load_policy(adapter)
    name = "model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj"
    down, up = (
        load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{name}.{side}.weight"]
        for side in ("lora_A", "lora_B")
    )
    base = load_file(checkpoint / WEIGHTS)[f"{name}.weight"]
    weight = dict(merged.policy.named_parameters())[f"{name}.weight"]
    torch.testing.assert_close(weight.data, base + (8 / 4) * up @ down)
    assert np.abs(act(merged) - act(loaded)).max() > 1e-3
    assert merged.checkpoint_sha256 != loaded.checkpoint_sha256


def test_an_adapter_of_another_policy(adapter: Path, tmp_path: Path) -> None:
    """robometer/robometer#23: tensors of the adapter that no module of the base takes."""
    folder = Path(shutil.copytree(adapter, tmp_path / "other"))
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(iter(tensors))
    other = key.replace("layers.0", "layers.9")
    save_file({**tensors, other: tensors[key].clone()}, folder / "adapter_model.safetensors")
    assert f"does not fit its base policy: 1 tensors differ, such as {other}" in refusal(folder)


def test_an_adapter_without_its_base(adapter: Path, tmp_path: Path) -> None:
    """huggingface/lerobot#3975: the base policy is not where the adapter says."""
    folder = Path(shutil.copytree(adapter, tmp_path / "alone"))
    file = folder / "adapter_config.json"
    edit(file, lambda config: config.update(base_model_name_or_path="/nowhere/base"))
    assert "adapter_config.json: the base policy: /nowhere/base is no folder" in refusal(folder)
    edit(file, lambda config: config.update(base_model_name_or_path=None))
    assert "set base_model_name_or_path" in refusal(folder)
    (folder / "config.json").unlink()
    assert "a PEFT adapter alone, to which its base policy's config.json belongs" in refusal(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123\n".format("0" * 64)


@pytest.mark.parametrize(
    "name", [WEIGHTS, "vlm/tokenizer.json", "policy_preprocessor_step_5_normalizer_processor*"]
)
def test_a_clone_without_git_lfs(copy: Path, name: str) -> None:
    """microsoft/OmniParser#34, codefuse-ai/MFTCoder#20: "HeaderTooLarge"."""
    (file,) = copy.glob(name)
    file.write_text(POINTER)
    text = refusal(copy)
    assert f"not fetched {file.relative_to(copy)}" in text and f"git -C {copy} lfs pull" in text


def test_a_tokenizer_that_is_not_there(copy: Path) -> None:
    """huggingface/lerobot#2566: "why does it connect to get tokenizer_config.json?"."""
    shutil.rmtree(copy / "vlm")
    text = refusal(copy)
    assert "backbone vlm is no folder of the checkpoint" in text and str(copy / "vlm") in text
    assert "http" not in text


def test_xvla_without_its_image_normalisation(tmp_path: Path) -> None:
    """huggingface/lerobot#2954, #3674: steps of the policy's own factory are not in the files."""
    from tiny_xvla import build_tiny_xvla

    folder = build_tiny_xvla(tmp_path / "policy")
    before = load_policy(folder)
    file = folder / "policy_preprocessor.json"
    kept = json.loads(file.read_text())

    def without(*names: str) -> dict:
        return {**kept, "steps": [s for s in kept["steps"] if s["registry_name"] not in names]}

    edit(file, lambda _: without("xvla_imagenet_normalize"))
    text = refusal(folder)
    assert "lacks the step xvla_imagenet_normalize" in text
    assert '{"registry_name": "xvla_imagenet_normalize", "config": {}}' in text
    assert text.endswith("after xvla_image_to_float")
    edit(file, lambda _: without("xvla_image_to_float", "xvla_add_domain_id"))
    remarks = assert_same(folder, before).remarks
    assert len(remarks) == 2 and all("no action changes" in remark for remark in remarks)
    rotation = {"registry_name": "xvla_rotation_6d_to_axis_angle", "config": {}}
    edit(folder / "policy_postprocessor.json", lambda c: c["steps"].append(rotation))
    text = refusal(folder)
    assert "xvla_rotation_6d_to_axis_angle is not known and would be lost; xvla has unnorm" in text


def test_a_normalisation_that_is_there_twice(copy: Path) -> None:
    """huggingface/lerobot#2955: the same step in two processors, applied twice."""
    edit(
        copy / "policy_preprocessor.json",
        lambda content: content["steps"].append(step_of("normalizer_processor", content)),
    )
    assert "the step normalizer_processor is there 2 times" in refusal(copy)


def test_relative_actions(tmp_path: Path) -> None:
    """huggingface/lerobot#3425, VinRobotics/vla.cpp#25: offsets from the observed state."""
    from tiny_pi import build_tiny_pi05, tiny_backbone

    folder = build_tiny_pi05(tmp_path / "pi05")
    edit_step(folder, "relative_actions_processor", enabled=True)
    with tiny_backbone("pi05"):
        assert "(actions relative to the state) is not supported, only false" in refusal(folder)


def test_a_step_of_ones_own(copy: Path) -> None:
    """huggingface/lerobot#4346: steps that a fork or a plugin adds."""
    step = {"class": "my_robot.steps.ClampGripper", "config": {"limit": 0.5}}
    edit(copy / "policy_postprocessor.json", lambda content: content["steps"].append(step))
    text = refusal(copy)
    assert "my_robot.steps.ClampGripper is not known and would be lost; smolvla has unnorm" in text


def test_options_of_a_step_that_are_not_known(copy: Path) -> None:
    """strands-labs/robots#880: a device_processor as it was saved for another machine."""
    edit_step(copy, "device_processor", device="cuda")
    load_policy(copy)
    edit_step(copy, "device_processor", float_dtype="bfloat16")
    assert (
        'device_processor: float_dtype = "bfloat16" is not supported, only null or "float32"'
        in refusal(copy)
    )
    edit_step(copy, "tokenizer_processor", padding_side="left", language="fi")
    text = refusal(copy)
    assert (
        'padding_side = "left" is not supported, only "right"' in text
        and "the option language" in text
    )


def test_steps_in_another_order(copy: Path) -> None:
    """huggingface/lerobot#1256: the prompt was tokenized before its end was put to it."""
    edit(copy / "policy_preprocessor.json", lambda content: content["steps"].sort(
        key=lambda step: step["registry_name"] == "smolvla_new_line_processor"))  # fmt: skip
    assert "tokenizer_processor comes before smolvla_new_line_processor" in refusal(copy)


def test_cameras_that_the_processors_rename(copy: Path, loaded: LoadedPolicy) -> None:
    """huggingface/lerobot#3181, #1620: `rename_map` where a robot names its cameras otherwise."""
    names = {"observation.images.front": CAMERAS[0], "observation.images.rgb.side": CAMERAS[1]}
    edit_step(copy, "rename_observations_processor", rename_map=names)
    renamed = assert_same(copy, loaded)
    assert renamed.interface.cameras == tuple(names)


def test_places_for_cameras_that_do_not_exist(tmp_path: Path) -> None:
    """huggingface/lerobot#4245, #2332: `empty_cameras` for a robot with fewer of them."""
    folder = build_tiny_smolvla(tmp_path / "policy", empty_cameras=1)
    assert load_policy(folder).interface.cameras == CAMERAS


def test_fields_that_this_version_does_not_have(copy: Path) -> None:
    """huggingface/lerobot#850, #3355, #4655: config.json of another LeRobot."""
    edit_config(copy, mlp_hidden_dim=1024)
    assert "mlp_hidden_dim" in refusal(copy)


def test_a_configuration_without_a_type(copy: Path) -> None:
    """huggingface/lerobot#1105, #1099, #2616: of an older LeRobot, or openpi's own."""
    openpi = {"action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b"}
    edit(copy / "config.json", lambda _: openpi)
    assert "names no policy type" in refusal(copy)


def test_another_policy(copy: Path) -> None:
    """NVIDIA/Isaac-GR00T#391, huggingface/lerobot#2193: policies that are not captured."""
    edit_config(copy, type="pi0_fast")
    text = refusal(copy)
    assert "'pi0_fast' is not supported; supported: act" in text


def test_the_folder_of_a_training(copy: Path) -> None:
    """RoboticsData/score_lerobot_episodes#15, huggingface/lerobot#4023: a folder too high."""
    top = copy.parent / "train"
    policy = top / "checkpoints" / "000100" / "pretrained_model"
    shutil.copytree(copy, policy)
    os.symlink("000100", top / "checkpoints" / "last")
    assert str(top / "checkpoints/last/pretrained_model") in refusal(top)
    assert str(top / "checkpoints/last/pretrained_model") in refusal(top / "checkpoints")
    assert str(policy) in refusal(policy.parent)


def test_a_head_without_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    """huggingface/lerobot#1529, #1406: pi0 has no embed_tokens in its file."""
    from tiny_pi import build_tiny_pi0, tiny_backbone

    folder = build_tiny_pi0(tmp_path / "pi0")
    tail = "paligemma.model.language_model.embed_tokens.weight"
    with tiny_backbone("pi0"):
        before = load_policy(folder)
        rename_tensors(
            folder, lambda k: k.replace(tail, "paligemma.lm_head.weight") if k.endswith(tail) else k
        )
        assert_same(folder, before)


def test_fewer_actions_than_the_chunk_has(tmp_path: Path) -> None:
    """huggingface/lerobot#1005, #1012: n_action_steps below chunk_size."""
    folder = build_tiny_smolvla(tmp_path / "policy", chunk=6, n_action_steps=2)
    loaded = load_policy(folder)
    assert act(loaded).shape == (6, 7) and loaded.interface.steps_per_chunk == 2


def test_two_arms(tmp_path: Path) -> None:
    """moojink/openvla-oft#91, Tian-Nian/control_your_robot#4: actions of 14 numbers."""
    sizes = {"state_dim": 14, "action_dim": 14}
    folder = build_tiny_smolvla(tmp_path / "policy", **sizes, max_state_dim=16, max_action_dim=16)
    assert act(load_policy(folder)).shape == (6, 14)
    narrow = build_tiny_smolvla(tmp_path / "narrow", **sizes)
    text = refusal(narrow)
    assert "a state of 14 numbers, at most 8" in text and "an action of 14 numbers" in text


def test_temporal_ensembling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """strands-labs/robots#731: averaging over time is no part of predict_action_chunk."""
    from tiny_cnn_policies import build_tiny_act

    folder = build_tiny_act(tmp_path / "act", temporal_ensemble_coeff=0.01, n_action_steps=1)
    with caplog.at_level(logging.WARNING):
        (remark,) = load_policy(folder).remarks
    assert "temporal_ensemble_coeff is not part of the file" in remark and remark in caplog.text


def test_statistics_of_several_datasets_in_openvla(tmp_path: Path) -> None:
    """openvla/openvla#87, moojink/openvla-oft#156: which of the datasets' statistics apply."""
    from openvla_oft_checkpoint import build_openvla_oft

    folder = build_openvla_oft(tmp_path / "oft")
    file = folder / "dataset_statistics.json"
    edit(file, lambda found: found.update(bridge_orig=next(iter(found.values()))))
    text = refusal(folder)
    assert "set unnorm_key" in text and "bridge_orig" in text


def test_an_adapter_of_openvla_that_was_not_merged(tmp_path: Path) -> None:
    """openvla/openvla#54: the training leaves an adapter beside the action head."""
    from openvla_oft_checkpoint import build_openvla_oft

    folder = build_openvla_oft(tmp_path / "oft")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "lora_adapter").mkdir()
    (folder / "lora_adapter" / "adapter_config.json").write_text("{}")
    command = "merge_lora_weights_and_save.py --base_checkpoint openvla/openvla-7b"
    assert command in refusal(folder)
    (folder / "config.json").unlink()
    assert command in refusal(folder)


OF_LEROBOT = [name for name in supported_policies() if name != "openvla_oft"]


@pytest.mark.parametrize("policy_type", OF_LEROBOT)
def test_a_family_knows_the_steps_that_lerobot_makes(tmp_path: Path, policy_type: str) -> None:
    """What LeRobot's factory writes for a policy is what its family says: no step is lacking, none
    is unknown."""
    family: Any = find_family(policy_type)
    folder = build_tiny(policy_type, tmp_path / "policy")
    with loading(policy_type):
        assert load_policy(folder, control_rate_hz=10).remarks == ()
    for name, steps in (("pre", family.preprocessor), ("post", family.postprocessor)):
        written = json.loads((folder / f"policy_{name}processor.json").read_text())["steps"]
        assert [step["registry_name"] for step in written] == [step.name for step in steps]
