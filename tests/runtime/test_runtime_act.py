"""A whole policy: from an observation to actions, against the same computation in PyTorch."""

import threading
import time

import numpy as np
import policy_files
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from actquant_runtime import ArgumentError, PromptCutWarning, Runtime
from policy_files import PROGRAMS, noise, observation, write_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.gguf")


@pytest.fixture(scope="module")
def runtime(policy):
    return Runtime(policy, threads=2)


def tokens_of(task: str) -> list[int]:
    return [1, *(policy_files.VOCABULARY[word] for word in task.split(" ")), 6]


def reference_actions(seen, start) -> np.ndarray:
    """What the program of policy_files means, in float64."""
    w = {name: torch.from_numpy(value).double() for name, value in policy_files.weights().items()}
    embeddings, masks = [], []
    for camera in ("observation.images.scene", "observation.images.wrist"):
        shape = (1, policy_files.TOKENS, policy_files.TOKEN_WIDTH)
        if camera in seen:
            pixels = torch.from_numpy(seen[camera]).double().permute(2, 0, 1)[None] / 255 * 2 - 1
            patches = F.conv2d(pixels, w["patch.w"], w["patch.b"], stride=6)
            embeddings.append(patches.flatten(2).transpose(1, 2))
        else:
            embeddings.append(torch.zeros(shape, dtype=torch.float64))
        masks.append(torch.full(shape[:2], camera in seen))
    tokens = torch.tensor([tokens_of(seen["task"])])
    mean, std = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 1.5, 2.5])
    state = (torch.from_numpy(seen["observation.state"]) - mean) / (std + 1e-6)
    state = F.pad(state.double(), (0, 2))[None]
    keys = torch.cat([*embeddings, w["vocabulary"][tokens], (state @ w["state.w"].T)[None]], 1)
    mask = torch.cat([*masks, torch.ones(1, tokens.shape[1] + 1, dtype=torch.bool)], 1)
    x = torch.from_numpy(start).double()[None]
    for step in range(4):
        time_left = 1 - step / 4
        q = (x @ w["q.w"].T).reshape(1, 3, 2, 4).transpose(1, 2)
        k = (keys @ w["k.w"].T + w["k.b"]).reshape(1, -1, 2, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, k, mask[:, None, None], scale=0.5)
        velocity = (y.transpose(1, 2).reshape(1, 3, 8) @ w["out.w"].T) * time_left + x
        x = x - velocity / 4
    return (x[0, :, :2] * torch.tensor([0.25, 4.0]) + torch.tensor([0.5, -0.5])).numpy()


@pytest.mark.parametrize("masked", [None, "observation.images.wrist", "observation.images.scene"])
def test_actions_are_what_the_program_means(runtime, masked):
    for seed in range(3):
        seen = observation(seed)
        seen.pop(masked, None)
        actions = runtime.act(seen, noise=noise(seed))
        assert actions.dtype == np.float32 and actions.shape == (3, 2)
        np.testing.assert_allclose(
            actions, reference_actions(seen, noise(seed)), rtol=2e-6, atol=2e-5
        )


def test_prompt_changes_actions_and_suffix_is_added_once(runtime):
    seen = observation()
    actions = runtime.act(seen, noise=noise())
    with_suffix = runtime.act({**seen, "task": "push the red cube \n"}, noise=noise())
    np.testing.assert_array_equal(actions, with_suffix)
    other = runtime.act({**seen, "task": "push the cube"}, noise=noise())
    assert np.abs(actions - other).max() > 1e-3


def test_tokens_of_an_observation(runtime):
    seen = {**observation(), "task": "push the cube"}
    tokens = runtime.tokenize(seen)
    assert tokens.dtype == np.int64 and tokens.tolist() == [1, 2, 3, 5, 6]
    assert runtime.tokenize({**seen, "task": "push " * 9}).tolist() == [1, 2, 2, 2, 2, 2]
    with pytest.raises(ArgumentError, match="lacks 'task'"):
        runtime.tokenize(observation() | {"task": None})


