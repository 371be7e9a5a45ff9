"""The captured OpenVLA-OFT is the policy, for prompts of every length, also in the runtime."""

import copy
from pathlib import Path

import half_file
import numpy as np
import pytest
import torch
from openvla_oft_checkpoint import Sizes, build_openvla_oft
from torch import nn

from actquant.capture import fusion_report
from actquant.capture.policy import CapturedPolicy, capture_policy, convert_f32, quantizable
from actquant.fidelity.parity import golden_observations, measure_parity
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.policies import LoadedPolicy, load_policy

TOLERANCE = 2e-5
PROMPTS = ("lift", "Put the black cup on the tray", "put the bowl on the plate " * 4, "Ünknown_x")
TOO_LONG = "zigzag " * 60


@pytest.fixture(scope="module")
def oft(tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicy:
    return load_policy(build_openvla_oft(tmp_path_factory.mktemp("policy") / "oft"))


@pytest.fixture(scope="module")
def program(oft) -> CapturedPolicy:
    return capture_policy(oft)


def test_one_program_serves_every_prompt(oft, program):
    runner = ReferenceRunner(oft.interface, program.stages)
    inputs = golden_observations(oft, PROMPTS, n=4)
    assert len({oft.batch([x.observation])["tokens"].shape for x in inputs}) == 4
    chunks = []
    for x in inputs:
        expected = oft.family.act(oft, x.observation, x.noise)
        got = runner.act(x.observation, noise=x.noise)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
        chunks.append(expected)
    assert np.abs(chunks[0] - chunks[1]).max() > 1000 * TOLERANCE


def test_a_prompt_that_is_too_long_ends_as_every_other(oft, program):
    (x,) = golden_observations(oft, (TOO_LONG,), n=1)
    tokens = oft.batch([x.observation])["tokens"]
    assert tokens.shape == (1, oft.interface.tokenizer_max_length)
    assert tokens[0, -1:].tolist() == list(oft.interface.tokenizer_suffix_ids)
    runner = ReferenceRunner(oft.interface, program.stages)
    expected = oft.family.act(oft, x.observation, x.noise)
    got = runner.act(x.observation, noise=x.noise)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def test_nothing_is_left_unfused(program):
    vision, prefix = (fusion_report(program.stages[name]) for name in ("vision", "prefix"))
    assert not [k for k, v in (vision | prefix).items() if k.startswith("unfused") and v]
    assert (vision["layer_norm"], vision["sdpa"], prefix["layer_norm"]) == (8, 4, 4)
    assert (prefix["rms_norm"], prefix["rope"], prefix["sdpa"], prefix["glu"]) == (5, 4, 2, 2)


def test_every_linear_weight_of_the_policy_may_be_quantized(oft, program):
    tensors = quantizable(oft)
    linear = {name for name, m in oft.policy.named_modules() if isinstance(m, nn.Linear)}
    assert {t.module for t in tensors} == linear and not program.dropped
    assert {t.layer for t in tensors} == {
        *("vision.dinov2.0", "vision.dinov2.1", "vision.siglip.0", "vision.siglip.1"),
        *("language.0", "language.1", "expert.head", "projection"),
    }
    parameters = sum(p.numel() for p in oft.policy.parameters())
    assert program.metadata.parameter_count == parameters


@pytest.mark.parametrize("variant", ["two cameras and a state", "one camera"])
def test_the_runtime_answers_as_pytorch(oft, tmp_path: Path, variant):
    loaded = oft
    if variant == "one camera":
        config = {"num_images_in_input": 1, "center_crop": False}
        loaded = load_policy(build_openvla_oft(tmp_path / "oft", Sizes(state_dim=None), **config))
    file = convert_f32(loaded, tmp_path / "oft.gguf")
    report = measure_parity(file, loaded, prompts=PROMPTS, n=4)
    assert report.distance.worst < 1e-5


@pytest.mark.parametrize("kind", half_file.TYPES)
def test_half_precision_is_nearer_than_pytorchs(oft, program, tmp_path: Path, kind):
    """The checkpoints are published in bfloat16 and run in it."""
    file = half_file.write_half(program, tmp_path / "half.gguf", kind)
    report = measure_parity(file, oft, prompts=PROMPTS, n=4)
    half = copy.deepcopy(oft.policy).bfloat16()
    errors = []
    for x in golden_observations(oft, PROMPTS, n=4):
        batch = oft.batch([x.observation])
        inputs = (batch["images"], batch["tokens"], batch["token_mask"], batch["state"])
        with torch.no_grad():
            expected = oft.policy(*inputs)
            rounded = [i.bfloat16() if i.is_floating_point() else i for i in inputs]
            error = half(*rounded).float() - expected
        errors.append(error.square().mean().sqrt().item())
    assert 0 < report.distance.worst < max(errors)


def test_weights_that_stay_on_disk_give_the_same(oft, program):
    streamed = load_policy(oft.folder, streamed=True)
    assert streamed.streamed is not None and oft.streamed is None
    (x,) = golden_observations(oft, PROMPTS[:1], n=1)
    expected = oft.family.act(oft, x.observation, x.noise)
    np.testing.assert_array_equal(streamed.family.act(streamed, x.observation, x.noise), expected)
    captured = capture_policy(streamed)
    assert captured.tensor_names == program.tensor_names
    for name in captured.params:
        assert torch.equal(captured.params[name], program.params[name])
