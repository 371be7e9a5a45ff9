from pathlib import Path

import numpy as np
import pytest
import torch
from toy_policy import make_toy, toy_tensors

import actquant.calibration.statistics as statistics_module
from actquant.calibration.accumulators import (
    LOSS,
    Fisher,
    GuidedMoments,
    MeanActivations,
    SecondMoments,
)
from actquant.calibration.frames import calibrate
from actquant.calibration.losses import OBJECTIVES, action_losses, action_projections
from actquant.calibration.statistics import PARTIAL_STAGE, Statistics, collect
from actquant.calibration.work_folder import WorkFolder
from actquant.common.errors import CalibrationError
from actquant.recipes.paper import hsic_scores

SOURCES = {"checkpoint": "a"}


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path / "work")


def autograd_fisher(loaded, tensors, frames, draws: int, seed: int) -> dict[str, np.ndarray]:
    """One backward pass per sample through the parameters themselves."""
    sums = {t.name: np.zeros(t.shape) for t in tensors}
    weights = {t.name: loaded.policy.get_submodule(t.module).weight for t in tensors}
    for draw in range(draws):
        for batch in frames.batches(1):
            loaded.policy.zero_grad()
            action_losses(loaded, batch, seed, draw).sum().backward()
            for name, weight in weights.items():
                sums[name] += weight.grad.double().numpy() ** 2
    return {name: value / (draws * len(frames)) for name, value in sums.items()}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_hooks_give_the_squared_gradient_of_every_sample(dataset, work, batch_size: int):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=7).calibration
    tensors = toy_tensors(loaded)
    expected = autograd_fisher(loaded, tensors, frames, draws=2, seed=5)
    options = {"draws": 2, "seed": 5, "batch_size": batch_size}
    found = collect(loaded, tensors, frames, {"linear": [Fisher.name]}, work, SOURCES, **options)
    for name, value in expected.items():
        assert value.max() > 0
        fisher = found.of(name, Fisher.name)["fisher"]
        np.testing.assert_allclose(fisher, value, rtol=2e-4, atol=value.max() * 1e-6)
    assert all(p.requires_grad for p in loaded.policy.parameters())


def test_groups_of_layers_give_what_one_pass_over_all_gives(dataset, tmp_path, monkeypatch):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=6).calibration
    tensors, kinds = toy_tensors(loaded), [MeanActivations, Fisher, SecondMoments]
    wanted = {"linear": [kind.name for kind in kinds]}
    passes = []
    monkeypatch.setattr(
        statistics_module,
        "LayerHooks",
        lambda layers, **options: passes.append(layers) or hooks(layers, **options),
    )
    whole = collect(
        loaded,
        tensors,
        frames,
        wanted,
        WorkFolder(tmp_path / "a"),
        SOURCES,
        draws=1,
    )
    objectives = {kind.objective for kind in kinds}
    assert [len(layers) for layers in passes] == [len(tensors)] * len(objectives) and len(
        passes
    ) > 1
    passes.clear()
    single = collect(
        loaded,
        tensors,
        frames,
        wanted,
        WorkFolder(tmp_path / "b"),
        SOURCES,
        draws=1,
        memory_bytes=1,
    )
    assert [len(layers) for layers in passes] == [1] * len(tensors) * len(kinds)
    for tensor in tensors:
        for kind in kinds:
            one, other = whole.of(tensor.name, kind.name), single.of(tensor.name, kind.name)
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


hooks = statistics_module.LayerHooks


class Killed(Exception):
    pass


