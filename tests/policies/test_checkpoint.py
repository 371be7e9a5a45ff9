"""A faulty checkpoint is refused with the name of what is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actquant.common.errors import CheckpointError
from actquant.policies import load_policy, supported_policies
from actquant.policies.checkpoint import build


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_config(folder: Path, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_an_unsupported_type_lists_the_supported_ones(copy):
    edit_config(copy, type="teleport")
    with pytest.raises(CheckpointError, match="'teleport' is not supported; supported: .*smolvla"):
        load_policy(copy)
    assert "smolvla" in supported_policies()


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_policy(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "policy_preprocessor.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load_policy(copy)


def test_a_missing_backbone_says_where_it_goes(copy):
    shutil.rmtree(copy / "vlm")
    with pytest.raises(CheckpointError, match="backbone"):
        load_policy(copy)


def test_all_missing_and_unexpected_keys_are_listed(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.state_proj.bias"], tensors["model.action_in_proj.weight"]
    save_file({**tensors, "model.extra": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError) as caught:
        load_policy(copy)
    message = str(caught.value)
    assert "missing (2): model.action_in_proj.weight, model.state_proj.bias" in message
    assert "unexpected (1): model.extra" in message


def test_all_missing_statistics_are_listed(copy):
    for name in (
        "policy_preprocessor_step_5_normalizer",
        "policy_postprocessor_step_0_unnormalizer",
    ):
        file = copy / f"{name}_processor.safetensors"
        keep = {k: v for k, v in load_file(file).items() if k != "observation.state.std"}
        save_file({k: v for k, v in keep.items() if not k.startswith("action")}, file)
    with pytest.raises(
        CheckpointError, match="missing: observation.state.std, action.mean, action.std"
    ):
        load_policy(copy)


def test_a_statistic_that_is_not_finite_is_called_that(copy):
    file = copy / "policy_preprocessor_step_5_normalizer_processor.safetensors"
    tensors = load_file(file)
    tensors["observation.state.mean"][2] = float("nan")
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError,
        match=r"observation\.state\.mean is not finite: element 2 is NaN; the dataset",
    ):
        load_policy(copy)


def test_settings_that_cannot_be_captured_are_refused(copy):
    edit_config(copy, adapt_to_pi_aloha=True)
    with pytest.raises(CheckpointError, match="adapt_to_pi_aloha"):
        load_policy(copy)


def test_half_precision_checkpoints_are_loaded_in_float32(copy):
    file = copy / "model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file)
    policy = load_policy(copy).policy
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_control_rate_and_names(copy):
    assert load_policy(copy).interface.control_rate_hz is None
    (copy / "train_config.json").write_text(json.dumps({"env": {"fps": 20}}))
    loaded = load_policy(copy, state_names=[f"joint_{i}.rad" for i in range(6)])
    assert loaded.control_rate_hz == 20
    assert loaded.interface.state_names[0] == "joint_0.rad"
    assert loaded.interface.action_names[-1] == "action_6"
    with pytest.raises(CheckpointError, match="action has 7 elements, 2 names given"):
        load_policy(copy, action_names=["x", "y"])


def test_ranges_become_centre_and_half_width(copy, checkpoint):
    for name in ("preprocessor", "postprocessor"):
        file = copy / f"policy_{name}.json"
        content = json.loads(file.read_text())
        for step in content["steps"]:
            if "norm_map" in step["config"]:
                step["config"]["norm_map"].update(STATE="MIN_MAX", ACTION="QUANTILES")
                state = copy / step["state_file"]
                low, high = torch.arange(6.0), torch.arange(6.0) + 4
                a_low, a_high = -torch.ones(7), torch.full((7,), 3.0)
                save_file(
                    {
                        "observation.state.min": low,
                        "observation.state.max": high,
                        "action.q01": a_low,
                        "action.q99": a_high,
                    },
                    state,
                )
        file.write_text(json.dumps(content))
    face = load_policy(copy).interface
    assert face.state_mean == (2, 3, 4, 5, 6, 7) and face.state_std == (2,) * 6
    assert face.action_mean == (1,) * 7 and face.action_std == (2,) * 7


def test_settings_that_the_constructor_refuses_are_the_checkpoints_fault(tmp_path):
    def refuse():
        raise ValueError("Image size 30 is no multiple of 14")

    with pytest.raises(CheckpointError, match=r"config\.json: Image size 30"):
        build(refuse, tmp_path)


@pytest.mark.parametrize("kind", [NotImplementedError, TypeError, KeyError])
def test_other_errors_of_the_constructor_are_not(tmp_path, kind):
    def fail():
        raise kind("of the program")

    with pytest.raises(kind, match="of the program"):
        build(fail, tmp_path)
