"""pi0 and pi0.5 as files: the programs are the policy, in the interpreter and in the runtime."""

import copy
from pathlib import Path

import half_file
import numpy as np
import pytest
import torch
from actquant_runtime import Runtime
from tiny_pi import build_tiny_pi, tiny_backbone
from tiny_policies import CAMERAS
from torch import nn

import actquant.compression.pipeline as pipeline
from actquant.capture import fusion_report
from actquant.capture.policy import (
    CapturedPolicy,
    capture_policy,
    convert_f32,
    matrices_of_fixed_type,
    quantizable,
)
from actquant.fidelity.parity import ReferenceRunner, golden_observations, measure_parity
from actquant.format.model_file import read_model
from actquant.policies import LoadedPolicy, load_policy

PROMPTS = ("push", " put_the black\ncup on the tray ", "the the the put put put", "lift")


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    build_tiny_pi(folder, request.param, camera_shape=(3, 30, 40))
    with tiny_backbone(request.param):
        return load_policy(folder, control_rate_hz=10)


@pytest.fixture(scope="module")
def captured(loaded: LoadedPolicy) -> CapturedPolicy:
    return capture_policy(loaded)


@pytest.fixture(scope="module")
def file(loaded: LoadedPolicy, captured: CapturedPolicy, tmp_path_factory) -> Path:
    return convert_f32(loaded, tmp_path_factory.mktemp("file") / "policy.gguf")


def test_the_programs_are_the_policy(loaded, file: Path):
    """Other prompts, states and images than the examples, resized, a third with a masked camera."""
    report = measure_parity(
        file, loaded, prompts=PROMPTS, n=6, runner=ReferenceRunner.from_file(file)
    )
    assert report.distance.worst < 2e-6, str(report)
    assert any(item["masked_cameras"] for item in report.golden)


def test_the_runtime_is_the_policy(loaded, file: Path):
    report = measure_parity(file, loaded, prompts=PROMPTS, n=6)
    assert report.distance.worst < 1e-5, str(report)


@pytest.mark.parametrize("kind", half_file.TYPES)
def test_half_precision_weights_cost_less_than_lerobots_own(loaded, tmp_path: Path, kind):
    theirs = lerobot_in_bfloat16(loaded)
    half_file.check_half_precision(loaded, kind, tmp_path, PROMPTS, 6, in_bfloat16=theirs)


def test_what_lerobots_bfloat16_keeps_in_single_precision_stays_so_in_a_file(
    loaded, captured, tmp_path: Path, monkeypatch
):
    theirs = dict(lerobot_in_bfloat16(loaded).policy.named_parameters())
    matrices = matrices_of_fixed_type(loaded, ())
    kept = {name for name in matrices if theirs[name].dtype == torch.float32}
    assert kept == set(matrices) & set(captured.single_precision) != set(matrices)
    monkeypatch.setattr(pipeline, "load_policy", lambda *_, **__: loaded)
    report = pipeline.compress("", tmp_path / "m.gguf", recipe="bf16", verify="none")
    tensors = read_model(tmp_path / "m.gguf").tensors
    for name in matrices:
        assert tensors[captured.tensor_names[name]].type == ("F32" if name in kept else "BF16")
    assert {t.name for t in report.tensors if t.type == "F32"} == kept & {
        t.name for t in quantizable(loaded)
    }


def lerobot_in_bfloat16(loaded: LoadedPolicy) -> LoadedPolicy:
    """The same weights in the policy as LeRobot builds it for `dtype = bfloat16`."""
    config = copy.deepcopy(loaded.config)
    config.dtype = "bfloat16"
    with tiny_backbone(config.type):
        policy = type(loaded.policy).from_pretrained(loaded.folder, config=config)
    assert torch.bfloat16 in {parameter.dtype for parameter in policy.parameters()}
    theirs = copy.copy(loaded)
    theirs.policy = policy.eval()
    return theirs


def test_an_image_of_another_shape_is_padded_as_the_policy_does(loaded, file: Path):
    (x,) = golden_observations(loaded, PROMPTS, n=1)
    random = np.random.default_rng(0)
    runners = (ReferenceRunner.from_file(file), Runtime(str(file)))
    for height, width in ((17, 61), (61, 17), (28, 28)):
        images = {key: random.integers(0, 256, (height, width, 3), np.uint8) for key in CAMERAS}
        observation = {**x.observation, **images}
        expected = loaded.family.act(loaded, observation, x.noise)
        for runner in runners:
            got = runner.act(observation, noise=x.noise)
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)


def test_states_at_and_beyond_the_edges_of_their_range_agree(loaded, file: Path):
    """pi0.5 writes the state into the prompt as the number of a bin."""
    (x,) = golden_observations(loaded, PROMPTS, n=1)
    mean, std = np.array(loaded.interface.state_mean), np.array(loaded.interface.state_std)
    runtime = Runtime(str(file))
    for normalised in (-3.0, -1.001, -0.5001, 0.0001, 0.9999, 3.0):
        state = (mean + std * normalised).astype(np.float32)
        observation = {**x.observation, "observation.state": state}
        expected = loaded.family.act(loaded, observation, x.noise)
        got = runtime.act(observation, noise=x.noise)
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)


def test_nothing_is_left_unfused(captured):
    for graph in captured.stages.values():
        report = fusion_report(graph)
        assert not [key for key, count in report.items() if key.startswith("unfused") and count]
        assert not {"softmax", "matmul", "rsqrt"} & set(graph.histogram())


def test_what_depends_on_the_time_alone_is_a_table(loaded, captured):
    """No step computes the adaptive norms of pi0.5, whose weights are not even written."""
    assert "sin" not in captured.stages["denoise"].histogram()
    assert "timestep" not in {n.name for n in captured.stages["denoise"].inputs}
    read = set(captured.params)
    adaptive = {name for name in dict(loaded.policy.named_parameters()) if ".dense." in name}
    assert len(adaptive) == (0 if loaded.family.policy_type == "pi0" else 10)
    assert not adaptive & read
    assert "model.state_proj.weight" not in captured.stages["denoise"].params()


def test_linear_weights_that_inference_reads_may_be_quantized(loaded, captured):
    tensors = quantizable(loaded)
    modules = dict(loaded.policy.named_modules())
    assert all(isinstance(modules[t.module], nn.Linear) for t in tensors)
    parts = ("vision", "language", "expert")
    layers = {f"{part}.{index}" for part in parts for index in (0, 1)}
    assert {t.layer for t in tensors} == {*layers, "projection"}
    last = "model.paligemma_with_expert.paligemma.model.language_model.layers.1."
    assert f"{last}mlp.up_proj.weight" in captured.dropped
    assert f"{last}self_attn.k_proj.weight" in {t.name for t in tensors}
