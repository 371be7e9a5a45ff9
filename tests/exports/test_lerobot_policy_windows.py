"""A compressed policy that takes several observations and no language, run by LeRobot's loop."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("lerobot_policy_actquant") is None:
    pytest.skip("lerobot_policy_actquant is not installed", allow_module_level=True)

import torch  # noqa: E402
from actquant_runtime import Runtime  # noqa: E402
from lerobot.configs import PreTrainedConfig  # noqa: E402
from lerobot.policies.factory import get_policy_class  # noqa: E402
from lerobot.utils.import_utils import register_third_party_plugins  # noqa: E402
from tiny_cnn_policies import STATE_DIM, build_tiny_diffusion  # noqa: E402
from tiny_policies import CAMERAS  # noqa: E402

from actquant.capture.policy import convert_f32  # noqa: E402
from actquant.policies import load_policy  # noqa: E402

register_third_party_plugins()
STEPS, CHUNK = 3, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    checkpoint = build_tiny_diffusion(
        folder / "tiny", n_obs_steps=STEPS, n_action_steps=CHUNK, noise_scheduler_type="DDIM"
    )
    return convert_f32(load_policy(checkpoint, control_rate_hz=10), folder / "tiny.gguf")


@pytest.fixture(scope="module")
def policy(model):
    config = PreTrainedConfig.get_choice_class("actquant")(model=str(model))
    return get_policy_class("actquant")(config)


def frames(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {key: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for key in CAMERAS}
        | {"observation.state": rng.standard_normal(STATE_DIM, dtype=np.float32)}
        for _ in range(count)
    ]


def batch_of(frame: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    images = {k: torch.from_numpy(frame[k]).permute(2, 0, 1)[None].float() / 255 for k in CAMERAS}
    return {**images, "observation.state": torch.from_numpy(frame["observation.state"])[None]}


def test_a_policy_that_is_no_flow_takes_no_previous_chunk(policy):
    assert not policy.supports_rtc()


def test_select_action_keeps_the_last_observations(policy, model):
    assert policy.config.n_obs_steps == STEPS
    noise = torch.randn(1, *policy._runtime.noise_shape)
    runtime, seen = Runtime(str(model)), frames(5)
    policy.reset()
    actions = [policy.select_action(batch_of(frame), noise=noise)[0].numpy() for frame in seen]
    for now, window in ((0, (0, 0, 0)), (2, (0, 1, 2)), (4, (2, 3, 4))):
        stacked = {key: np.stack([seen[i][key] for i in window]) for key in seen[0]}
        chunk = runtime.act(stacked, noise=noise[0].numpy())
        for offset, action in enumerate(actions[now : now + CHUNK]):
            np.testing.assert_array_equal(action, chunk[offset])
    policy.reset()
    again = policy.select_action(batch_of(seen[0]), noise=noise)[0].numpy()
    np.testing.assert_array_equal(again, actions[0])


def test_a_batch_without_the_time_axis_is_refused(policy):
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], \[batch, 3, 3, height"):
        policy.predict_action_chunk(batch_of(frames(1)[0]))
