"""A compressed policy as a LeRobot policy, found and run by LeRobot itself."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("lerobot_policy_actquant") is None:
    pytest.skip("lerobot_policy_actquant is not installed", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

import draccus  # noqa: E402
import torch  # noqa: E402
from actquant_runtime import Runtime, golden_observation  # noqa: E402
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig  # noqa: E402
from lerobot.configs.eval import EvalPipelineConfig  # noqa: E402
from lerobot.envs import close_envs, make_env, make_env_pre_post_processors  # noqa: E402
from lerobot.policies.factory import (  # noqa: E402
    get_policy_class,
    make_policy,
    make_pre_post_processors,
)
from lerobot.scripts.lerobot_eval import eval_policy  # noqa: E402
from lerobot.utils.import_utils import register_third_party_plugins  # noqa: E402
from served import PYTHON, running  # noqa: E402
from tiny_policies import CAMERAS, build_tiny_smolvla  # noqa: E402

from actquant.capture.policy import convert_f32  # noqa: E402
from actquant.format.model_file import with_golden  # noqa: E402
from actquant.policies import load_policy  # noqa: E402

# Nothing of the package is imported here: all comes through LeRobot's discovery.
register_third_party_plugins()
ActquantConfig = PreTrainedConfig.get_choice_class("actquant")
ActquantPolicy = get_policy_class("actquant")

IMAGE, STATE, ACTION, PADDED, CHUNK, STEPS = 48, 13, 7, 8, 6, 4
PROMPTS = ["pick up the red cube", "put the cube on the tray"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny policy with the layout of the ur3e environment."""
    folder = tmp_path_factory.mktemp("policy")
    checkpoint = build_tiny_smolvla(
        folder / "tiny", state_dim=STATE, max_state_dim=16, n_action_steps=STEPS
    )
    return convert_f32(load_policy(checkpoint, control_rate_hz=10), folder / "tiny.gguf")


@pytest.fixture(scope="module")
def server(model):
    with running(PYTHON, {"tiny": model}) as server:
        yield server


@pytest.fixture(scope="module")
def policy(model):
    return ActquantPolicy(ActquantConfig(model=str(model)))


@pytest.fixture
def observations():
    rng = np.random.default_rng(0)
    return [
        {key: rng.integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8) for key in CAMERAS}
        | {"observation.state": rng.standard_normal(STATE, dtype=np.float32), "task": prompt}
        for prompt in PROMPTS
    ]


@pytest.fixture
def batch(observations):
    """The observations as LeRobot gives them to a policy."""

    def stack(key):
        return torch.from_numpy(np.stack([o[key] for o in observations]))

    images = {key: stack(key).permute(0, 3, 1, 2).float() / 255 for key in CAMERAS}
    return images | {"observation.state": stack("observation.state"), "task": list(PROMPTS)}


@pytest.fixture
def noise():
    return torch.randn(2, CHUNK, PADDED, generator=torch.Generator().manual_seed(5))


def test_features_and_chunk_are_the_files(policy):
    config = policy.config
    assert {k: f.shape for k, f in config.input_features.items()} == {
        CAMERAS[0]: (3, IMAGE, IMAGE),
        CAMERAS[1]: (3, IMAGE, IMAGE),
        "observation.state": (STATE,),
    }
    assert list(config.image_features) == list(CAMERAS)
    assert config.action_feature.shape == (ACTION,)
    assert config.n_action_steps == STEPS
    assert not list(policy.parameters()) and policy.get_optim_params() == {}


def test_chunk_is_the_runtimes(policy, model, observations, batch, noise):
    chunk = policy.predict_action_chunk(batch, noise=noise)
    assert chunk.shape == (2, CHUNK, ACTION) and chunk.dtype == torch.float32
    runtime = Runtime(model)
    for i, observation in enumerate(observations):
        np.testing.assert_array_equal(chunk[i].numpy(), runtime.act(observation, noise[i].numpy()))
    assert not torch.equal(chunk[0], chunk[1])


def test_torchs_seed_decides_the_noise(policy, batch):
    chunks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        chunks.append(policy.predict_action_chunk(batch))
    assert torch.equal(chunks[0], chunks[1]) and not torch.equal(chunks[0], chunks[2])


