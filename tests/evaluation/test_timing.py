"""Simulated time that goes on while the policy thinks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fast_world import FastSuite
from tiny_cnn_policies import build_tiny_act
from tiny_policies import build_tiny_smolvla
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app
from actquant.common.errors import EvaluationError
from actquant.control.policy import PolicyDescription, open_policy
from actquant.environments import base
from actquant.environments.base import Step, hold_relative, open_suite
from actquant.evaluation.compare import compare
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.recording import Film
from actquant.evaluation.report import write_report
from actquant.evaluation.result import EvaluationResult
from actquant.evaluation.rollout import Episode, run_episode
from actquant.evaluation.timing import Timing, parse_timing
from actquant.policies import load_policy

CHUNK, STEPS, LENGTH = 8, 4, 22


class Counting:
    """A policy whose action i of chunk n moves by (n + 1, i + 1), and what it was shown."""

    def __init__(self, observation_steps: int = 1) -> None:
        self.observation_steps = observation_steps
        self.seen: list[Any] = []
        self.previous: list[Any] = []

    def describe(self) -> PolicyDescription:
        return PolicyDescription(
            name="counting",
            cameras=(),
            optional_cameras=0,
            image_size=(2, 2),
            state_names=("now",),
            action_names=("chunk", "place", "a", "b", "c", "d", "gripper"),
            control_rate_hz=10.0,
            chunk_length=CHUNK,
            steps_per_chunk=STEPS,
            observation_steps=self.observation_steps,
            noise_shape=(1, 1),
            supports_guidance=True,
        )

    def act(self, observation, *, noise=None, previous=None) -> np.ndarray:
        self.seen.append(np.asarray(observation["observation.state"])[..., 0].tolist())
        self.previous.append(previous)
        chunk = np.zeros((CHUNK, 7), np.float32)
        chunk[:, 0], chunk[:, 1], chunk[:, 6] = len(self.seen), np.arange(1, CHUNK + 1), 1
        return chunk


class Watch:
    """A suite whose only world shows the number of its step, if somebody looks."""

    tasks = ("watch",)
    cameras = ()
    distribution = "numpy"
    about = base.SuiteFacts(control_rate_hz=10.0)

    def environment(self, task: str) -> "Watch":
        return self

    def mislead(self, instruction: str) -> str:
        return instruction

    def close(self) -> None:
        pass

    def reset(self, start: int) -> dict[str, Any]:
        self.now, self.looked = 0, []
        return self._seen()

    def step(self, action: np.ndarray, *, look: bool = True) -> Step:
        self.now += 1
        self.looked.append(look)
        return Step(self._seen() if look else None, self.now == LENGTH, success=True)

    def hold(self, last: np.ndarray | None) -> np.ndarray:
        return hold_relative(last)

    def render(self) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def _seen(self) -> dict[str, Any]:
        return {"observation.state": np.array([self.now], np.float32), "task": "watch"}


def timed(latency: float, mode: str = "sync", **more: Any) -> Timing:
    return Timing.model_validate({"latency": latency, "mode": mode, "step_ms": 100.0, **more})


def watched(timing: Timing | None, observation_steps: int = 1, start: int = 0):
    """Runs an episode; returns (chunk, place) of each action, 0 where it held, and the rest."""
    policy, film = Counting(observation_steps), Film()
    episode = run_episode(Watch(), policy, "watch", start, film=film, timing=timing)  # type: ignore[arg-type]
    actions = [(int(a[0]), int(a[1])) for a in film.actions]
    return actions, policy, film, episode


def chunk(number: int, first: int, last: int) -> list[tuple[int, int]]:
    return [(number, place) for place in range(first, last + 1)]


HOLD = [(0, 0)]
EXPECTED = {
    # In sync each chunk is asked for after four actions, and the robot holds for it.
    ("sync", 200): [HOLD * 2 + chunk(n, 1, 4) for n in (1, 2, 3)] + [HOLD * 2 + chunk(4, 1, 2)],
    # Otherwise it is begun when four actions are left, and skips as many as went on meanwhile.
    ("async", 200): [
        HOLD * 2,
        chunk(1, 1, 6),
        *(chunk(n, 3, 6) for n in (2, 3, 4)),
        chunk(5, 3, 4),
    ],
    # Longer than what is left of a chunk when it is begun: the next is begun earlier from then on.
    ("async", 600): [HOLD * 6, chunk(1, 1, 8), chunk(2, 7, 8), HOLD * 4, chunk(3, 3, 4)],
}
EXPECTED["rtc", 200] = EXPECTED["async", 200]
EXPECTED["async", 101] = EXPECTED["async", 200]  # a begun step counts whole


@pytest.mark.parametrize(("mode", "latency"), EXPECTED)
def test_what_is_executed_is_what_the_scheduler_says(mode: str, latency: float) -> None:
    actions, policy, film, episode = watched(timed(latency, mode))
    expected = sum(EXPECTED[mode, latency], [])
    assert actions == expected and episode.steps == LENGTH
    assert episode.held == expected.count((0, 0))
    assert policy.seen == film.asked
    first, *later = policy.previous
    assert first is None and all((each is not None) == (mode == "rtc") for each in later)


def test_it_agrees_with_the_benchmark_of_seams() -> None:
    """Of a policy and a simulator that know nothing of the world above."""
    from seams import HOLDING
    from seams import run_episode as run_seam

    suite = open_suite("ur3e")
    for mode in ("sync", "async", "rtc"):
        policy = Counting()

        def act(observation: Any, previous: Any, number: int, policy: Any = policy) -> np.ndarray:
            return policy.act({"observation.state": np.zeros(1)}, previous=previous) / 100

        env = suite.environment("pick_cube").env  # type: ignore[attr-defined]
        course = run_seam(env, act, 0, mode=mode, delay=2, steps_per_chunk=STEPS)
        actions, *_ = watched(timed(200, mode))
        chunks = [number - 1 if number else HOLDING for number, _ in actions][2:]
        assert course.chunks[: len(chunks)].tolist() == chunks


def test_a_hold_moves_nothing_and_leaves_the_gripper() -> None:
    _, _, film, _ = watched(timed(200))
    held = [action.tolist() for action in film.actions if not action[0]]
    assert held == [[0] * 6 + [-1]] * 2 + [[0] * 6 + [1]] * 6


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_several_observations_are_the_last_steps(mode: str) -> None:
    _, policy, film, _ = watched(timed(300, mode), observation_steps=3)
    assert policy.seen[0] == [0, 0, 0]
    assert policy.seen[1:] == [[n - 2, n - 1, n] for n in film.asked[1:]]


def test_jitter_follows_from_the_start_and_stays_within_its_bounds() -> None:
    timing = timed(250, jitter_ms=150)
    steps = [
        timing.steps([0.0] * (n + 1), 3, "watch", start) for start in (4, 5) for n in range(99)
    ]
    assert set(steps) == {2, 3, 4}  # a begun step counts whole
    assert steps[:99] != steps[99:] and 2.5 < np.mean(steps) < 3.5
    assert steps[:99] == [timing.steps([9.0] * (n + 1), 3, "watch", 4) for n in range(99)]
    runs = [watched(timing, start=start)[0] for start in (4, 5, 4)]
    assert runs[0] == runs[2] != runs[1]


def test_a_measured_latency_is_what_the_policy_took() -> None:
    class Slow(Counting):
        def act(self, observation, *, noise=None, previous=None) -> np.ndarray:
            until = time.perf_counter() + 0.015
            while time.perf_counter() < until:
                pass
            return super().act(observation, noise=noise, previous=previous)

    import time

    film, timing = Film(), Timing(latency="measured", step_ms=10)
    episode = run_episode(Watch(), Slow(), "watch", 0, film=film, timing=timing)  # type: ignore[arg-type]
    steps = [int(np.ceil(ms / 10)) for ms in episode.latencies_ms]
    assert min(steps) >= 2 and episode.held > 0
    expected = sum((HOLD * n + chunk(i + 1, 1, 4) for i, n in enumerate(steps)), [])[:LENGTH]
    assert [(int(a[0]), int(a[1])) for a in film.actions] == expected


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A flow with the UR3e simulator's numbers."""
    folder = tmp_path_factory.mktemp("policy")
    sizes = {"state_dim": 13, "max_state_dim": 16, "max_length": 48, "hidden": 32}
    checkpoint = build_tiny_smolvla(folder / "tiny", **sizes)
    return convert_f32(load_policy(checkpoint, control_rate_hz=10), folder / "policy.gguf")


