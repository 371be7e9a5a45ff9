"""Training resumes to the same state; recording resumes to the same data."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import build_policy as bp  # noqa: E402
import numpy as np
import pytest
import record_demonstrations as rd  # noqa: E402
import torch
import train as tr  # noqa: E402
from learner import Recipe  # noqa: E402
from safetensors.torch import load_file
from shards import Mixture, Source, write_shard  # noqa: E402
from simulation import Labels, UR3eEnv, all_instructions, demonstrate, label, pictures  # noqa: E402
from smollm2 import text_weights  # noqa: E402
from test_reference_policy import assert_loss_is_the_policys

from actquant.common.locks import sole_user

TINY = bp.PolicySize(
    width=32, intermediate=32, heads=2, kv_heads=1, layers=2, vision_layers=1, patch=24
)
PRETRAINED = bp.PolicySize(
    width=576, intermediate=1536, heads=9, kv_heads=3, layers=2, vocab=49280, vision_layers=1,
    patch=24, vision_width=64, expert_width=64, pretrained=True,
)  # fmt: skip
QUICK = Recipe(
    processes=1, batch=4, flow_samples=2, demonstrations=1, first_round=0.0, round_observations=16,
    round_episodes=2, round_steps=8, extra_labels=1, validation_episodes=1, compiled=False,
    precision="float32", report_minutes=1e9, save_minutes=1e-9,
)  # fmt: skip


def state_of(run):
    state = torch.load(run / "state.pt", weights_only=True)
    return state, state["tensors"]


class Killed(Exception):
    pass


def test_training_resumes_to_the_same_state(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    budget = tr.Budget(None, 40)
    run_in_process(monkeypatch, whole, budget)
    shutil.copytree(whole, broken)
    for path in ("state.pt", "losses.csv", "successes.csv"):
        (broken / path).unlink(missing_ok=True)
    for path in (broken / "frames").glob("rollouts-*"):
        shutil.rmtree(path)

    step = tr.Learner.step

    def dying(self, number, rate, weights):
        if number == 7:
            raise Killed
        return step(self, number, rate, weights)

    with monkeypatch.context() as patch:
        patch.setattr(tr.Learner, "step", dying)
        with pytest.raises(Killed):
            run_in_process(monkeypatch, broken, budget)
    assert state_of(broken)[0]["step"] == 6
    run_in_process(monkeypatch, broken, budget)
    (a, tensors_a), (b, tensors_b) = state_of(whole), state_of(broken)
    assert (a["step"], a["rounds"], a["failure"]) == (b["step"], b["rounds"], b["failure"])
    for name, value in tensors_a.items():
        assert torch.equal(value, tensors_b[name]), name

    seen = tr.finalize(broken, tmp_path / "out" / "checkpoint")
    assert seen == 40
    policy = bp.load_policy(tmp_path / "out" / "checkpoint")
    assert sum(p.numel() for p in policy.parameters()) > 0


def run_in_process(monkeypatch, run, budget, size=TINY):
    """train() with its single worker in this process, so that it can be interrupted."""
    monkeypatch.setattr(tr, "start_processes", lambda worker, args, count, **_: worker(0, *args))
    monkeypatch.setattr(tr.curves, "draw", lambda *_: None)
    tr.train(run, size, replace(QUICK, seed=5), budget)


ORPHAN = """
import multiprocessing, os, signal, sys, time
sys.path.insert(0, {exports!r})

def orphan(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    from train import die_with_parent
    open({begun!r}, "w").close()
    die_with_parent()
    open({survived!r}, "w").close()

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=orphan, args=(os.getpid(),)).start()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_whose_parent_was_killed_before_it_began_does_not_train_on(tmp_path):
    begun, survived, script = (tmp_path / name for name in ("begun", "survived", "orphan.py"))
    exports = str(Path(tr.__file__).parent)
    script.write_text(ORPHAN.format(exports=exports, begun=str(begun), survived=str(survived)))
    # Its output ends when the last process that holds it does.
    out = subprocess.run([sys.executable, script], capture_output=True, timeout=120)
    assert out.returncode == -signal.SIGKILL, out.stderr
    assert begun.exists(), out.stderr
    assert not survived.exists()


def test_one_process_at_a_time_trains_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--run", str(tmp_path), "--observations", "1"])
    with sole_user(tmp_path), pytest.raises(SystemExit) as stop:
        tr.main()
    assert f"{tmp_path} is in use by process {os.getpid()}" in str(stop.value)