def test_an_interrupted_pass_goes_on_where_it_stopped(dataset, tmp_path, monkeypatch):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=8).calibration
    tensors, kinds = toy_tensors(loaded), [MeanActivations, Fisher]
    wanted = {"linear": [kind.name for kind in kinds]}
    work, options = WorkFolder(tmp_path / "work"), {"batch_size": 2, "save_every": 4}
    whole = collect(
        loaded,
        tensors,
        frames,
        wanted,
        WorkFolder(tmp_path / "whole"),
        SOURCES,
    )
    calls = []

    def fail_at_the_sixth(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise Killed
        return action_losses(*arguments)

    monkeypatch.setitem(OBJECTIVES, LOSS, fail_at_the_sixth)
    with pytest.raises(Killed):
        collect(
            loaded,
            tensors,
            frames,
            wanted,
            work,
            SOURCES,
            **options,
        )
    saved = work.load(PARTIAL_STAGE, tensors[0].name, SOURCES)
    assert saved is not None
    sizes = [len(batch.frames) for batch in frames.batches(2)] * 2
    kept = list(np.cumsum(sizes)).index(saved.info["samples"]) + 1
    assert 0 < kept <= 5
    calls.clear()
    monkeypatch.setitem(OBJECTIVES, LOSS, lambda *a: (calls.append(a), action_losses(*a))[1])
    resumed = collect(loaded, tensors, frames, wanted, work, SOURCES, **options)
    assert len(calls) == len(sizes) - kept and resumed.kept == ()
    for tensor in tensors:
        for kind in kinds:
            for key, value in whole.of(tensor.name, kind.name).items():
                np.testing.assert_allclose(
                    resumed.of(tensor.name, kind.name)[key], value, rtol=1e-4, atol=1e-6
                )
    assert not work.holds(PARTIAL_STAGE, tensors[0].name, SOURCES)
    calls.clear()
    again = collect(loaded, tensors, frames, wanted, work, SOURCES, **options)
    assert calls == [] and again.kept == ("mean_activations", "fisher")
    collect(
        loaded,
        tensors,
        frames,
        wanted,
        work,
        {"checkpoint": "b"},
        **options,
    )
    assert len(calls) == len(sizes)


def test_a_killed_run_goes_on_with_the_next_tensor(dataset, work, monkeypatch):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    tensors = toy_tensors(loaded)
    options = {"draws": 1, "memory_bytes": 1, "batch_size": 4}
    per_tensor = len(list(frames.batches(4)))
    calls = []

    def fail_in_the_third_tensor(*arguments):
        calls.append(arguments)
        if len(calls) > 2 * per_tensor:
            raise Killed
        return action_losses(*arguments)

    monkeypatch.setitem(OBJECTIVES, LOSS, fail_in_the_third_tensor)
    with pytest.raises(Killed):
        collect(loaded, tensors, frames, {"linear": [Fisher.name]}, work, SOURCES, **options)
    assert [work.holds("fisher", t.name, SOURCES) for t in tensors] == [True, True] + [False] * 3
    calls.clear()
    monkeypatch.setitem(OBJECTIVES, LOSS, lambda *a: (calls.append(a), action_losses(*a))[1])
    collect(loaded, tensors, frames, {"linear": [Fisher.name]}, work, SOURCES, **options)
    assert len(calls) == (len(tensors) - 2) * per_tensor


def test_layers_that_get_no_gradient_have_no_curvature(dataset, work):
    loaded = make_toy()
    loaded.policy.unused = torch.nn.Linear(4, 4)
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    tensors = toy_tensors(loaded)
    found = collect(loaded, tensors, frames, {"linear": [Fisher.name]}, work, SOURCES, draws=1)
    assert not found.of("unused.weight", Fisher.name)["fisher"].any()
    with pytest.raises(CalibrationError, match="unused.weight was never used"):
        collect(loaded, tensors, frames, {"linear": [GuidedMoments.name]}, work, SOURCES)
    with pytest.raises(CalibrationError, match="unused.weight was never used"):
        collect(loaded, tensors, frames, {"linear": [MeanActivations.name]}, work, SOURCES)
    with pytest.raises(CalibrationError, match="unused.weight was never used"):
        collect(loaded, tensors, frames, {"linear": [SecondMoments.name]}, work, SOURCES)


def test_gradients_that_are_not_finite_name_the_tensor(dataset, work):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    weight = loaded.policy.get_submodule("velocity").weight
    with torch.no_grad():
        weight[0] = 1e18
    with pytest.raises(CalibrationError, match=r"weight: NaN or infinity"):
        collect(
            loaded, toy_tensors(loaded), frames, {"linear": [Fisher.name]}, work, SOURCES, draws=1
        )


def test_activations_are_means_over_the_tokens_of_a_frame_whatever_the_batch(dataset, tmp_path):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=6).calibration
    tensors = toy_tensors(loaded)
    one, four = (
        collect(
            loaded,
            tensors,
            frames,
            {"linear": [MeanActivations.name]},
            WorkFolder(tmp_path / str(size)),
            SOURCES,
            batch_size=size,
        )
        for size in (1, 4)
    )
    assert one.actions.shape == (6, 42)
    np.testing.assert_array_equal(one.actions, four.actions)
    for tensor in tensors:
        means, others = (found.of(tensor.name, MeanActivations.name) for found in (one, four))
        assert means["inputs"].shape[0] == 6
        for side, values in means.items():
            np.testing.assert_allclose(values, others[side], atol=1e-6)
    # The mean of a linear layer's outputs is its value at the mean of its inputs, also for the
    # layer that runs once per camera.
    means, vision = (
        one.of("vision.weight", MeanActivations.name),
        loaded.policy.get_submodule("vision"),
    )
    with torch.no_grad():
        expected = vision(torch.from_numpy(means["inputs"]).float()).numpy()
    np.testing.assert_allclose(means["outputs"], expected, atol=1e-5)


