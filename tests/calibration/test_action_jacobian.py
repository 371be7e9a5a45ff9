"""The action Jacobian is that of the executed actions, for every family's own way to act."""

import gc
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from random_dataset import make_dataset
from scipy.linalg import block_diag
from tiny_families import BUILDERS, build_tiny, loading

from actquant.calibration import bfloat16, statistics
from actquant.calibration.accumulators import ActionJacobian, EmbeddingJacobian, GuidedMoments
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import calibrate
from actquant.calibration.hooks import LayerHooks
from actquant.calibration.losses import action_projections
from actquant.calibration.statistics import collect
from actquant.calibration.work_folder import WorkFolder
from actquant.capture.policy import quantizable
from actquant.policies import LoadedPolicy, load_policy

KINDS = {
    "linear": ["action_jacobian", "guided_moments"],
    "convolution": ["action_jacobian", "guided_moments"],
    "embedding": ["embedding_jacobian"],
}


def load_both(family: str, folder: Path) -> tuple[LoadedPolicy, LoadedPolicy]:
    """Returns a small policy with its weights in memory and on disk; writes a dataset."""
    checkpoint = build_tiny(family, folder / "checkpoint")
    with loading(family):
        face = load_policy(checkpoint, control_rate_hz=10).interface
        make_dataset(folder / "data", face, episodes=2, length=4)
        in_memory, streamed = (
            load_for_dataset(checkpoint, folder / "data", streamed=streamed)
            for streamed in (False, True)
        )
    return in_memory, streamed


@pytest.mark.parametrize("family", BUILDERS)
def test_hooks_give_the_squared_gradient_of_the_executed_actions(family: str, tmp_path):
    loaded, _ = load_both(family, tmp_path)
    frames = calibrate(loaded, tmp_path / "data", n_frames=2, n_held_out=0).calibration
    kinds = KINDS
    tensors = quantizable(loaded, kinds)
    tables = [tensor for tensor in tensors if tensor.kind == "embedding"]
    layers = [tensor for tensor in tensors if tensor.kind != "embedding"]
    work = WorkFolder(tmp_path / "work")
    options = {"draws": 1, "seed": 3}
    found = collect(loaded, layers, frames, kinds, work, {}, batch_size=2, **options)
    # One frame at a time, for positions that all frames share are only on average told apart.
    collect(loaded, tables, frames, kinds, work, {}, batch_size=1, **options)
    weights = {t.name: loaded.policy.get_submodule(t.module).weight for t in tensors}
    for weight in weights.values():
        weight.requires_grad_(True)
    expected = {tensor.name: np.zeros(tensor.shape) for tensor in tensors}
    for batch in frames.batches(1):
        loaded.policy.zero_grad()
        with torch.enable_grad():
            action_projections(loaded, batch, 3).sum().backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                gradient = weight.grad.double().numpy().reshape(expected[name].shape)
                expected[name] += gradient**2 / len(frames)
    moved = 0
    for tensor in tensors:
        value = expected[tensor.name]
        if tensor.kind == "embedding":
            table = found.of(tensor.name, EmbeddingJacobian.name)
            jacobian, moments = np.zeros_like(value), table["gradient_moments"]
            jacobian[table["rows"]] = table["action_jacobian"]
            padding = loaded.policy.get_submodule(tensor.module).padding_idx
            if padding is not None:  # PyTorch lets no gradient through to it
                jacobian[padding] = value[padding]
        else:
            collected = found.of(tensor.name, ActionJacobian.name)
            jacobian = collected["action_jacobian"]
            value = value[collected["rows"]] if "rows" in collected else value
            moments = block_diag(*found.moments(tensor.name, GuidedMoments.name))
        np.testing.assert_allclose(
            jacobian, value, rtol=2e-3, atol=1e-5 * value.max(), err_msg=tensor.name
        )
        assert len(moments) == value.shape[1]
        smallest = 1e-6 * max(1, np.trace(moments))  # of no eigenvalue of it below -smallest
        np.linalg.cholesky(moments + smallest * np.eye(len(moments)))
        moved += bool(value.any())
    assert moved > 0.8 * len(expected)


@pytest.mark.parametrize("family", BUILDERS)
def test_a_large_policy_has_the_same_curvature(family: str, tmp_path, monkeypatch):
    """Weights on disk, activations in bfloat16 until the backward pass, moments in later passes."""
    loaded, streamed = load_both(family, tmp_path)
    found = []
    for policy, name, options in (
        (loaded, "a", {"batch_size": 2}),
        (streamed, "b", {"batch_size": 2, "memory_bytes": 1 << 20}),
    ):
        frames = calibrate(policy, tmp_path / "data", n_frames=2, n_held_out=0).calibration
        work = WorkFolder(tmp_path / name)
        tensors = quantizable(policy, KINDS)
        found.append(collect(policy, tensors, frames, KINDS, work, {}, draws=1, **options))
        monkeypatch.setattr(statistics, "LARGE_POLICY", 1)
        monkeypatch.setattr(bfloat16, "SMALLEST_PACKED", 1)
        monkeypatch.setattr(statistics, "bfloat16_products", nullcontext)
    for tensor in quantizable(loaded, KINDS):
        for kind in KINDS[tensor.kind]:
            one, other = (each.of(tensor.name, kind) for each in found)
            assert one.keys() == other.keys()
            for key in one:
                scale = np.linalg.norm(one[key]) or 1.0
                assert np.linalg.norm(one[key] - other[key]) < 0.05 * scale, (tensor.name, key)


def test_products_are_rounded_to_bfloat16_at_most_and_only_within():
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a @ b
    with pytest.raises(ZeroDivisionError), bfloat16.bfloat16_products():
        assert (a @ b - exact).norm() < 0.01 * exact.norm()
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before
    assert torch.equal(a @ b, exact)


def test_what_autograd_saved_goes_with_the_graph():
    """An output that is kept as it is, as small ones are, must not keep its own operator where no
    gradient passes, as behind the last layer of a prefix."""

    class Witness:
        def __call__(self, gradient: torch.Tensor) -> None:
            pass

    module = torch.nn.Linear(2, 2)
    with bfloat16.save_in_bfloat16(module):
        output = torch.ones(2, requires_grad=True).exp()
    witness = Witness()
    output.register_hook(witness)
    alive = weakref.ref(witness)
    del witness, output
    gc.collect()
    assert alive() is None


def test_an_input_that_was_changed_in_place_is_kept_anew():
    layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2)).requires_grad_(False)
    first, second = layers
    found = [ActionJacobian(name, 2, 2) for name in "ab"]
    hooks = LayerHooks([(first, found[:1]), (second, found[1:])], in_bfloat16=True)
    x = torch.ones(1, 2)
    with hooks.watch(1), torch.enable_grad():
        total = first(x).sum()
        x.mul_(2)
        (total + second(x).sum()).backward()
    sums = [each.result(1)["action_jacobian"] for each in found]
    assert (sums[0] == 1).all() and (sums[1] == 4).all()
