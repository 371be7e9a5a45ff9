"""The captured policy is the policy, on inputs and settings that its capture never saw."""

from pathlib import Path

import half_file
import numpy as np
import pytest
import torch
from tiny_policies import CAMERAS, build_tiny_smolvla
from torch import nn

from actquant.capture import fusion_report
from actquant.capture.policy import capture_policy, quantizable
from actquant.fidelity.parity import ReferenceRunner, golden_observations
from actquant.format.golden import golden_input
from actquant.policies import load_policy
from actquant.program import interpret
from actquant.program.size import at_length

PROMPTS = ("push", "put the black cup on the tray", "lift", "the the the put put put the the the")
TOLERANCE = 1e-5
LENGTH = 13
"""A prompt length that is captured nowhere."""


def check_chunks(loaded, observations):
    """Whole chunks agree; with a control that other observations give other actions."""
    captured = capture_policy(loaded)
    runner = ReferenceRunner(loaded.interface, captured.stages)
    chunks = []
    for x in observations:
        expected = loaded.family.act(loaded, x.observation, x.noise)
        chunks.append(expected)
        got = runner.act(x.observation, noise=x.noise)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
    return chunks


def test_stages_agree_with_the_policy_on_other_inputs(loaded, captured):
    for stage in loaded.family.stages(loaded, LENGTH):
        graph = captured.stages[stage.name]
        if stage.name == "denoise":
            continue
        inputs = {}
        for name, example in stage.example_inputs.items():
            if example.dtype == torch.bool:
                inputs[name] = torch.rand(example.shape) > 0.5
            elif example.dtype == torch.long:
                inputs[name] = torch.randint(0, 200, example.shape)
            else:
                inputs[name] = torch.randn_like(example)
        with torch.no_grad():
            expected = stage.module(**inputs)
        got = interpret(at_length(graph, LENGTH), inputs)
        common = [name for name in got if name in expected]
        assert common
        for name in common:
            torch.testing.assert_close(got[name], expected[name], atol=TOLERANCE, rtol=1e-5)


def test_a_denoising_step_agrees_at_another_time(loaded, captured):
    stages = {stage.name: stage for stage in loaded.family.stages(loaded, LENGTH)}
    prefix_inputs = dict(stages["prefix"].example_inputs)
    prefix_inputs["token_mask"] = torch.arange(LENGTH)[None] < 5
    prefix_inputs["image_mask_1"] = torch.tensor([False])
    x_t = torch.randn_like(stages["denoise"].example_inputs["x_t"])
    prefix, denoise = (at_length(captured.stages[name], LENGTH) for name in ("prefix", "denoise"))
    for step, time in ((0, 1.0), (3, 0.25)):
        with torch.no_grad():
            cached = stages["prefix"].module(**prefix_inputs)
            moment = torch.tensor([time])
            expected = stages["denoise"].module(x_t=x_t, timestep=moment, **cached)["output"]
        fixed = interpret(prefix, prefix_inputs)
        given = {**fixed, "x_t": x_t, "step": torch.tensor([step])}
        got = interpret(denoise, given)["output"]
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=1e-5)


def test_whole_chunks_agree_with_other_prompts_and_masked_cameras(loaded):
    observations = golden_observations(loaded, PROMPTS, n=6)
    assert {len(x.masked_cameras) for x in observations} == {0, 1}
    chunks = check_chunks(loaded, observations)
    assert np.abs(chunks[0] - chunks[1]).max() > 1000 * TOLERANCE


def test_every_prompt_length_and_subset_of_cameras_agrees_with_the_padded_policy(loaded):
    """PyTorch pads every prompt to the full length and masks the padding."""
    limit = loaded.interface.tokenizer_max_length
    prompts = ("", "A1", "put the cup", "the cup " * 40)
    runner = ReferenceRunner(loaded.interface, capture_policy(loaded).stages)
    lengths = set()
    for seed, prompt in enumerate(prompts, 1):
        for masked in ((), CAMERAS[:1], CAMERAS[1:]):
            x = golden_input(loaded.interface, seed, prompt, masked)
            batch = loaded.batch([x.observation])
            used = int(batch["observation.language.attention_mask"].sum())
            assert batch["observation.language.tokens"].shape[1] >= used
            lengths.add(used)
            expected = loaded.family.act(loaded, x.observation, x.noise)
            got = runner.act(x.observation, noise=x.noise)
            np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
    assert {1, 3, limit} <= lengths and len(lengths) == 4