def test_second_moments_are_those_of_the_inputs(dataset, work):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    seen = []
    module = loaded.policy.get_submodule("vision")
    handle = module.register_forward_hook(lambda m, i, o: seen.append(i[0].detach()))
    found = collect(
        loaded, toy_tensors(loaded), frames, {"linear": [SecondMoments.name]}, work, SOURCES
    )
    handle.remove()
    tokens = torch.cat([x.reshape(-1, x.shape[-1]) for x in seen]).double().numpy()
    (moments,) = found.moments("vision.weight")
    np.testing.assert_allclose(moments, tokens.T @ tokens / len(tokens), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["vision", "expert"])  # called once a camera, and once a step
def test_guided_moments_are_those_of_the_inputs_by_the_gradient_of_the_outputs(
    dataset, work, path: str
):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    found = collect(
        loaded,
        toy_tensors(loaded),
        frames,
        {"linear": [GuidedMoments.name]},
        work,
        SOURCES,
        draws=2,
        seed=3,
    )
    seen = []

    def keep(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append((inputs[0].detach(), output))

    handle = loaded.policy.get_submodule(path).register_forward_hook(keep)
    for draw in range(2):
        for batch in frames.batches(1):
            action_projections(loaded, batch, 3, draw).sum().backward()
    handle.remove()
    tokens = torch.cat([x.reshape(-1, x.shape[-1]) for x, _ in seen]).double().numpy()
    gradients = torch.cat([z.grad.reshape(-1, z.shape[-1]) for _, z in seen]).double().numpy()
    weights = (gradients**2).mean(axis=1)
    assert weights.max() > 2 * weights.mean() > 0  # tokens differ in what they matter
    expected = (weights[:, None] * tokens).T @ tokens / len(tokens)
    (moments,) = found.moments(f"{path}.weight", GuidedMoments.name)
    np.testing.assert_allclose(moments, expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_scores_repeat_with_the_seed_and_reach_the_expert(dataset, tmp_path):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=8).calibration
    tensors = toy_tensors(loaded)

    def scores(seed: int, name: str):
        work = WorkFolder(tmp_path / name)
        found = collect(
            loaded,
            tensors,
            frames,
            {"linear": [MeanActivations.name]},
            work,
            {"seed": str(seed)},
            seed=seed,
        )
        return hsic_scores(tensors, found)

    first = scores(3, "a")
    assert first == scores(3, "b") != scores(4, "c")
    assert list(first) == [t.name for t in tensors]
    assert first["velocity.weight"].hsic_y_out > 0


def test_what_was_not_collected_is_named(work):
    with pytest.raises(CalibrationError, match="no fisher of vision.weight"):
        Statistics(work, SOURCES).of("vision.weight", Fisher.name)


def test_nan_in_the_loss_names_the_frame(dataset):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=4).calibration
    with torch.no_grad():
        loaded.policy.get_submodule("velocity").bias[0] = float("nan")
    batch = next(frames.batches(2))
    first = batch.frames[0]
    with pytest.raises(CalibrationError, match=f"episode {first.episode}, frame {first.frame}"):
        action_losses(loaded, batch, 0)
