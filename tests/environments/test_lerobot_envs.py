"""LeRobot's environments: gym-pusht itself, a plugin, and the UR3e's by LeRobot's road."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_cnn_policies import build_tiny_act
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app
from actquant.common.errors import EvaluationError
from actquant.environments.base import open_suite
from actquant.environments.lerobot import LeRobotSuite
from actquant.environments.ur3e import UR3eSuite
from actquant.evaluation.compare import compare
from actquant.evaluation.result import EvaluationResult
from actquant.policies import load_policy

CAMERA, STEPS = "observation.image", 8
PLUGIN = """
from dataclasses import dataclass, field
import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.processor import PolicyProcessorPipeline, ProcessorStep

class Dot(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Dict({
        "pixels": gym.spaces.Dict({"top": gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)}),
        "agent_pos": gym.spaces.Box(-1, 1, (2,), np.float64),
    })
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    _max_episode_steps = 3
    closed = 0

    def __init__(self, task):
        self.task, self.task_description = task, f"go {task}"

    def _see(self):
        picture = np.full((16, 16, 3), 7, np.uint8)
        return {"pixels": {"top": picture}, "agent_pos": self.at.copy()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 2)
        return self._see(), {}

    def step(self, action):
        self.at = self.at + action
        return self._see(), -1.0, False, False, {"is_success": self.at[0] > 0}

    def close(self):
        Dot.closed += 1

class Double(ProcessorStep):
    def __call__(self, transition):
        from lerobot.lerobot_types import TransitionKey
        transition = dict(transition)
        transition[TransitionKey.ACTION] = 2 * transition[TransitionKey.ACTION]
        return transition
    def transform_features(self, features):
        return features

@EnvConfig.register_subclass("dot")
@dataclass
class DotConfig(EnvConfig):
    fps: int = 5
    alone: bool = False
    doubled: bool = False

    @property
    def gym_kwargs(self):
        return {}

    def create_envs(self, n_envs, use_async_envs=False):
        print("made")
        tasks = ["left"] if self.alone else ["left", "right"]
        make = gym.vector.SyncVectorEnv
        return {"dot": {k: make([lambda task=task: Dot(task)]) for k, task in enumerate(tasks)}}

    def get_env_processors(self):
        before, after = super().get_env_processors()
        if self.doubled:
            after = PolicyProcessorPipeline(steps=[Double()])
        return before, after
