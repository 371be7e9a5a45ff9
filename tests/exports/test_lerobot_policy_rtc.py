"""Real-time chunking of a compressed policy, called as LeRobot's rollout calls it."""

import importlib.util
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("lerobot_policy_actquant") is None:
    pytest.skip("lerobot_policy_actquant is not installed", allow_module_level=True)

import torch  # noqa: E402
from actquant_runtime import PreviousChunk, Runtime  # noqa: E402
from lerobot.configs import PreTrainedConfig, RTCAttentionSchedule  # noqa: E402
from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # noqa: E402
from lerobot.policies.rtc.configuration_rtc import RTCConfig  # noqa: E402
from lerobot.rollout.inference import RTCInferenceConfig, create_inference_engine  # noqa: E402
from lerobot.rollout.inference.rtc import supports_rtc_inference  # noqa: E402
from lerobot.utils.import_utils import register_third_party_plugins  # noqa: E402
from tiny_policies import CAMERAS  # noqa: E402

from actquant.format.model_file import write_model  # noqa: E402

register_third_party_plugins()
ActquantConfig: Any = PreTrainedConfig.get_choice_class("actquant")
ActquantPolicy: Any = get_policy_class("actquant")

IMAGE, STATE, ACTION, PADDED, CHUNK = 48, 6, 7, 8, 6
TASK = "put the cube on the tray"


