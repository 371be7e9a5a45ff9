"""Tuning brings a coarse policy closer to itself, resumably, and leaves it as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_policy import make_toy, toy_tensors

import actquant.tuning.tune as tune_module
from actquant.calibration.frames import calibrate
from actquant.calibration.work_folder import WorkFolder
from actquant.encoders.blocks import encode
from actquant.tuning.settings import TuningSettings
from actquant.tuning.tune import Tuning, schedule

SETTINGS = TuningSettings(steps=20, minutes=60, batch_size=4, at_once=2)


class Killed(Exception):
    pass


@pytest.fixture
def tuning(dataset, tmp_path) -> Tuning:
    loaded = make_toy()
    data = calibrate(loaded, dataset, n_frames=8)
    training, validation = data.split_calibration(16, 6, 0)
    weights = {t.name: loaded.policy.get_parameter(t.name) for t in toy_tensors(loaded)}
    return Tuning(
        loaded=loaded,
        tensors=toy_tensors(loaded),
        encodings={
            name: encode(name, weight.detach().numpy(), "IQ1_M").tensor
            for name, weight in weights.items()
        },
        fixed={},
        free=[name for name, _ in loaded.policy.named_parameters() if name.endswith("bias")],
        training=training,
        validation=validation,
        settings=SETTINGS,
        seed=0,
        work=WorkFolder(tmp_path / "work"),
        made_from={"checkpoint": "toy"},
        encoded_from="all IQ1_M",
    )


def parameters(tuning: Tuning) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in tuning.loaded.policy.named_parameters()}


def test_the_error_falls_and_the_policy_is_as_before(tuning):
    before = parameters(tuning)
    found = tuning.run()
    report = found.report
    assert report is not None and report.kept and report.steps == 20
    assert 0 < report.error_after < 0.98 * report.error_before
    assert set(found.factors) == {t.name for t in tuning.tensors}
    assert found.factors["expert.weight"].shape == (32, 1)
    assert set(found.values) == set(tuning.free)
    after = parameters(tuning)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in tuning.loaded.policy.parameters())


def test_training_and_validation_share_no_episode(tuning):
    sides = [{f.episode for f in frames.frames} for frames in (tuning.training, tuning.validation)]
    assert all(sides) and not sides[0] & sides[1]


def test_a_killed_run_goes_on_and_finds_the_same(tuning, tmp_path, monkeypatch):
    whole = replace(tuning, work=WorkFolder(tmp_path / "whole")).run()
    steps = []

    def fail_at_the_fifteenth(step: int, total: int) -> float:
        steps.append(step)
        if len(steps) == 15:
            raise Killed
        return schedule(step, total)

    monkeypatch.setattr(tune_module, "schedule", fail_at_the_fifteenth)
    with pytest.raises(Killed):
        tuning.run()
    steps.clear()
    monkeypatch.setattr(tune_module, "schedule", lambda s, n: (steps.append(s), schedule(s, n))[1])
    resumed = tuning.run()
    assert steps == list(range(10, 20))
    assert resumed.report == whole.report
    for one, other in ((resumed.factors, whole.factors), (resumed.values, whole.values)):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    steps.clear()
    assert tuning.run().report == resumed.report and steps == []


def test_what_does_not_come_closer_is_not_kept(tuning, monkeypatch):
    monkeypatch.setattr(tune_module, "LEARNING_RATE", 3.0)
    found = tuning.run()
    assert found.report is not None and not found.report.kept
    assert found.report.error_after >= found.report.error_before
    assert found.factors == {} and found.values == {}


@pytest.mark.parametrize("settings", [replace(SETTINGS, minutes=0), replace(SETTINGS, steps=0)])
def test_no_time_means_no_tuning(tuning, settings):
    found = replace(tuning, settings=settings).run()
    assert found.report is None and found.factors == {} and found.values == {}


def test_the_time_of_the_first_step_says_how_many_there_can_be(tuning, monkeypatch):
    moments = iter([0.0, 3.0])
    monkeypatch.setattr(tune_module.time, "perf_counter", lambda: next(moments))
    found = replace(tuning, settings=replace(SETTINGS, minutes=1)).run()
    assert found.report is not None and found.report.steps == 15  # of 4 s each


def test_what_no_gradient_comes_to_stays_as_it_is(tuning):
    policy = tuning.loaded.policy
    policy.unused = torch.nn.Linear(4, 4)
    found = replace(tuning, free=[*tuning.free, "unused.bias"]).run()
    assert found.report is not None and found.report.kept
    np.testing.assert_array_equal(found.values["unused.bias"], policy.unused.bias.detach().numpy())


def test_schedule_rises_and_falls_to_nothing():
    rates = [schedule(step, 60) for step in range(60)]
    assert rates[0] == pytest.approx(0.1) and max(rates) < 1 and rates[-1] < 1e-2
    assert torch.tensor(rates).argmax() == 9