def test_select_action_plans_again_after_n_action_steps(policy, batch, noise):
    policy.reset()
    chunk = policy.predict_action_chunk(batch, noise=noise)
    actions = [policy.select_action(batch, noise=noise) for _ in range(STEPS + 1)]
    assert torch.equal(torch.stack(actions[:STEPS], 1), chunk[:, :STEPS])
    assert torch.equal(actions[STEPS], chunk[:, 0])
    policy.reset()
    assert torch.equal(policy.select_action(batch, noise=noise), chunk[:, 0])


def test_processors_leave_numbers_alone(policy, batch, noise):
    before, after = make_pre_post_processors(policy.config)
    single = {key: value[0] for key, value in batch.items()}
    got = before(single)
    assert got["task"] == PROMPTS[:1]
    for key in (*CAMERAS, "observation.state"):
        assert torch.equal(got[key], batch[key][:1])
    chunk = policy.predict_action_chunk(got, noise=noise[:1])
    assert torch.equal(chunk, policy.predict_action_chunk(batch, noise=noise)[:1])
    assert torch.equal(after(chunk[:, 0]), chunk[:, 0])


def test_saved_and_loaded(policy, model, batch, noise, tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    policy.save_pretrained(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "config.json",
        "policy_postprocessor.json",
        "policy_preprocessor.json",
        "tiny.gguf",
    ]
    assert json.loads((folder / "config.json").read_text())["model"] == "tiny.gguf"
    assert (folder / "tiny.gguf").read_bytes() == model.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tiny.gguf").write_text("another file of the same name")
    monkeypatch.chdir(elsewhere)
    loaded = ActquantPolicy.from_pretrained(folder)
    want = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(loaded.predict_action_chunk(batch, noise=noise), want)
    assert loaded.config.input_features == policy.config.input_features
    loaded.save_pretrained(folder)  # onto itself
    assert (folder / "tiny.gguf").read_bytes() == model.read_bytes()
    # As lerobot-eval does, with a camera that the environment names otherwise.
    rename = {"observation.images.top": CAMERAS[0]}
    before, _ = make_pre_post_processors(
        loaded.config,
        pretrained_path=str(folder),
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": rename},
        },
    )
    renamed = {("observation.images.top" if k == CAMERAS[0] else k): v for k, v in batch.items()}
    assert torch.equal(loaded.predict_action_chunk(before(renamed), noise=noise), want)


def test_from_the_hub(policy, model, batch, noise, monkeypatch):
    asked = []

    def download(repository, name, **options):
        asked.append((repository, name, options))
        return str(model)

    module = importlib.import_module("lerobot_policy_actquant.modeling_actquant")
    monkeypatch.setattr(module, "hf_hub_download", download)
    config = ActquantConfig(model="tiny.gguf")
    loaded = ActquantPolicy.from_pretrained("someone/policy", config=config, revision="v1")
    assert asked == [("someone/policy", "tiny.gguf", {"revision": "v1"})]
    want = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(loaded.predict_action_chunk(batch, noise=noise), want)


def test_a_file_that_fails_its_self_test_is_refused(model, tmp_path):
    other = Path(shutil.copy(model, tmp_path / "other.gguf"))
    runtime = Runtime(model)
    inputs, noise = golden_observation(runtime.describe(), seed=3, prompt=PROMPTS[0])
    actions = runtime.act(inputs, noise=noise).tolist()
    case = {"seed": 3, "prompt": PROMPTS[0], "masked_cameras": [], "actions_reference": None}
    with_golden(other, [case | {"actions": actions}])
    ActquantPolicy(ActquantConfig(model=str(other)))
    actions[0][0] += 1.0
    with_golden(other, [case | {"actions": actions}])
    with pytest.raises(RuntimeError, match=f"{other} fails its self-test"):
        ActquantPolicy(ActquantConfig(model=str(other)))