def test_state_in_the_prompt(tmp_path):
    """Normalised, then the number of the bin."""
    vocabulary = {"[UNK]": 0, "[BOS]": 1, "push": 2, "0": 3, "1": 4, "-1": 5, "\n": 6, "[PAD]": 7}
    keys = {
        "actquant.prompt.template": ("string", "{task} {state}"),
        "actquant.prompt.state_bins": ("uint32", 2),
        "actquant.tokenizer.json": ("string", policy_files.tokenizer_json(vocabulary)),
    }
    runtime = Runtime(write_policy(tmp_path / "state.gguf", keys=keys))
    mean, std = np.array([0.1, -0.2, 0.3]), np.array([0.5, 1.5, 2.5])
    seen = {**observation(), "task": "push", "observation.state": mean + std * [0.5, -0.5, -2]}
    assert runtime.tokenize(seen).tolist() == [1, 2, 4, 3, 5, 6]
    assert runtime.act(seen, noise=noise()).shape == (3, 2)


def test_long_prompt_is_truncated(runtime):
    long = {**observation(), "task": "push the red cube " * 9}
    with pytest.warns(PromptCutWarning, match="takes 6 tokens, 32 fewer"):
        assert np.isfinite(runtime.act(long, noise=noise())).all()


def test_seed_fixes_the_noise(runtime):
    seen = observation()
    np.testing.assert_array_equal(runtime.act(seen, seed=3), runtime.act(seen, seed=3))
    assert np.abs(runtime.act(seen, seed=3) - runtime.act(seen, seed=4)).max() > 1e-3
    assert np.abs(runtime.act(seen) - runtime.act(seen)).max() > 1e-6
    given = runtime.act(seen, noise=noise(5))
    np.testing.assert_array_equal(runtime.act(seen, noise=noise(5), seed=3), given)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_none(runtime, seed):
    with pytest.raises(ArgumentError, match=f"seed is {seed}, expected 0 to"):
        runtime.act(observation(), seed=seed)


def test_result_does_not_depend_on_threads_or_history(policy, runtime):
    seen = observation()
    first = runtime.act(seen, noise=noise())
    runtime.act(observation(5), noise=noise(5))
    np.testing.assert_array_equal(first, runtime.act(seen, noise=noise()))
    np.testing.assert_allclose(
        first, Runtime(policy, threads=1).act(seen, noise=noise()), atol=1e-6
    )


def test_timings_add_up(runtime):
    runtime.act(observation(), noise=noise())
    timings = runtime.timings_ms
    parts = timings["vision"] + timings["prefix"] + timings["denoise"]
    assert 0 < parts <= timings["total"] + 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.state": np.zeros(4, np.float32)}, r"observation.state is \(4,\)"),
        ({"observation.state": np.array([0, np.nan, 0])}, r"observation.state\[1\] is"),
        ({"observation.state": np.array([0, 0, np.inf])}, r"observation.state\[2\] is inf"),
        ({"observation.images.scene": np.zeros((6, 6, 3), np.uint8)}, "scene is 6x6.*6x12"),
        ({"observation.images.scene": np.zeros((6, 12, 3), np.float32)}, "expected uint8"),
        ({"observation.images.scene": np.zeros((3, 6, 12), np.uint8)}, "expected uint8"),
        ({"observation.images.front": np.zeros((6, 12, 3), np.uint8)}, "expected .*scene"),
        ({"task": None}, "lacks 'task'"),
    ],
)
def test_unfit_observation_is_refused(runtime, change, message):
    with pytest.raises(ArgumentError, match=message):
        runtime.act({**observation(), **change}, noise=noise())


def test_too_few_cameras_are_refused(runtime):
    seen = observation()
    del seen["observation.images.scene"], seen["observation.images.wrist"]
    with pytest.raises(ArgumentError, match="of which 1 may be absent"):
        runtime.act(seen)
    seen = observation()
    del seen["observation.state"]
    with pytest.raises(ArgumentError, match="lacks 'observation.state'"):
        runtime.act(seen)


def test_unfit_noise_is_refused(runtime):
    with pytest.raises(ArgumentError, match=r"noise is \(3, 2\), expected \(3, 4\)"):
        runtime.act(observation(), noise=np.zeros((3, 2)))
    bad = noise()
    bad[0, 1] = np.nan
    with pytest.raises(ArgumentError, match=r"noise\[1\] is"):
        runtime.act(observation(), noise=bad)


def test_non_finite_actions_never_leave(tmp_path):
    broken = policy_files.weights()["out.w"]
    broken[0, 0] = np.nan
    runtime = Runtime(write_policy(tmp_path / "nan.gguf", tensors={"out.w": broken}))
    with pytest.raises(RuntimeError, match="non-finite action: step 0, x_m"):
        runtime.act(observation(), noise=noise())


