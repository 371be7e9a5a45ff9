"""Real-time chunking in the runtime: a chunk guided by the one before, as in LeRobot."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: E402
from actquant_runtime import ArgumentError, PreviousChunk, Runtime
from lerobot.configs import RTCAttentionSchedule  # noqa: E402
from lerobot.policies.rtc.configuration_rtc import RTCConfig  # noqa: E402
from lerobot.policies.rtc.modeling_rtc import RTCProcessor  # noqa: E402
from policy_files import (
    ACTION_DIM,
    CHUNK,
    EULER_STEP,
    PROGRAMS,
    STEPS,
    noise,
    observation,
    write_one_shot,
    write_policy,
)
from tiny_pi import build_tiny_pi, tiny_backbone  # noqa: E402
from tiny_policies import CAMERAS  # noqa: E402

from actquant.capture.policy import convert_f32  # noqa: E402
from actquant.control.chunk_scheduler import ChunkScheduler  # noqa: E402
from actquant.format.model_file import write_model  # noqa: E402
from actquant.policies import LoadedPolicy, load_policy  # noqa: E402


def test_lerobots_correction_is_the_error_itself() -> None:
    """Its denoiser runs before x_t asks for a gradient, so no Jacobian of it enters."""
    processor = RTCProcessor(RTCConfig(max_guidance_weight=3.0))
    layer = torch.nn.Linear(4, 4)
    x, previous = torch.randn(1, 6, 4), torch.randn(1, 5, 4)
    with torch.no_grad():
        got = processor.denoise_step(x, previous, 2, 0.5, lambda x: layer(x).tanh())
        velocity = layer(x).tanh()
        weights = torch.tensor([1, 1, 0.75, 0.5, 0.25, 0])[None, :, None]
        padded = torch.cat([previous, torch.zeros(1, 1, 4)], 1)
        error = (padded - (x - 0.5 * velocity)) * weights
    strength = (0.5 / 0.5) * (0.5**2 + 0.5**2) / 0.5**2
    torch.testing.assert_close(got, velocity - strength * error)


class Guided:
    """A tiny policy in LeRobot and in the runtime."""

    def __init__(self, loaded: LoadedPolicy, path: Path) -> None:
        self.loaded, self.policy = loaded, loaded.policy
        self.runtime = Runtime(path, threads=1)
        face = loaded.interface
        self.mean, self.std = np.array(face.action_mean), np.array(face.action_std)
        random = np.random.default_rng(3)
        height, width = face.image_source_height, face.image_source_width
        self.observation: dict[str, Any] = {
            key: random.integers(0, 256, (height, width, 3), np.uint8) for key in CAMERAS
        }
        state = random.standard_normal(len(face.state_names)).astype(np.float32)
        self.observation |= {"observation.state": state, "task": "put the cup on the tray"}
        self.noise = random.standard_normal(self.runtime.noise_shape, np.float32)
        self.previous = random.standard_normal((6, len(face.action_names))).astype(np.float32)
        """[H, A], normalised"""

    def lerobot(self, count: int, delay: int, config: RTCConfig) -> np.ndarray:
        """Its chunk [H, A], normalised."""
        policy: Any = self.policy
        policy.config.rtc_config = config
        policy.init_rtc_processor()
        left_over = torch.from_numpy(self.previous[None, :count]) if count else None
        chunk = policy.predict_action_chunk(
            self.loaded.family.batch(self.loaded, [self.observation]),
            noise=torch.from_numpy(self.noise[None].copy()),
            inference_delay=delay,
            prev_chunk_left_over=left_over,
        )
        return chunk[0].numpy()

    def ours(self, previous: PreviousChunk | None) -> np.ndarray:
        """[H, A], normalised."""
        actions = self.runtime.act(self.observation, self.noise, previous=previous)
        return (actions - self.mean) / self.std

    def left_over(self, count: int, **settings: Any) -> PreviousChunk:
        actions = self.previous[:count] * self.std + self.mean
        return PreviousChunk(actions.astype(np.float32), **settings)


@pytest.fixture(scope="module", params=["smolvla", "pi05"])
def guided(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "tiny.gguf"
    if request.param == "smolvla":
        loaded = request.getfixturevalue("loaded")
        captured = request.getfixturevalue("captured")
        write_model(
            path,
            stages=captured.stages,
            encodings={},
            metadata=captured.metadata,
            tensor_names=captured.tensor_names,
        )
    else:
        build_tiny_pi(folder / "policy", request.param)
        with tiny_backbone(request.param):
            loaded = load_policy(folder / "policy", control_rate_hz=10)
        convert_f32(loaded, path)
    yield Guided(loaded, path)
    loaded.config.rtc_config = None


CASES = [
    # left over, delay, execution horizon, greatest guidance
    (6, 0, 10, 10.0),
    (6, 2, 10, 10.0),
    (6, 2, 4, 10.0),
    (6, 5, 3, 10.0),
    (6, 6, 6, 10.0),
    (4, 1, 10, 5.0),
    (4, 3, 4, 1.0),
    (1, 1, 10, 10.0),
    (1, 0, 1, 0.5),
]


def relative_rms(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.parametrize(("count", "delay", "horizon", "greatest"), CASES)
def test_chunks_are_lerobots(guided, count, delay, horizon, greatest) -> None:
    config = RTCConfig(execution_horizon=horizon, max_guidance_weight=greatest)
    wanted = guided.lerobot(count, delay, config)
    got = guided.ours(
        guided.left_over(count, delay=delay, execution_horizon=horizon, max_guidance=greatest)
    )
    assert relative_rms(got, wanted) < 1e-5
    assert relative_rms(guided.ours(None), wanted) > 1e-2


@pytest.mark.parametrize("schedule", list(RTCAttentionSchedule))
def test_schedules_are_lerobots(guided, schedule) -> None:
    config = RTCConfig(execution_horizon=5, prefix_attention_schedule=schedule)
    wanted = guided.lerobot(6, 2, config)
    name = schedule.value.lower()
    got = guided.ours(guided.left_over(6, delay=2, execution_horizon=5, schedule=name))
    assert relative_rms(got, wanted) < 1e-5


def test_without_a_previous_chunk_nothing_is_guided(guided) -> None:
    assert relative_rms(guided.ours(None), guided.lerobot(0, 2, RTCConfig())) < 1e-5


def test_a_guided_chunk_begins_as_the_previous_one_goes_on(guided) -> None:
    distances = np.abs(guided.ours(guided.left_over(6, delay=3)) - guided.previous).mean(1)
    unguided = np.abs(guided.ours(None) - guided.previous).mean(1)
    assert (distances[:3] < 0.2 * unguided[:3]).all()
    assert distances[0] < distances[5]


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(write_policy(tmp_path / "tiny.gguf"))


@pytest.fixture
def previous() -> PreviousChunk:
    actions = np.random.default_rng(2).standard_normal((CHUNK, ACTION_DIM)).astype(np.float32)
    return PreviousChunk(actions, delay=1)


def test_the_direction_of_the_flows_time_does_not_matter(tmp_path, runtime, previous) -> None:
    """A flow from 0 to 1, whose output has the other sign, gives the same chunk."""
    assert runtime.describe()["supports_guidance"]
    lines = PROGRAMS["denoise"].strip().splitlines()
    shape = lines[-2].split()[3]
    lines[-1:] = [f"%19 = affine {shape} %18 a=-1 b=0", "output output %19"]
    step = list(EULER_STEP)
    step[5] = -step[5]
    upwards = write_policy(
        tmp_path / "upwards.gguf",
        programs={"denoise": "\n".join(lines)},
        keys={
            "actquant.sampler.timesteps": ("array", [k / STEPS for k in range(STEPS)]),
            "actquant.sampler.coefficients": ("array", step * STEPS),
        },
    )
    np.testing.assert_array_equal(
        Runtime(upwards).act(observation(), noise(), previous=previous),
        runtime.act(observation(), noise(), previous=previous),
    )


class AtOnce(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_the_scheduler_hands_over_what_the_runtime_takes(runtime) -> None:
    scheduler = ChunkScheduler(
        lambda seen, previous: runtime.act(seen, noise(), previous=previous),
        mode="rtc",
        steps_per_chunk=1,
        max_guidance=4.0,
        supports_guidance=runtime.describe()["supports_guidance"],
        executor=AtOnce(),
    )
    first, second = scheduler.tick(observation(0)), scheduler.tick(observation(1))
    assert first is not None and second is not None
    chunk = runtime.act(observation(0), noise())
    np.testing.assert_array_equal(first.action, chunk[0])
    left_over = PreviousChunk(chunk[1:], max_guidance=4.0)
    wanted = runtime.act(observation(1), noise(), previous=left_over)
    np.testing.assert_array_equal(second.action, wanted[0])
    np.testing.assert_array_equal(second.upcoming, wanted[1:])
    assert not np.array_equal(wanted, runtime.act(observation(1), noise()))


DDIM_STEP = (1.25, -0.75, 1.0, 0.8, 0.0, 0.6, 0.0, 0.0)
DECODE = """
%0 = input f32[1,3,4] name=x
output actions %0
"""
NO_FLOWS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "diffusion": (
        lambda path: write_policy(
            path, keys={"actquant.sampler.coefficients": ("array", [*DDIM_STEP] * STEPS)}
        ),
        "its sampler takes no Euler steps of a flow",
    ),
    "decoded": (
        lambda path: write_policy(path, programs={"decode": DECODE}),
        "what it samples is not the chunk itself",
    ),
    "one_shot": (write_one_shot, "it gives its chunk at once, without sampling"),
}


@pytest.mark.parametrize("kind", NO_FLOWS)
def test_a_policy_that_is_no_flow_cannot_be_guided(tmp_path, previous, kind) -> None:
    write, reason = NO_FLOWS[kind]
    runtime = Runtime(write(tmp_path / "tiny.gguf"))
    assert runtime.describe()["supports_guidance"] is False
    with pytest.raises(ArgumentError, match=f"cannot guide this policy: {reason}"):
        runtime.act(observation(), previous=previous)
    assert runtime.act(observation()).shape == (CHUNK, ACTION_DIM)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"actions": np.array([[0, 0], [0, np.nan]])}, "previous chunk is nan in step 1, y_m"),
    ({"actions": np.array([[np.inf, 0]])}, "previous chunk is inf in step 0, x_m"),
    ({"actions": np.zeros((2, 3))}, r"previous actions are \(2, 3\), expected \[n, 2\]"),
    ({"actions": np.zeros(2)}, r"previous actions are \(2,\), expected \[n, 2\]"),
    ({"actions": np.zeros((0, 2))}, "0 numbers, expected 1 to 3 actions of 2"),
    ({"actions": np.zeros((4, 2))}, "8 numbers, expected 1 to 3 actions of 2"),
    ({"delay": -1}, "the delay is -1, expected at least 0"),
    ({"execution_horizon": 0}, "the execution horizon is 0, expected at least 1"),
    ({"max_guidance": 0.0}, "the greatest guidance is 0.000000, expected a number above 0"),
    ({"max_guidance": float("nan")}, "the greatest guidance is nan"),
    ({"schedule": "cubic"}, "no schedule 'cubic'; choose one of linear, zeros, ones, exp"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_does_not_fit_is_named(runtime, previous, change, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        runtime.act(observation(), noise(), previous=replace(previous, **change))
    assert runtime.act(observation(), noise(), previous=previous).shape == (CHUNK, ACTION_DIM)


def test_an_action_that_does_not_vary_is_no_guide(tmp_path, previous) -> None:
    keys = {"actquant.action.std": ("array", [0.25, 0.0])}
    runtime = Runtime(write_policy(tmp_path / "tiny.gguf", keys=keys))
    other = replace(previous, actions=previous.actions + [[0, 5]])
    np.testing.assert_array_equal(
        runtime.act(observation(), noise(), previous=other),
        runtime.act(observation(), noise(), previous=previous),
    )