def test_a_pretrained_language_model_stays_as_it_is(tmp_path, monkeypatch):
    """What is trained beside it, and the package, make the checkpoint again."""
    run, out, again = tmp_path / "run", tmp_path / "out" / "checkpoint", tmp_path / "again"
    run_in_process(monkeypatch, run, tr.Budget(None, 8), PRETRAINED)
    tr.finalize(run, out)
    policy, whole = bp.load_policy(out), text_weights(PRETRAINED.layers, PRETRAINED.vocab)
    fresh = bp.build_policy(run, PRETRAINED, seed=5)
    before, moved = dict(fresh.named_parameters()), 0
    for name, parameter in policy.named_parameters():
        if name.startswith(bp.TEXT_MODEL):
            expected = whole[name.removeprefix(bp.TEXT_MODEL)]
            assert torch.equal(parameter, expected.half().float()), name
        elif not bp.is_frozen(name, PRETRAINED):
            moved += not torch.equal(parameter, before[name].half().float())
    assert moved > 20

    trained = load_file(out.parent / tr.TRAINED)
    assert not any(bp.is_frozen(name, PRETRAINED) for name in trained)
    tr.assemble(out.parent, again)
    a, b = (load_file(folder / "model.safetensors") for folder in (out, again))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_with_a_pretrained_language_model_is_the_policys(tmp_path):
    bp.write_vlm_folder(tmp_path / bp.VLM_FOLDER, all_instructions(), PRETRAINED)
    policy = bp.build_policy(tmp_path, PRETRAINED, seed=3)
    assert_loss_is_the_policys(policy, PRETRAINED)


def test_recording_is_resumable_and_deterministic(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    tasks = ["pick_cube", "push_zone"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert rd.record(whole, 10_000, 1, tasks) == 2
    assert rd.record(broken, 10_000, 1, tasks, stop_after=1) == 1
    (broken / "data" / "left-over.parquet").write_bytes(b"half a file")
    assert rd.record(broken, 10_000, 1, tasks) == 2
    a, b = (LeRobotDataset(f"actquant/{p.name}", root=p) for p in (whole, broken))
    assert (a.num_episodes, len(a)) == (b.num_episodes, len(b)) and a.num_episodes == 2
    for i in (0, len(a) // 2, len(a) - 1):
        x, y = a[i], b[i]
        assert x["task"] == y["task"]
        for key in (*bp.CAMERAS, bp.STATE, bp.ACTION):
            assert torch.equal(x[key], y[key]), key
    env = UR3eEnv("pick_cube")
    first = pictures(env.reset(options={"start": 10_000})[0])
    seen = (a[0][bp.CAMERAS[0]].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(seen, first[0])


def test_recording_that_was_killed_before_anything_was_saved_begins_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rd.Recorder, "save", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            rd.record(tmp_path / "set", 10_000, 1, ["push_zone"], save_every=1)
    assert (tmp_path / "set" / "meta" / "info.json").exists()
    assert rd.record(tmp_path / "set", 10_000, 1, ["push_zone"]) == 1
    assert not (tmp_path / ".set.journal").exists()


def test_recording_refuses_a_dataset_that_is_not_its_own(tmp_path):
    (tmp_path / "other" / "meta").mkdir(parents=True)
    (tmp_path / "other" / "meta" / "info.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not ours"):
        rd.Recorder(tmp_path / "other", 96)


def test_labelling_leaves_the_environment_as_it_was_and_follows_the_expert():
    prompts = {text: i for i, text in enumerate(all_instructions())}
    env = UR3eEnv("place_tray")
    observation = env.reset(options={"start": 100_000})[0]
    labels = Labels(prompts, 8, 2)
    frames = label(env, pictures(observation), prompts, labels.chunk, labels.extra)
    assert env.steps == 0 and len(frames) == 3
    np.testing.assert_array_equal(frames[0]["state"], observation["agent_pos"])
    expected = []
    for _ in range(8):
        expected.append(env.expert_action())
        env.step(expected[-1])
    np.testing.assert_array_equal(frames[0]["actions"], np.array(expected))
    np.testing.assert_array_equal(frames[1]["actions"][:6], np.array(expected[2:]))


def test_demonstrations_follow_from_their_start():
    prompts = {text: i for i, text in enumerate(all_instructions())}
    env = UR3eEnv("pick_cube")
    a, b = (demonstrate(env, 10_001, prompts, 8) for _ in range(2))
    assert a is not None and b is not None
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_array_equal(a.frames[-1]["images"], b.frames[-1]["images"])
    assert len(a.actions) == len(a.frames) + 8


def test_mixture_draws_tasks_by_weight_and_prefers_no_empty_source(tmp_path):
    def frame(task, value):
        return {"task": np.int64(task), "value": np.float32(value)}

    write_shard(tmp_path / "a", [frame(0, 1), frame(1, 2)])
    write_shard(tmp_path / "b", [frame(0, 3)])
    old, new = Source(2), Source(2)
    old.add(tmp_path / "a")
    mixture, rng = Mixture(old, new, share=1.0), np.random.default_rng(0)
    batch = mixture.draw(50, np.array([0.0, 1.0]), rng)
    assert set(batch["value"].tolist()) == {2.0}
    new.add(tmp_path / "b")
    batch = mixture.draw(200, np.array([0.5, 0.5]), rng)
    assert set(batch["value"].tolist()) == {2.0, 3.0}


def test_settings_of_a_run_are_kept(tmp_path):
    from learner import settings_json

    (tmp_path / "settings.json").write_text(json.dumps(settings_json(TINY, QUICK)))
    assert tr.read_settings(tmp_path) == (TINY, QUICK)
    with pytest.raises(ValueError, match="--minutes or --observations"):
        tr.Budget(None, None)
