"""The template of docs/adding-a-policy.md is a whole family: the policy it supposes converts."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from tiny_policies import CAMERAS
from tiny_template_policy import YourPolicy, build_tiny_template_policy

from actquant.capture.policy import capture_policy, convert_f32, quantizable
from actquant.compression.pipeline import compress
from actquant.fidelity.parity import ReferenceRunner, check_parity, golden_observations
from actquant.policies import load_policy, registry

TEMPLATE = Path(__file__).parents[2] / "docs" / "policy_template.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of the policy; the template is a module of actquant/policies and in its table,
    and what stands in capitals is replaced."""
    name = "actquant.policies.your_policy"
    spec = importlib.util.spec_from_file_location(name, TEMPLATE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.Family.policy_class = YourPolicy
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        patch.setitem(registry.FAMILIES, "your_policy", "your_policy:Family")
        yield build_tiny_template_policy(tmp_path_factory.mktemp("template") / "policy")


@pytest.fixture(scope="module")
def loaded(folder):
    return load_policy(folder, control_rate_hz=10)


def test_the_template_names_nothing_that_is_registered(folder):
    assert "your_policy" in registry.supported_policies()
    source = TEMPLATE.read_text()
    assert source.count("# YOUR POLICY'S CLASS") == 1
    assert source.count("# THE NAME LEROBOT REGISTERS") == 1


def test_its_program_is_the_policy_in_the_interpreter_and_in_the_runtime(loaded, tmp_path):
    file = convert_f32(loaded, tmp_path / "policy.gguf")
    check_parity(file, loaded, n=4, runner=ReferenceRunner.from_file(file))
    report = check_parity(file, loaded, n=8)
    assert report.distance.worst < 1e-5
    assert {tuple(golden["masked_cameras"]) for golden in report.golden} == {
        (),
        *((camera,) for camera in CAMERAS),
    }
    assert capture_policy(loaded).report.warnings == []


def test_it_is_compressed_by_the_command_that_knows_no_family(folder, tmp_path):
    report = compress(folder, tmp_path / "policy.gguf", recipe="q8_0", control_rate_hz=10)
    assert report.program_error.worst < 1e-4 and report.file_error.worst < 0.1


def test_every_weight_has_a_group_and_the_loss_is_the_policys_own(loaded):
    groups = {tensor.group for tensor in quantizable(loaded)}
    assert groups == {"vision", "language", "expert", "projection"}
    batch = loaded.batch([x.observation for x in golden_observations(loaded, n=2)])
    batch["action"] = torch.randn(2, loaded.interface.chunk_length, 7)
    noise, time = torch.randn(2, *loaded.interface.noise_shape), torch.tensor([0.3, 0.9])
    losses = loaded.family.action_loss(loaded, batch, noise, time)
    expected, _ = loaded.policy.forward(batch, noise, time)
    assert losses.shape == (2,) and losses.mean() == pytest.approx(float(expected), rel=1e-6)
