"""What happens around the stages: the drivers, observation steps, prompt lengths."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import policy_files
import pytest
from actquant_runtime import ArgumentError, Runtime, golden_observation
from policy_files import (
    EMBEDDING,
    ONE_SHOT,
    noise,
    observation,
    write_one_shot,
    write_policy,
)

MEAN, STD = np.array([0.5, -0.5]), np.array([0.25, 4.0])

WITHOUT_LANGUAGE = {
    "actquant.tokenizer.json": None,
    "actquant.tokenizer.min_length": ("uint32", 0),
    "actquant.tokenizer.max_length": ("uint32", 0),
}
WITHOUT_STATE = {
    "actquant.state.names": None,
    "actquant.state.mean": None,
    "actquant.state.std": None,
    "actquant.state.padded_dim": ("uint32", 0),
}


def embed(image: np.ndarray) -> np.ndarray:
    """The vision stage of policy_files, [tokens, width]."""
    weights = policy_files.weights()
    pixels = image.astype(np.float64) / 255 * 2 - 1
    patches = np.stack([pixels[:, 6 * k : 6 * k + 6].transpose(2, 0, 1) for k in range(2)])
    return np.einsum("tcyx,ocyx->to", patches, weights["patch.w"]) + weights["patch.b"]


def test_one_shot(tmp_path):
    runtime = Runtime(write_one_shot(tmp_path / "one.gguf", keys=WITHOUT_LANGUAGE | WITHOUT_STATE))
    assert runtime.noise_shape == (0,) and runtime.describe()["sampler"] is None
    assert runtime.describe()["prompt"] is None
    image = observation()["observation.images.scene"]
    rows = embed(image) @ policy_files.weights()["out.w"].T
    expected = np.concatenate([rows, rows[1:]])[:, :2] * STD + MEAN
    actions = runtime.act({"observation.images.scene": image})
    np.testing.assert_allclose(actions, expected, atol=2e-5)
    np.testing.assert_array_equal(
        actions, runtime.act({"observation.images.scene": image}, noise=np.zeros(0), seed=3)
    )
    assert runtime.timings_ms["denoise"] == 0
    with pytest.raises(ArgumentError, match=r"noise is \(3, 4\), expected \(0,\)"):
        runtime.act({"observation.images.scene": image}, noise=noise())


def test_golden_observation_without_state_and_noise(tmp_path):
    runtime = Runtime(write_one_shot(tmp_path / "one.gguf", keys=WITHOUT_LANGUAGE | WITHOUT_STATE))
    seen, start = golden_observation(runtime.describe(), 1)
    assert start.shape == (0,) and "observation.state" not in seen
    assert runtime.act(seen, noise=start).shape == (3, 2)


def test_state_and_language_need_not_be_used(tmp_path):
    runtime = Runtime(write_one_shot(tmp_path / "one.gguf"))
    assert runtime.act(observation()).shape == (3, 2)


TWO_STEPS = {**ONE_SHOT, **WITHOUT_LANGUAGE, "actquant.observation.steps": ("uint32", 2)}
TWO_STEP_PREFIX = f"""
%0 = input {EMBEDDING} name=image_embedding_0
%1 = input {EMBEDDING} name=image_embedding_1
%2 = input {EMBEDDING} name=image_embedding_2
%3 = input {EMBEDDING} name=image_embedding_3
%4 = input f32[2,5] name=state
%5 = affine {EMBEDDING} %1 a=2 b=0
%6 = affine {EMBEDDING} %2 a=3 b=0
%7 = affine {EMBEDDING} %3 a=5 b=0
%8 = add {EMBEDDING} %0 %5
%9 = add {EMBEDDING} %8 %6
%10 = add {EMBEDDING} %9 %7
%11 = linear f32[2,8] %4 @state.w
%12 = reshape {EMBEDDING} %11 shape=[1,2,8]
%13 = add {EMBEDDING} %10 %12
%14 = linear f32[1,2,4] %13 @out.w
%15 = slice f32[1,1,4] %14 dim=1 start=0 end=1
%16 = concat f32[1,3,4] %14 %15 dim=1
output actions %16
"""


def two_steps(first, second):
    keys = ("observation.images.scene", "observation.images.wrist", "observation.state")
    return {key: np.stack([first[key], second[key]]) for key in keys if key in first}


def test_two_observation_steps_oldest_first(tmp_path):
    runtime = Runtime(write_one_shot(tmp_path / "two.gguf", TWO_STEP_PREFIX, TWO_STEPS))
    seen = two_steps(observation(1), observation(2))
    weights = policy_files.weights()
    scene, wrist = seen["observation.images.scene"], seen["observation.images.wrist"]
    total = embed(scene[0]) + 2 * embed(wrist[0]) + 3 * embed(scene[1]) + 5 * embed(wrist[1])
    scaled = (seen["observation.state"] - [0.1, -0.2, 0.3]) / (np.array([0.5, 1.5, 2.5]) + 1e-6)
    rows = (total + np.pad(scaled, ((0, 0), (0, 2))) @ weights["state.w"].T) @ weights["out.w"].T
    expected = np.concatenate([rows, rows[:1]])[:, :2] * STD + MEAN
    np.testing.assert_allclose(runtime.act(seen), expected, atol=5e-5)

    del seen["observation.images.wrist"]
    total = embed(scene[0]) + 3 * embed(scene[1])
    rows = (total + np.pad(scaled, ((0, 0), (0, 2))) @ weights["state.w"].T) @ weights["out.w"].T
    np.testing.assert_allclose(runtime.act(seen)[:2], rows[:, :2] * STD + MEAN, atol=5e-5)


def test_the_prompt_shows_the_newest_state(tmp_path):
    ids = {token: i for i, token in enumerate(("[UNK]", "[BOS]", *"01234567", "\n"))}
    language = {
        "actquant.prompt.template": ("string", "{state}"),
        "actquant.prompt.state_bins": ("uint32", 8),
        "actquant.tokenizer.json": ("string", policy_files.tokenizer_json(ids)),
        "actquant.tokenizer.min_length": ("uint32", 1),
        "actquant.tokenizer.max_length": ("uint32", 6),
    }
    two = write_one_shot(tmp_path / "two.gguf", TWO_STEP_PREFIX, {**TWO_STEPS, **language})
    runtime = Runtime(two)
    mean, std = np.array([0.1, -0.2, 0.3]), np.array([0.5, 1.5, 2.5])
    older, newer = (mean + std * x for x in ([-0.9, -0.9, -0.9], [-0.6, 0.1, 0.9]))
    seen = {
        **two_steps(observation(1), observation(2)),
        "observation.state": np.stack([older, newer]).astype(np.float32),
        "task": "push",
    }
    assert runtime.tokenize(seen).tolist() == [ids[x] for x in ("[BOS]", *"147", "\n")]
    seen["observation.state"] = seen["observation.state"][::-1].copy()
    assert runtime.tokenize(seen).tolist() == [ids[x] for x in ("[BOS]", *"000", "\n")]


def test_observation_steps_are_checked(tmp_path):
    runtime = Runtime(write_one_shot(tmp_path / "two.gguf", TWO_STEP_PREFIX, TWO_STEPS))
    seen = two_steps(observation(1), observation(2))
    one_image = {"observation.images.scene": observation()["observation.images.scene"]}
    with pytest.raises(ArgumentError, match=r"expected uint8 \[2, height, width, 3\]"):
        runtime.act({**seen, **one_image})
    seen["observation.state"] = seen["observation.state"][0]
    with pytest.raises(ArgumentError, match=r"observation.state is \(3,\), expected \(2, 3\)"):
        runtime.act(seen)


def test_golden_observation_of_two_steps(tmp_path):
    runtime = Runtime(write_one_shot(tmp_path / "two.gguf", TWO_STEP_PREFIX, TWO_STEPS))
    seen, _ = golden_observation(runtime.describe(), 4)
    assert seen["observation.images.scene"].shape == (2, 6, 12, 3)
    assert seen["observation.state"].shape == (2, 3)
    single = {**runtime.describe(), "observation_steps": 1}
    first, _ = golden_observation(single, 4)
    for key in ("observation.images.scene", "observation.images.wrist", "observation.state"):
        np.testing.assert_array_equal(seen[key][0], first[key])
    assert runtime.act(seen).shape == (3, 2)


def sampled(runtime, seen, coefficients, draws) -> np.ndarray:
    """The sampler's formula with the runtime's own denoise stage, in float64."""
    state = (seen["observation.state"] - [0.1, -0.2, 0.3]) / (np.array([0.5, 1.5, 2.5]) + 1e-6)
    prefix = runtime.run_stage(
        "prefix",
        {
            "image_embedding_0": embed(seen["observation.images.scene"])[None],
            "image_embedding_1": embed(seen["observation.images.wrist"])[None],
            "image_mask_0": [True],
            "image_mask_1": [True],
            "tokens": [[1, 2, 3, 4, 5, 6]],
            "token_mask": [[True] * 6],
            "state": np.pad(state, (0, 2))[None],
        },
    )
    n, fresh = draws[0], list(draws[1:])
    x = n
    for k, (p, q, c, u, v, w, s, z) in enumerate(coefficients):
        inputs = {**prefix, "x_t": x[None], "step": [k]}
        o = runtime.run_stage("denoise", inputs)["output"][0].astype(np.float64)
        x0 = p * x + q * o
        x0 = np.clip(x0, -c, c) if c else x0
        e = fresh.pop(0) if s else 0
        x = u * x0 + v * x + w * o + s * e + z * n
    assert not fresh
    return x


SAMPLERS = {
    "euler": [(0, 0, 0, 0, 1, -0.25, 0, 0)] * 4,
    "clipped": [(0.9, -0.4, 0.3, 0.8, 0.2, 0.1, 0, 0)] * 4,
    "fresh": [(0.9, -0.4, 0, 0.8, 0.2, 0, s, 0) for s in (0.5, 0, 0.3, 0)],
    "initial": [(0, 1, 2.0, 0.75, 0, 0, 0, 0.25), (0, 1, 0, 0.5, 0, 0, 0.1, 0.5)] * 2,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_table(tmp_path, name):
    table = SAMPLERS[name]
    flat = [float(value) for row in table for value in row]
    keys = {"actquant.sampler.coefficients": ("array", flat)}
    runtime = Runtime(write_policy(tmp_path / "sampler.gguf", keys=keys))
    fresh = sum(row[6] != 0 for row in table)
    draws = np.random.default_rng(2).normal(size=(1 + fresh, 3, 4)).astype(np.float32)
    assert runtime.noise_shape == ((1 + fresh, 3, 4) if fresh else (3, 4))
    seen = observation()
    expected = sampled(runtime, seen, table, draws)[:, :2] * STD + MEAN
    actions = runtime.act(seen, noise=draws.reshape(runtime.noise_shape))
    np.testing.assert_allclose(actions, expected, atol=1e-4)
    if fresh:
        other = draws.copy()
        other[-1] += 1
        assert np.abs(runtime.act(seen, noise=other) - actions).max() > 1e-3
        with pytest.raises(ArgumentError, match=r"noise is \(3, 4\), expected"):
            runtime.act(seen, noise=draws[0])
    np.testing.assert_array_equal(runtime.act(seen, seed=5), runtime.act(seen, seed=5))


DECODE = """
%0 = input f32[1,3,4] name=x
%1 = affine f32[1,3,4] %0 a=3 b=1
%2 = slice f32[1,2,4] %1 dim=1 start=1 end=3
output actions %2
"""


def test_decode_turns_the_sample_into_the_chunk(tmp_path):
    length = {
        "actquant.action.chunk_length": ("uint32", 2),
        "actquant.action.steps_per_chunk": ("uint32", 1),
    }
    path = write_policy(tmp_path / "decode.gguf", programs={"decode": DECODE}, keys=length)
    plain = Runtime(write_policy(tmp_path / "plain.gguf"))
    sample = (plain.act(observation(), noise=noise()) - MEAN) / STD
    actions = Runtime(path).act(observation(), noise=noise())
    np.testing.assert_allclose(actions, (3 * sample + 1)[1:] * STD + MEAN, atol=1e-4)


def test_the_normalised_state_is_clamped(tmp_path):
    keys = {"actquant.state.clip": ("float32", 1.5)}
    runtime = Runtime(write_policy(tmp_path / "clip.gguf", keys=keys))
    assert runtime.describe()["state"]["clip"] == 1.5
    far = {**observation(), "observation.state": np.array([9.0, -99.0, 0.3], np.float32)}
    edge = np.array([0.1, -0.2, 0.3]) + 1.5 * (np.array([0.5, 1.5, 2.5]) + 1e-6) * [1, -1, 0]
    near = {**observation(), "observation.state": edge.astype(np.float32)}
    far_actions = runtime.act(far, noise=noise())
    np.testing.assert_allclose(far_actions, runtime.act(near, noise=noise()), atol=1e-5)
    open_ended = Runtime(write_policy(tmp_path / "open.gguf"))
    assert np.abs(open_ended.act(far, noise=noise()) - far_actions).max() > 1e-2


TASKS = ("push the red cube", "push", "push the cube", "push the red cube")


def test_several_prompt_lengths_in_one_session(tmp_path):
    path = write_policy(tmp_path / "tiny.gguf")
    runtime = Runtime(path)
    for task in TASKS:
        seen = {**observation(), "task": task}
        expected = Runtime(path).act(seen, noise=noise())
        np.testing.assert_array_equal(runtime.act(seen, noise=noise()), expected)


def test_stages_run_at_the_length_of_their_inputs(tmp_path):
    runtime = Runtime(write_policy(tmp_path / "tiny.gguf"))
    for length in (3, 6, 2):
        inputs = {
            "x_t": noise()[None],
            "step": [0],
            "keys": np.zeros((1, 5 + length, 8)),
            "key_mask": np.ones((1, 5 + length), bool),
        }
        assert runtime.run_stage("denoise", inputs)["output"].shape == (1, 3, 4)
    inputs = {**inputs, "keys": np.zeros((1, 6, 8)), "key_mask": np.ones((1, 6), bool)}
    with pytest.raises(ArgumentError, match="for prompts of 1 tokens; they may have 2 to 6"):
        runtime.run_stage("denoise", inputs)
    inputs["keys"] = np.zeros((1, 9, 8))
    with pytest.raises(ArgumentError, match=r"key_mask is b8\[1,6\], expected b8\[1,9\]"):
        runtime.run_stage("denoise", inputs)


def test_short_prompts_are_padded_to_the_minimum(tmp_path):
    """Padding is masked out, so the answer is that of the unpadded prompt."""
    keys = {"actquant.tokenizer.min_length": ("uint32", 6)}
    fixed = Runtime(write_policy(tmp_path / "fixed.gguf", keys=keys))
    free = Runtime(write_policy(tmp_path / "free.gguf"))
    seen = {**observation(), "task": "push"}
    np.testing.assert_allclose(
        fixed.act(seen, noise=noise()), free.act(seen, noise=noise()), atol=1e-5
    )


def test_memory_is_predicted(tmp_path):
    memory = Runtime(write_policy(tmp_path / "tiny.gguf"), threads=1).describe()["memory"]
    weights = policy_files.weights()
    looked_up = weights["vocabulary"].nbytes + weights["times"].nbytes
    assert memory["tables_bytes"] == looked_up
    assert memory["weights_bytes"] == sum(w.nbytes for w in weights.values()) - looked_up
    assert memory["compute_bytes"] > 4 * 3 * 6 * 12


WIDTH = 4096
BIG_PREFIX = f"""
%0 = input f32[1,5] name=state
%1 = linear f32[512,{WIDTH}] @rows @big.w
%2 = tanh f32[512,{WIDTH}] %1
%3 = linear f32[512,{WIDTH}] %2 @big.w
%4 = slice f32[3,{WIDTH}] %3 dim=0 start=0 end=3
%5 = slice f32[3,4] %4 dim=1 start=0 end=4
%6 = reshape f32[1,3,4] %5 shape=[1,3,4]
output actions %6
"""
PEAK = """
import sys, numpy as np
from actquant_runtime import Runtime, golden_observation

def kilobytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

before = kilobytes("VmRSS")
runtime = Runtime(sys.argv[1], threads=1)
observation, _ = golden_observation(runtime.describe(), 1, "push")
runtime.act(observation)
memory = runtime.describe()["memory"]
predicted = sum(size for name, size in memory.items() if name != "tables_bytes")
print((kilobytes("VmHWM") - before) * 1024 / predicted)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak memory")
def test_peak_memory_is_what_was_predicted(tmp_path):
    tensors = {
        "big.w": np.full((WIDTH, WIDTH), 1e-4, np.float32),
        "rows": np.ones((512, WIDTH), np.float32),
    }
    programs = {"prefix": BIG_PREFIX, "denoise": None}
    path = write_policy(tmp_path / "big.gguf", programs=programs, keys=ONE_SHOT, tensors=tensors)
    command = [sys.executable, "-c", PEAK, str(path)]
    ratio = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert ratio == pytest.approx(1, abs=0.05)
