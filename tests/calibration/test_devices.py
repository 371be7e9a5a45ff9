"""A policy on a GPU is given its batch there. No GPU is needed: tensors without data say where they
are, and PyTorch refuses to mix devices. What runs backward needs a real one."""

from pathlib import Path

import pytest
import torch
from random_dataset import RATE_HZ, make_dataset
from tiny_families import build_tiny, loading
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from actquant.calibration.accumulators import SecondMoments
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.devices import beside, device_of, find_device, placed
from actquant.calibration.frames import calibrate
from actquant.calibration.hooks import LayerHooks, make_layers
from actquant.calibration.losses import draw_noise
from actquant.capture.policy import quantizable
from actquant.policies import load_policy


def move_without_data(policy: nn.Module, device: str) -> None:
    for module in policy.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    there = torch.empty(value.shape, dtype=value.dtype, device=device)
                    is_parameter = isinstance(value, nn.Parameter)
                    store[name] = nn.Parameter(there) if is_parameter else there


@pytest.mark.parametrize("family", ["act", "openvla_oft", "pi05"])  # others ask for values
def test_all_that_a_forward_pass_takes_is_where_the_policy_is(family: str, tmp_path: Path):
    with loading(family):
        checkpoint, data = build_tiny(family, tmp_path / "policy"), tmp_path / "data"
        make_dataset(data, load_policy(checkpoint, control_rate_hz=RATE_HZ).interface, 2, 2)
        loaded = load_for_dataset(checkpoint, data, streamed=False)
        frames = calibrate(loaded, data, n_frames=1, n_held_out=0).calibration
        batch = frames.batch([frames[0]])
        noise, _ = draw_noise(loaded, batch.frames, seed=0)
        layers = {t.module: t for t in quantizable(loaded, ["linear", "convolution"])}
        with FakeTensorMode(allow_non_fake_inputs=True):
            move_without_data(loaded.policy, "cuda")
            found = {path: [SecondMoments(t.name, *t.shape)] for path, t in layers.items()}
            assert device_of(loaded).type == "cuda"
            with LayerHooks(make_layers(loaded.policy, found)).watch(1), torch.no_grad():
                there = noise.to(device_of(loaded))
                chunk = loaded.family.predict_chunk(loaded, beside(loaded, batch.tensors), there)
            assert chunk.device.type == "cuda"
            moments = [total for (each,) in found.values() for total in each._sums]
            assert {total.device.type for total in moments} == {"cuda"}


def test_without_a_gpu_the_policy_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checkpoint = build_tiny("act", tmp_path / "policy")
    loaded = load_policy(checkpoint, control_rate_hz=RATE_HZ)
    assert find_device(loaded) == torch.device("cpu")
    with placed(loaded, torch.device("cpu")):
        assert device_of(loaded).type == "cpu"


def test_a_gpu_is_taken_if_the_policy_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = load_policy(build_tiny("act", tmp_path / "policy"), control_rate_hz=RATE_HZ)
    needed = 12 * sum(p.numel() for p in loaded.policy.parameters())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for free, expected in ((needed, "cuda:1"), (needed - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert find_device(loaded) == torch.device(expected)