def test_models_that_cannot_be_used(model, tmp_path):
    with pytest.raises(ValueError, match="--policy.model=FILE.gguf"):
        ActquantPolicy(ActquantConfig())
    with pytest.raises(FileNotFoundError, match="there is no model file /.*absent.gguf"):
        ActquantPolicy(ActquantConfig(model="absent.gguf"))
    (tmp_path / "config.json").write_text('{"type": "actquant", "model": "absent.gguf"}')
    with pytest.raises(FileNotFoundError, match=f"there is no model file {tmp_path}/absent.gguf"):
        ActquantPolicy.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="n_action_steps is 7; a chunk of .* has 6"):
        ActquantPolicy(ActquantConfig(model=str(model), n_action_steps=7))
    other = {"action": PolicyFeature(FeatureType.ACTION, (6,))}
    with pytest.raises(ValueError, match=r"'action' has the shape \(7,\) .* but \(6,\)"):
        ActquantPolicy(ActquantConfig(model=str(model), output_features=other))


def test_observations_that_cannot_be_used(policy, batch, noise):
    def without(*keys):
        return {key: value for key, value in batch.items() if key not in keys}

    expected = f"expected {CAMERAS[0]}, {CAMERAS[1]}, observation.state, task"
    for missing in ("observation.state", "task"):
        with pytest.raises(ValueError, match=f"lacks {missing};.*{expected}"):
            policy.predict_action_chunk(without(missing))
    with pytest.raises(ValueError, match=f"lacks {CAMERAS[0]}, {CAMERAS[1]};.*{expected}"):
        policy.predict_action_chunk(without(*CAMERAS))
    misspelt = without(CAMERAS[1]) | {"observation.images.wirst": batch[CAMERAS[1]]}
    with pytest.raises(ValueError, match=f"lacks {CAMERAS[1]}"):
        policy.predict_action_chunk(misspelt)
    with pytest.raises(ValueError, match="floats in .0, 1."):
        policy.predict_action_chunk(batch | {CAMERAS[0]: batch[CAMERAS[0]].permute(0, 2, 3, 1)})
    with pytest.raises(ValueError, match="different numbers of observations"):
        policy.predict_action_chunk(batch | {"task": PROMPTS[:1]})
    with pytest.raises(ValueError, match=r"noise has the shape \(1, 6, 8\), expected \(2, 6, 8\)"):
        policy.predict_action_chunk(batch, noise=noise[:1])
    # One camera may be left out, and one that the policy does not know may be there.
    assert policy.predict_action_chunk(without(CAMERAS[1])).shape == (2, CHUNK, ACTION)
    extra = batch | {"observation.images.other": batch[CAMERAS[0]]}
    want = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(policy.predict_action_chunk(extra, noise=noise), want)


def test_a_policy_that_reads_no_state_does_not_ask_for_one(policy, model):
    config = ActquantConfig(model=str(model))
    config.input_features = {"observation.state": PolicyFeature(FeatureType.STATE, (5,))}
    config.complete({**policy._description, "state": {"names": []}})
    assert set(config.input_features) == set(CAMERAS)


def test_training_is_refused(policy, batch):
    with pytest.raises(NotImplementedError, match="cannot be trained"):
        policy.forward(batch)
    with pytest.raises(NotImplementedError, match="cannot be trained"):
        policy.config.get_optimizer_preset()


@pytest.mark.parametrize("where", ["here", "served"])
def test_lerobots_evaluation(model, server, where):
    """From the command line's arguments to an episode's result, as lerobot-eval does it."""
    of = {
        "here": ("--policy.type=actquant", f"--policy.model={model}"),
        "served": (
            "--policy.type=actquant_remote",
            f"--policy.url=ws://127.0.0.1:{server.port}",
        ),
    }
    arguments = [
        *of[where],
        "--env.type=ur3e",
        "--env.task=pick_cube",
        "--env.episode_length=6",
        "--env.image_size=48",
    ]
    config = draccus.parse(EvalPipelineConfig, args=arguments)
    envs = make_env(config.env, n_envs=2)
    policy = make_policy(config.policy, env_cfg=config.env)
    before, after = make_pre_post_processors(config.policy)
    env_before, env_after = make_env_pre_post_processors(config.env, config.policy)
    info = eval_policy(
        envs["ur3e"][0],
        policy,
        env_before,
        env_after,
        before,
        after,
        n_episodes=2,
        start_seed=0,
        return_episode_data=True,
    )
    close_envs(envs)
    assert len(info["per_episode"]) == 2
    actions = info["episodes"]["action"]
    assert actions.shape[1] == ACTION and torch.isfinite(actions).all() and actions.std() > 0