def test_without_latency_every_action_is_the_same_to_the_byte(policy: Path) -> None:
    suite, model = open_suite("ur3e"), open_policy(policy, threads=1)

    def run(timing: Timing | None) -> tuple[Episode, list[bytes]]:
        film = Film()
        options = {"steps_per_chunk": 3, "film": film, "timing": timing}
        episode = run_episode(suite, model, "push_zone", 1, **options)
        return episode, [action.tobytes() for action in film.actions]

    (plain, actions), (timed_, same) = run(None), run(timed(0))
    assert len(actions) == 60 and actions == same
    assert replace(plain, latencies_ms=[]) == replace(timed_, latencies_ms=[])
    assert run(timed(100))[1] != actions


def saved(policy: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Evaluates; returns the result without what is of the run and not of its episodes."""
    words = {"env": "ur3e", "tasks": ["push_zone"], "starts": "0:3", "steps_per_chunk": 3}
    timing = parse_timing("150", 80.0, "rtc", 4)
    evaluate(policy, out=out, timing=timing, **{**words, "jobs": 1, **options})
    result = json.loads(out.read_text())
    del result["latency_ms"], result["provenance"]["date"]
    return result


def test_processes_and_stops_change_nothing(policy: Path, tmp_path: Path) -> None:
    serial = saved(policy, tmp_path / "serial.json")
    timing = serial["provenance"]["timing"]
    assert timing == {
        "latency": 150,
        "jitter_ms": 80,
        "mode": "rtc",
        "execution_horizon": 4,
        "step_ms": 100,
    }
    assert serial["provenance"]["conventions"]["scheduling"].startswith("rtc: the old chunk goes")
    assert all(episode["held"] for episode in serial["episodes"])
    together = saved(policy, tmp_path / "together.json", jobs=2)
    assert together["episodes"] == serial["episodes"]

    class Stopped(Exception):
        pass

    def stop(_: object, done: int, __: int) -> None:
        if done == 2:
            raise Stopped

    out = tmp_path / "stopped.json"
    with pytest.raises(Stopped):
        saved(policy, out, on_episode=stop)
    # Episodes of another latency are not taken over.
    seen: list[int] = []
    count: Callable[..., None] = lambda episode, *_: seen.append(episode.start)  # noqa: E731
    words = {"env": "ur3e", "tasks": ["push_zone"], "starts": "0:1", "steps_per_chunk": 3}
    evaluate(policy, out=out, timing=parse_timing("150"), jobs=1, on_episode=count, **words)
    assert seen == [0]
    seen.clear()
    assert saved(policy, out, on_episode=count) == serial and seen == [2]


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "300"})
    return done.exit_code, " ".join(done.output.split())


def test_tables_and_the_page_say_so(policy: Path, tmp_path: Path) -> None:
    words = ["eval", policy, "--tasks", "push_zone", "--starts", "0:2", "--jobs", 1, "--out"]
    plain, late, later, measured = (tmp_path / f"{n}.json" for n in ("plain", "a", "b", "m"))
    assert command(*words, plain)[0] == 0
    code, said = command(*words, late, "--latency", 200, "--mode", "async")
    assert code == 0 and "starts 0:2, latency 200 ms, async" in said
    assert "async: the old chunk goes on while the policy thinks" in said
    episodes = EvaluationResult.load(late).episodes
    assert f"The robot held in {sum(e.held for e in episodes)} of" in said
    assert command(*words, later, "--latency", 400, "--mode", "async")[0] == 0
    code, said = command(*words, measured, "--latency", "measured")
    assert code == 0 and "latency measured, sync" in said
    assert compare(plain, late).b_circumstances == ["latency 200 ms, async"]
    assert f"B = {late} (latency 200 ms, async)" in command("compare", plain, late)[1]
    page = tmp_path / "page.html"
    write_report([plain, late, later, measured], page)
    text = page.read_text()
    assert "Success against latency" in text and "a (latency 200 ms, async)" in text
    assert ">async<" in text and ">sync<" in text
    write_report([plain], page)
    assert "Success against latency" not in page.read_text()


def test_what_cannot_be_is_refused(policy, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(base.SUITES, "fast", "fast_world:FastSuite")
    with pytest.raises(EvaluationError, match="'fast' does not say how much time passes"):
        evaluate(policy, env="fast", timing=parse_timing("100"), starts="0:1", jobs=1)
    monkeypatch.setitem(base.SUITES, "published", "fast_world:PublishedSuite")
    options = {"env": "published", "starts": "0:4", "comparable": True}
    with pytest.raises(EvaluationError, match="waits for the policy; omit --latency"):
        evaluate(policy, timing=parse_timing("100"), **options)
    assert FastSuite.about.control_rate_hz is None


def test_guidance_takes_a_flow(tmp_path: Path) -> None:
    checkpoint = build_tiny_act(tmp_path / "act")
    model = convert_f32(load_policy(checkpoint, control_rate_hz=10), tmp_path / "act.gguf")
    code, said = command("eval", model, "--latency", 100, "--mode", "rtc", "--out", tmp_path / "r")
    assert code == 1 and "is no flow that can be guided" in said


def test_perturbed_results_say_so_and_stand_beside_each_other(policy: Path, tmp_path: Path) -> None:
    def run(name: str, **perturb: int) -> Path:
        out = tmp_path / f"{name}.json"
        words = {"env": "ur3e", "tasks": ["push_zone"], "starts": "0:2", "jobs": 1}
        evaluate(policy, out=out, perturb=perturb, **words)
        return out

    plain, level_0, light = run("plain"), run("zero", light=0), run("light", light=3)
    a, b = (EvaluationResult.load(path) for path in (plain, level_0))
    assert (a.episodes, a.provenance.perturb) == (b.episodes, {})
    of = EvaluationResult.load(light).provenance
    assert of.perturb == {"light": 3} and of.environment == {"perturbations": "version 1"}
    both = run("both", light=1, camera=2)
    assert EvaluationResult.load(both).provenance.circumstances == ["perturbed camera=2, light=1"]
    with pytest.raises(EvaluationError, match="paired: perturb is"):
        compare(plain, light)
    write_report([plain, light, both], tmp_path / "page.html")
    page = " ".join((tmp_path / "page.html").read_text().split())
    assert "light (perturbed light=3)" in page and "both (perturbed camera=2, light=1)" in page
    table = page.split("Success by perturbation and level")[1].split("</table>")[0]
    assert table.count("policy.gguf") == 1 and table.count("0/2, 0.0 %") == 2
    code, said = command(
        *("eval", policy, "--tasks", "push_zone", "--starts", "0:1", "--jobs", 1),
        *("--perturb", "texture=2,state_noise=1,light=0", "--out", tmp_path / "c.json"),
    )
    assert code == 0 and "perturbed state_noise=1, texture=2" in said
    write_report([light, both], tmp_path / "page.html")
    assert "by perturbation and level" not in (tmp_path / "page.html").read_text()