def test_the_last_layer_of_the_prefix_computes_keys_and_values_only(captured):
    last = "model.vlm_with_expert.vlm.model.text_model.layers.1."
    read = {name for name in captured.stages["prefix"].params() if name.startswith(last)}
    parts = ("input_layernorm", "self_attn.k_proj", "self_attn.v_proj")
    assert read == {f"{last}{part}.weight" for part in parts}


def test_the_time_of_a_step_is_a_table(loaded, captured):
    denoise = captured.stages["denoise"]
    assert {n.name for n in denoise.inputs} >= {"x_t", "step"}
    assert not any(n.name == "timestep" for n in denoise.inputs)
    (table,) = (n for n in denoise.nodes() if n.op == "const" and n.name)
    assert table.shape[0] == len(loaded.interface.sampler.timesteps)
    assert captured.report.stages[2].tables == 1


def test_prompt_state_image_and_camera_mask_all_matter(loaded):
    (x,) = golden_observations(loaded, PROMPTS, n=1)
    expected = loaded.family.act(loaded, x.observation, x.noise)
    state = x.observation["observation.state"]
    scene = x.observation[CAMERAS[0]]
    changed = (
        {**x.observation, "task": "zz"},
        {**x.observation, "observation.state": state + 1},
        {**x.observation, CAMERAS[0]: 255 - scene},
        {key: value for key, value in x.observation.items() if key != CAMERAS[1]},
    )
    for observation in changed:
        other = loaded.family.act(loaded, observation, x.noise)
        assert np.abs(other - expected).max() > 100 * TOLERANCE


def test_images_of_another_size_are_padded_as_the_policy_does(loaded):
    (x,) = golden_observations(loaded, PROMPTS, n=1)
    generator = np.random.default_rng(0)
    images = {key: generator.integers(0, 256, (30, 64, 3), np.uint8) for key in CAMERAS}
    runner = ReferenceRunner(loaded.interface, capture_policy(loaded).stages)
    observation = {**x.observation, **images}
    expected = loaded.family.act(loaded, observation, x.noise)
    got = runner.act(observation, noise=x.noise)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"add_image_special_tokens": True, "empty_cameras": 1, "prefix_length": 60},
        {"attention_mode": "self_attn", "pad_language_to": "max_length", "cameras": CAMERAS[:1]},
        {"layers": 4, "num_expert_layers": 2, "self_attn_every_n_layers": -1},
        {"layers": 3, "expert_width_multiplier": 0.5},
    ],
    ids=["special-tokens", "self-attention", "fewer-expert-layers", "odd-layers"],
)
def test_settings_are_honoured(tmp_path: Path, settings):
    loaded = load_policy(build_tiny_smolvla(tmp_path / "policy", vision_layers=1, **settings))
    check_chunks(loaded, golden_observations(loaded, PROMPTS, n=3))