def test_two_runtimes_act_at_once(policy):
    runtimes = [Runtime(policy, threads=1) for _ in range(2)]
    expected = [runtimes[0].act(observation(k), noise=noise(k)) for k in range(2)]
    failures = []

    def work(index: int) -> None:
        for _ in range(50):
            got = runtimes[index].act(observation(index), noise=noise(index))
            if not np.array_equal(got, expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_runtime_is_shared_by_threads(runtime):
    expected = [runtime.act(observation(k), noise=noise(k)) for k in range(4)]
    results = [None] * 4

    def work(index: int) -> None:
        for _ in range(20):
            results[index] = runtime.act(observation(index), noise=noise(index))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_gil_is_released_while_acting(tmp_path):
    count = 1000
    heavy = """
%19 = expand f32[3000,3,4] %18
%20 = tanh f32[3000,3,4] %19
%21 = mean f32[1,3,4] %20 dims=[0] keep=1
output output %21
"""
    programs = {"denoise": PROGRAMS["denoise"].replace("output output %18", heavy)}
    keys = {
        "actquant.sampler.timesteps": ("array", [0.5] * count),
        "actquant.sampler.coefficients": (
            "array",
            [0.0, 0.0, 0.0, 0.0, 1.0, -1e-6, 0.0, 0.0] * count,
        ),
    }
    times = {"times": np.full((count, 1), 0.5, np.float32)}
    path = write_policy(tmp_path / "slow.gguf", keys=keys, tensors=times, programs=programs)
    runtime = Runtime(path, threads=1)
    actor = threading.Thread(target=runtime.act, args=(observation(), noise()))
    begin = time.perf_counter()
    actor.start()
    ticks = 0
    while actor.is_alive():
        ticks += 1
        time.sleep(0.001)
    elapsed_s = time.perf_counter() - begin
    assert elapsed_s > 0.05, "too fast to tell"
    assert ticks > 5


@pytest.mark.parametrize("size", [(6, 12), (12, 24), (7, 5), (31, 40), (4, 40), (50, 12)])
def test_images_are_resized_as_lerobot_does(tmp_path, size):
    step = "resize_pad height=6 width=12 filter=bilinear antialias=0 round=0 anchor=end value=0"
    keys = {"actquant.image.steps": ("array", [step])}
    runtime = Runtime(write_policy(tmp_path / "pad.gguf", keys=keys))
    seen = observation()
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    height, width = size
    if size != (6, 12):
        ratio = max(width / 12, height / 6)
        inner = (int(height / ratio), int(width / ratio))
        pixels = F.interpolate(pixels, inner, mode="bilinear", align_corners=False)
        pixels = F.pad(pixels, (12 - inner[1], 0, 6 - inner[0], 0))
    reference = runtime.run_stage("vision", {"image": pixels.numpy() * 2 - 1})["embedding"]
    del seen["observation.images.wrist"]
    other = {**seen, "observation.images.scene": image}
    got = runtime.act(other, noise=noise())
    direct = act_with_embedding(runtime, seen, reference)
    np.testing.assert_allclose(got, direct, atol=2e-5)


def act_with_embedding(runtime, seen, embedding) -> np.ndarray:
    """The driver by hand, stage by stage."""
    mean, std = np.array([0.1, -0.2, 0.3]), np.array([0.5, 1.5, 2.5])
    state = np.pad((seen["observation.state"] - mean) / (std + 1e-6), (0, 2))
    prefix = runtime.run_stage(
        "prefix",
        {
            "image_embedding_0": embedding,
            "image_mask_0": [True],
            "image_embedding_1": np.zeros_like(embedding),
            "image_mask_1": [False],
            "tokens": [[1, 2, 3, 4, 5, 6]],
            "token_mask": [[True] * 6],
            "state": state[None],
        },
    )
    x = noise()[None]
    for step in range(4):
        inputs = {**prefix, "x_t": x, "step": [step]}
        x = x - runtime.run_stage("denoise", inputs)["output"] / 4
    return x[0, :, :2] * [0.25, 4.0] + [0.5, -0.5]


def test_masked_camera_is_not_looked_at(runtime):
    seen = observation()
    del seen["observation.images.wrist"]
    embedding = runtime.run_stage(
        "vision",
        {"image": (seen["observation.images.scene"].transpose(2, 0, 1)[None] / 255 * 2 - 1)},
    )["embedding"]
    np.testing.assert_allclose(
        runtime.act(seen, noise=noise()), act_with_embedding(runtime, seen, embedding), atol=2e-5
    )