class Recording(ActquantPolicy):
    """Remembers how it was called."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.calls: list[tuple[dict[str, Any], torch.Tensor]] = []
        self.called = threading.Semaphore(0)

    def predict_action_chunk(self, batch: Any, noise: Any = None, **settings: Any) -> torch.Tensor:
        chunk = super().predict_action_chunk(batch, noise, **settings)
        self.calls.append((settings, chunk))
        self.called.release()
        return chunk


@pytest.fixture(scope="module")
def model(tmp_path_factory, captured):
    return write_model(
        tmp_path_factory.mktemp("policy") / "tiny.gguf",
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
    )


@pytest.fixture
def policy(model):
    return Recording(ActquantConfig(model=str(model), threads=1))


@pytest.fixture
def observation():
    rng = np.random.default_rng(0)
    images = {key: rng.integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8) for key in CAMERAS}
    return images | {"observation.state": rng.standard_normal(STATE, np.float32), "task": TASK}


@pytest.fixture
def batch(observation):
    images = {
        key: torch.from_numpy(observation[key]).permute(2, 0, 1)[None].float() / 255
        for key in CAMERAS
    }
    state = torch.from_numpy(observation["observation.state"])[None]
    return images | {"observation.state": state, "task": [TASK]}


@pytest.fixture
def noise():
    return torch.randn(1, CHUNK, PADDED, generator=torch.Generator().manual_seed(5))


def test_lerobot_accepts_it(policy):
    assert supports_rtc_inference(policy)


def test_the_left_over_is_in_the_robots_units(policy, model, observation, batch, noise):
    policy.config.rtc_config = RTCConfig(
        execution_horizon=5,
        max_guidance_weight=4.0,
        prefix_attention_schedule=RTCAttentionSchedule.EXP,
    )
    before = policy.predict_action_chunk(batch, noise=-noise)
    left_over = before[0, 2:]
    got = policy.predict_action_chunk(
        batch, noise, inference_delay=2, prev_chunk_left_over=left_over
    )
    previous = PreviousChunk(left_over.numpy(), 2, 5, 4.0, "exp")
    wanted = Runtime(model).act(observation, noise[0].numpy(), previous=previous)
    np.testing.assert_array_equal(got[0], wanted)
    batched = policy.predict_action_chunk(
        batch, noise, inference_delay=2, prev_chunk_left_over=left_over[None]
    )
    assert torch.equal(batched, got)
    unguided = policy.predict_action_chunk(batch, noise)
    distance, unguided_distance = (chunk[0, :2] - left_over[:2] for chunk in (got, unguided))
    assert distance.abs().mean() < 0.5 * unguided_distance.abs().mean()


def test_an_execution_horizon_of_the_call_comes_first(policy, batch, noise):
    left_over = policy.predict_action_chunk(batch, noise=-noise)[0, 2:]
    policy.config.rtc_config = RTCConfig(execution_horizon=10)
    given = policy.predict_action_chunk(
        batch, noise, prev_chunk_left_over=left_over, execution_horizon=2
    )
    policy.config.rtc_config = RTCConfig(execution_horizon=2)
    assert torch.equal(
        given, policy.predict_action_chunk(batch, noise, prev_chunk_left_over=left_over)
    )


def test_rows_that_lerobot_fills_with_zeros_guide_nothing(policy, batch, noise):
    left_over = policy.predict_action_chunk(batch, noise=-noise)[0, 3:]
    filled = torch.cat([left_over, torch.zeros(10 - len(left_over), ACTION)])
    guided = policy.predict_action_chunk(batch, noise, prev_chunk_left_over=left_over)
    assert torch.equal(
        guided, policy.predict_action_chunk(batch, noise, prev_chunk_left_over=filled)
    )
    unguided = policy.predict_action_chunk(batch, noise)
    assert not torch.equal(guided, unguided)
    nothing = torch.zeros(10, ACTION)
    assert torch.equal(
        unguided, policy.predict_action_chunk(batch, noise, prev_chunk_left_over=nothing)
    )


def test_disabled_means_unguided(policy, batch, noise):
    policy.config.rtc_config = RTCConfig(enabled=False)
    before = policy.predict_action_chunk(batch, noise=-noise)
    guided = policy.predict_action_chunk(batch, noise, prev_chunk_left_over=before[0])
    assert torch.equal(guided, policy.predict_action_chunk(batch, noise))


def make_engine(policy, observation):
    """As lerobot-rollout makes it with --inference.type=rtc, and what its robot would see."""
    config = RTCInferenceConfig(rtc=RTCConfig(execution_horizon=4))
    policy.config.rtc_config = config.rtc
    names = [f"joint_{k}.pos" for k in range(STATE)]
    features: dict[str, dict] = {
        key: {"dtype": "video", "shape": (IMAGE, IMAGE, 3), "names": None} for key in CAMERAS
    }
    features["observation.state"] = {"dtype": "float32", "shape": (STATE,), "names": names}
    before, after = make_pre_post_processors(policy.config)
    engine = create_inference_engine(
        config,
        policy=policy,
        preprocessor=before,
        postprocessor=after,
        robot_wrapper=SimpleNamespace(robot_type="ur3e"),  # type: ignore[arg-type]
        hw_features=features,
        dataset_features={},
        ordered_action_keys=[],
        task=TASK,
        fps=10,
        device="cpu",
    )
    seen = {key.removeprefix("observation.images."): observation[key] for key in CAMERAS}
    return engine, seen | dict(zip(names, observation["observation.state"], strict=True))


def test_lerobots_engine_runs_it(policy, observation):
    engine, seen = make_engine(policy, observation)
    engine.start()
    try:
        engine.notify_observation(seen)
        engine.resume()
        executed = []
        for _ in range(4):
            assert policy.called.acquire(timeout=60)
            action = engine.get_action(None)
            executed += [] if action is None else [action]
    finally:
        engine.stop()
    assert not engine.failed and executed
    assert all(action.shape == (ACTION,) for action in executed)
    left_overs = [settings["prev_chunk_left_over"] for settings, _ in policy.calls]
    assert left_overs[0] is None and len(left_overs) >= 4
    answered = torch.cat([chunk[0] for _, chunk in policy.calls])
    for left_over in left_overs[1:]:
        assert left_over.shape == (4, ACTION)
        real = left_over[left_over.ne(0).any(-1)]
        assert all((answered == row).all(-1).any() for row in real)