def test_a_camera_absent_from_lerobots_batch_is_the_same_as_a_masked_one(captured, tmp_path: Path):
    """LeRobot puts the image of an absent camera last, and empty cameras after it; positions make
    that no difference, so the program of the same policy without empty cameras serves."""
    folder = build_tiny_smolvla(tmp_path / "policy", empty_cameras=2)
    loaded = load_policy(folder)
    assert loaded.interface.cameras == CAMERAS
    (x,) = golden_observations(loaded, PROMPTS, n=1)
    observation = {key: value for key, value in x.observation.items() if key != CAMERAS[0]}
    batch = loaded.batch([observation])
    assert batch.pop(f"{CAMERAS[0]}_padding_mask").tolist() == [False]
    del batch[CAMERAS[0]]
    noise = torch.from_numpy(x.noise)[None]
    with torch.no_grad():
        expected = loaded.postprocessor(loaded.policy.predict_action_chunk(batch, noise=noise))
    runner = ReferenceRunner(loaded.interface, captured.stages)
    got = runner.act(observation, noise=x.noise)
    np.testing.assert_allclose(got, expected[0].numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", half_file.TYPES)
def test_half_precision_weights_cost_less_than_pytorchs_own(loaded, tmp_path, kind):
    half_file.check_half_precision(loaded, kind, tmp_path, PROMPTS, 4)


def test_nothing_is_left_unfused(captured):
    for graph in captured.stages.values():
        report = fusion_report(graph)
        assert not [k for k, v in report.items() if k.startswith("unfused") and v]
        assert not {"softmax", "matmul", "rsqrt"} & set(graph.histogram())
    vision, prefix, denoise = (fusion_report(g) for g in captured.stages.values())
    assert (vision["layer_norm"], vision["sdpa"]) == (5, 2)
    assert (prefix["rms_norm"], prefix["rope"], prefix["sdpa"], prefix["glu"]) == (3, 3, 1, 1)
    assert (denoise["rms_norm"], denoise["rope"], denoise["sdpa"], denoise["glu"]) == (5, 3, 2, 2)


def test_what_does_not_change_over_the_steps_is_in_the_prefix(captured):
    expert = "model.vlm_with_expert.lm_expert.layers.1.self_attn."
    in_prefix, in_denoise = (set(captured.stages[s].params()) for s in ("prefix", "denoise"))
    assert {f"{expert}k_proj.weight", f"{expert}v_proj.weight"} <= in_prefix - in_denoise
    assert f"{expert}q_proj.weight" in in_denoise


def test_quantizable_tensors_are_the_linear_weights_that_inference_reads(loaded, captured):
    tensors = quantizable(loaded)
    modules = dict(loaded.policy.named_modules())
    weights = dict(loaded.policy.named_parameters())
    assert len({t.name for t in tensors}) == len(tensors)
    for t in tensors:
        assert isinstance(modules[t.module], nn.Linear)
        assert weights[t.name] is modules[t.module].weight
        assert tuple(weights[t.name].shape) == t.shape
        assert t.layer.split(".")[0] == t.group
    linear = {f"{name}.weight" for name, m in modules.items() if isinstance(m, nn.Linear)}
    assert linear - {t.name for t in tensors} == linear & set(captured.dropped)
    assert {t.layer for t in tensors} == {
        *("vision.0", "vision.1", "language.0", "language.1", "expert.0", "expert.1"),
        "projection",
    }


def test_parameters_that_inference_never_reads_are_dropped_and_not_counted(loaded, captured):
    last = "model.vlm_with_expert.vlm.model.text_model.layers.1."
    dropped = set(captured.dropped)
    assert {f"{last}mlp.up_proj.weight", f"{last}self_attn.q_proj.weight"} <= dropped
    assert "model.vlm_with_expert.vlm.lm_head.weight" in dropped
    assert f"{last}self_attn.k_proj.weight" not in dropped
    everything = dict(loaded.policy.named_parameters())
    used = sum(p.numel() for name, p in everything.items() if name not in dropped)
    assert captured.metadata.parameter_count == used
    position = "model.vlm_with_expert.vlm.model.vision_model.embeddings.position_embedding.weight"
    assert position not in dropped and position not in captured.params


def test_changing_a_dropped_parameter_changes_nothing_and_a_used_one_does(checkpoint, captured):
    loaded = load_policy(checkpoint)
    (x,) = golden_observations(loaded, PROMPTS, n=1)
    dropped = set(captured.dropped)
    expected = loaded.family.act(loaded, x.observation, x.noise)
    parameters = dict(loaded.policy.named_parameters())
    with torch.no_grad():
        for name in dropped:
            parameters[name].add_(1.0)
    assert np.array_equal(loaded.family.act(loaded, x.observation, x.noise), expected)
    used = "model.vlm_with_expert.vlm.model.text_model.layers.1.self_attn.k_proj.weight"
    with torch.no_grad():
        parameters[used].add_(1.0)
    assert not np.array_equal(loaded.family.act(loaded, x.observation, x.noise), expected)


def test_the_action_loss_is_the_policys_own_per_sample_and_differentiable(checkpoint):
    loaded = load_policy(checkpoint)
    loaded.policy.model.state_proj.requires_grad_(True)
    observations = [x.observation for x in golden_observations(loaded, PROMPTS, n=3)]
    batch = loaded.batch(observations)
    assert batch[f"{CAMERAS[0]}_padding_mask"].tolist() == [True, False, True]
    noise, time = torch.randn(3, 6, 8), torch.tensor([0.2, 0.7, 1.0])
    batch["action"] = torch.randn(3, 6, 7)
    losses = loaded.family.action_loss(loaded, batch, noise, time)
    assert losses.shape == (3,)
    mean, _ = loaded.policy.forward(dict(batch), noise=noise, time=time)
    torch.testing.assert_close(losses.mean(), mean)
    losses.sum().backward()
    assert loaded.policy.model.state_proj.weight.grad.abs().max() > 0