"""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Threads that wait for each other are slow beside other tests."""
    monkeypatch.setattr("actquant.evaluation.evaluate.usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def suite():
    suite = open_suite("pusht", options={"episode_length": str(STEPS)})
    yield suite
    suite.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny ACT with random weights and PushT's inputs and outputs."""
    folder = tmp_path_factory.mktemp("pusht") / "act"
    return build_tiny_act(folder, cameras=(CAMERA,), image=(96, 96), sizes=(2, 2))


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return convert_f32(load_policy(checkpoint, control_rate_hz=10), checkpoint.with_suffix(".gguf"))


@pytest.fixture(scope="module")
def dot(tmp_path_factory):
    """A distribution `lerobot_env_dot`, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, code in (("lerobot_env_dot", PLUGIN), ("lerobot_env_torn", "import nowhere_at_all")):
        (folder / f"{name}.py").write_text(code)
        about = folder / f"{name}-0.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def evaluated(*words: object, starts: str = "0:2"):
    fixed = ("--env", "pusht", "--env-option", f"episode_length={STEPS}", "--jobs", 1)
    words = (*words, "--starts", starts)
    done = CliRunner().invoke(app, ["eval", *map(str, (*fixed, *words))])
    assert "Traceback" not in done.output
    return done


def refused(*words: object) -> str:
    """What is said of a wrong command line or a misfit, in one line."""
    done = evaluated(*words)
    assert done.exit_code in (1, 2), done.output
    return " ".join(done.output.split())


def test_a_start_is_what_lerobot_shows_a_policy(suite):
    from lerobot.envs import close_envs, make_env, preprocess_observation
    from lerobot.envs.configs import PushtEnv

    assert suite.tasks == ("PushT-v0",) and suite.cameras == (CAMERA,)
    assert suite.distribution == "gym_pusht" and suite.about.control_rate_hz == 10
    assert suite.about.conventions["most steps"] == str(STEPS)
    theirs = make_env(PushtEnv(episode_length=STEPS), n_envs=1)["pusht"][0]
    ours = suite.environment("PushT-v0")
    seen, _ = theirs.reset(seed=[3])
    shown = ours.reset(3)
    for number in range(STEPS):
        found = preprocess_observation(seen)
        np.testing.assert_array_equal(shown["observation.state"], found["observation.state"][0])
        picture = found[CAMERA][0].permute(1, 2, 0).numpy()
        assert shown[CAMERA].dtype == np.uint8 and shown[CAMERA].std() > 10
        np.testing.assert_array_equal(shown[CAMERA], np.rint(picture * 255))
        action = np.array([100 + 30 * number, 250], np.float32)
        step = ours.step(action)
        seen, reward, _, truncated, _ = theirs.step(action[None])
        assert (step.reward, step.done) == (float(reward[0]), bool(truncated[0]))
        shown = step.observation or {}
    assert step.done and ours.steps == STEPS and ours.render().shape == (384, 384, 3)
    close_envs([theirs])


def test_an_evaluation_is_lerobots(checkpoint, model, tmp_path):
    """The f32 file and the checkpoint, against stock rollouts of the PyTorch policy."""
    from lerobot.envs import close_envs, make_env, make_env_pre_post_processors
    from lerobot.envs.configs import PushtEnv
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.scripts.lerobot_eval import rollout

    policy = ACTPolicy.from_pretrained(checkpoint).eval()
    config = PushtEnv(episode_length=STEPS)
    processors = make_pre_post_processors(policy.config, pretrained_path=str(checkpoint))
    around = make_env_pre_post_processors(config, policy.config)
    vector = make_env(config, n_envs=1)["pusht"][0]
    stock = [
        rollout(vector, policy, *around, *processors, seeds=[start])["reward"][0]
        for start in (0, 1, 2)
    ]
    close_envs([vector])
    assert len({round(float(rewards.sum()), 6) for rewards in stock}) > 1

    for name, given in (("file", model), ("checkpoint", checkpoint)):
        out = tmp_path / f"{name}.json"
        done = evaluated(given, "--out", out, "--videos", tmp_path / "films", starts="0:3")
        assert done.exit_code == 0, done.output
        assert "largest reward of an episode: mean" in done.output
        result = EvaluationResult.load(out)
        assert [e.steps for e in result.episodes] == [STEPS] * 3
        for episode, rewards in zip(result.episodes, stock, strict=True):
            assert episode.sum_reward == pytest.approx(float(rewards.sum()), abs=1e-3)
            assert episode.max_reward == pytest.approx(float(rewards.max()), abs=1e-3)
            assert (tmp_path / "films" / Path(episode.recording).name).is_file()
        of = result.provenance
        assert of.env_options == {"episode_length": str(STEPS)}
        assert of.environment["start"] == "a reset with its number as the seed"
        assert of.versions["gym_pusht"]
    both = compare(tmp_path / "file.json", tmp_path / "checkpoint.json")
    assert both.overall.n == 3


def test_results_of_other_options_are_not_paired(model, tmp_path):
    for length in (STEPS, 5):
        words = ["eval", str(model), "--env", "pusht", "--env-option", f"episode_length={length}"]
        out = tmp_path / f"{length}.json"
        done = CliRunner().invoke(app, [*words, "--starts", "0", "--jobs", "1", "--out", str(out)])
        assert done.exit_code == 0, done.output
    with pytest.raises(EvaluationError, match="cannot be paired: env_options"):
        compare(tmp_path / f"{STEPS}.json", tmp_path / "5.json")


def test_what_does_not_fit_is_refused_before_an_episode(tmp_path, monkeypatch):
    from gym_pusht.envs.pusht import PushTEnv

    monkeypatch.setattr(PushTEnv, "reset", lambda *_, **__: pytest.fail("an episode began"))
    other = build_tiny_act(tmp_path / "act", cameras=("observation.images.top",), image=(96, 96))
    said = refused(other, "--out", tmp_path / "r.json")
    assert "the policy looks through observation.images.top, the environment has" in said
    assert f"such as --rename {CAMERA}=observation.images.top" in said
    assert "the policy reads a state of 5 numbers, the environment's is (2,)" in said
    assert "the policy gives actions of 4 numbers, the environment takes (2,)" in said
    renamed = f"{CAMERA}=observation.images.top"
    assert "looks through" not in refused(other, "--rename", renamed, "--out", tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_pictures_of_another_size_are_refused(dot, model, tmp_path):
    words = ["--env", "dot", "--rename", f"observation.images.top={CAMERA}", "--starts", "0"]
    words = ["eval", str(model), *words, "--out", str(tmp_path / "r.json")]
    done = CliRunner().invoke(app, words)
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and "the policy cannot take what the environment shows" in said
    assert f"{CAMERA} is 16x16 (height x width), expected 96x96" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--env-option", "wind=3"), "'pusht' has no option 'wind'; it has task, fps,"),
        (("--env-option", "fps=fast"), "--env-option episode_length=8, fps=fast: "),
        (("--env-option", "fps"), "wanted KEY=VALUE"),
        (("--env-option", "episode_length=3"), "episode_length is given twice"),
        (("--env-option", "task=Chess-v0"), "'pusht' cannot be made: NameNotFound"),
        (("--env-option", "obs_type=pixels"), "are not as LeRobot takes them"),
        (("--latency", "100"), "nobody says with which action the robot of environment 'pusht'"),
        (("--perturb", "light=1"), "'pusht' has no perturbations; ur3e has"),
        (("--wrong-instruction",), "'pusht' asks for nothing else"),
        (("--tasks", "Chess"), "has no task 'Chess'; it has ['PushT-v0']"),
        (("--grey-camera", "observation.images.top"), f"it has ['{CAMERA}']"),
        (("--comparable",), "there are no published numbers of pusht"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, told, model, tmp_path):
    assert told in refused(model, *words, "--out", tmp_path / "r.json")


def test_other_suites_have_no_options(model, tmp_path):
    words = ["--env", "ur3e", "--env-option", "fps=3", "--out", str(tmp_path / "r.json")]
    done = CliRunner().invoke(app, ["eval", str(model), *words])
    assert done.exit_code == 2 and "'ur3e' has no options" in done.output


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    from gymnasium.envs.registration import registry

    monkeypatch.delitem(registry, "gym_pusht/PushT-v0", raising=False)
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    said = refused(model, "--out", tmp_path / "r.json")
    assert "needs gym_pusht, which is not installed: pip install 'lerobot[pusht]==" in said
    with pytest.raises(EvaluationError, match="'gym_manipulator' needs gym_.*no extra that brings"):
        open_suite("gym_manipulator")


def test_code_of_a_hub_is_not_run():
    with pytest.raises(EvaluationError, match="'isaaclab_arena' is code that LeRobot fetches"):
        open_suite("isaaclab_arena")


def test_an_exception_of_the_simulator_is_no_failure_of_the_policy(model, tmp_path, monkeypatch):
    from gym_pusht.envs.pusht import PushTEnv

    step = PushTEnv.step

    def break_at_first(self, action):
        if float(self.agent.position[0]) == broken:
            raise FloatingPointError("the solver diverged")
        return step(self, action)

    suite = open_suite("pusht")
    broken = float(suite.environment("PushT-v0").reset(1)["observation.state"][0])
    suite.close()
    monkeypatch.setattr(PushTEnv, "step", break_at_first)
    done = evaluated(model, "--out", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(tmp_path / "r.json")
    assert [e.start for e in result.episodes] == [0] and result.overall.n == 1
    (missing,) = result.not_counted
    assert missing.start == 1 and "FloatingPointError: the solver diverged" in missing.error


def test_a_plugins_environment(dot, capsys):
    suite = open_suite("dot")
    assert capsys.readouterr().out == ""
    assert suite.tasks == ("left", "right") and suite.cameras == ("observation.images.top",)
    assert suite.about.one_task_at_a_time and suite.about.control_rate_hz == 5
    left = suite.environment("left")
    shown = left.reset(4)
    assert shown["task"] == "go left" and suite.mislead("go left") == "go right"
    assert shown["observation.state"].dtype == np.float32
    again = suite.environment("left").reset(4)
    np.testing.assert_array_equal(shown["observation.state"], again["observation.state"])

    # A success counts though it is over before the episode is.
    steps = [left.step(np.array([x, 0], np.float32)) for x in (9, -18, 0)]
    assert [each.done for each in steps] == [False, False, True] and steps[-1].success
    with pytest.raises(EvaluationError, match="draws no picture for people"):
        left.render()

    closed = left.raw.closed
    assert suite.environment("right").reset(0)["task"] == "go right"
    assert left.raw.closed == closed + 1
    assert suite.environment("left").reset(4)["task"] == "go left"
    suite.close()


def test_a_plugins_processors_turn_actions(dot):
    suite = open_suite("dot", options={"alone": "true", "doubled": "true"})
    environment = suite.environment("dot")
    begun = environment.reset(0)["observation.state"]
    moved = environment.step(np.array([0.25, 0], np.float32)).observation
    np.testing.assert_allclose(moved["observation.state"] - begun, [0.5, 0], atol=1e-6)
    with pytest.raises(EvaluationError, match="actions of 3 numbers, environment 'dot' takes"):
        environment.step(np.zeros(3, np.float32))


def test_an_unknown_environment_lists_all_and_plugins_that_failed(dot, capsys):
    with pytest.raises(EvaluationError) as caught:
        open_suite("moon")
    said = str(caught.value)
    assert "choose one of" in said and "'ur3e'" in said and "dot" in said and "pusht" in said
    assert "lerobot_env_torn: No module named 'nowhere_at_all'" in said
    assert capsys.readouterr().err == ""


def test_the_ur3e_by_lerobots_road_is_its_own_suite():
    ours, theirs = UR3eSuite(), LeRobotSuite("ur3e")
    assert set(theirs.tasks) == set(ours.tasks) and theirs.cameras == ours.cameras
    generator = np.random.default_rng(0)
    for task in ("pick_cube", "stack"):
        a, b = ours.environment(task), theirs.environment(task)
        seen = [a.reset(11), b.reset(11)]
        for _ in range(3):
            for key in seen[0].keys() | seen[1].keys():
                np.testing.assert_array_equal(seen[0][key], seen[1][key])
            action = generator.uniform(-1, 1, 7).astype(np.float32)
            steps = [each.step(action) for each in (a, b)]
            assert steps[0].success == steps[1].success and steps[0].done == steps[1].done
            seen = [step.observation or {} for step in steps]
    theirs.close()


def test_json_is_all_that_stdout_gets(dot, checkpoint, tmp_path):
    words = [str(checkpoint), "--env", "dot", "--jobs", "1", "--json"]
    done = CliRunner().invoke(app, ["eval", *words, "--out", str(tmp_path / "r.json")])
    told = json.loads(done.stdout)
    assert told["error"] == "EvaluationError" and "observation.image" in told["message"]
