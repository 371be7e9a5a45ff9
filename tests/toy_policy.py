"""A few linear layers that honour the contract of a policy family, and a dataset to feed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actquant.format.schema import PolicyInterface, Sampler
from actquant.policies.base import LoadedPolicy, PolicyFamily, QuantizableTensor

torch.set_num_threads(1)
CAMERAS = ("observation.images.scene", "observation.images.wrist")
SIDE, STATE_DIM, ACTION_DIM, CHUNK, PADDED, WIDTH = 48, 6, 7, 6, 8, 16
TASKS = ("put the cube into the tray", "lift the cube")


class ToyPolicy(nn.Module):
    """Image patches and state make a prefix, the prefix moves the velocity of noisy actions."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Linear(3 * 12 * 12, WIDTH)
        self.language = nn.Linear(WIDTH, WIDTH)
        self.state = nn.Linear(STATE_DIM, WIDTH)
        self.expert = nn.Linear(WIDTH + PADDED + 1, 2 * WIDTH)
        self.velocity = nn.Linear(2 * WIDTH, PADDED)

    def forward(self, images: list[Tensor], state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        patches = [i.unfold(2, 12, 12).unfold(3, 12, 12) for i in images]
        flat = [p.permute(0, 2, 3, 1, 4, 5).reshape(len(x), -1, 3 * 12 * 12) for p in patches]
        tokens = torch.cat([torch.tanh(self.vision(f)) for f in flat], dim=1)
        tokens = torch.cat([tokens, self.state(state)[:, None]], dim=1)
        context = torch.tanh(self.language(tokens)).mean(dim=1, keepdim=True)
        context = context.expand(-1, x.shape[1], -1)
        moment = time[:, None, None].expand(-1, x.shape[1], 1)
        return self.velocity(torch.tanh(self.expert(torch.cat([context, x, moment], dim=2))))


class ToyFamily(PolicyFamily):
    def load(self, folder: Path, **_: Any) -> LoadedPolicy:
        raise NotImplementedError

    def stages(self, loaded: LoadedPolicy):
        raise NotImplementedError

    def group_of(self, parameter: str):
        raise NotImplementedError

    def batch(self, loaded: LoadedPolicy, observations) -> dict[str, Any]:
        batch: dict[str, Any] = {
            camera: torch.stack([torch.from_numpy(o[camera]) for o in observations])
            .permute(0, 3, 1, 2)
            .div(255)
            for camera in CAMERAS
        }
        batch["observation.state"] = torch.stack(
            [torch.from_numpy(o["observation.state"]) for o in observations]
        )
        return batch

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        images, state, x, steps = [batch[c] for c in CAMERAS], batch["observation.state"], noise, 4
        for k in range(steps, 0, -1):
            x = x - loaded.policy(images, state, x, torch.full((len(x),), k / steps)) / steps
        return x[:, :, :ACTION_DIM]

    def action_loss(self, loaded, batch, noise: Tensor, time: Tensor) -> Tensor:
        actions = nn.functional.pad(batch["action"], (0, PADDED - ACTION_DIM))
        t = time[:, None, None]
        x = t * noise + (1 - t) * actions
        velocity = loaded.policy([batch[c] for c in CAMERAS], batch["observation.state"], x, time)
        return (velocity - (noise - actions))[:, :, :ACTION_DIM].square().mean(dim=(1, 2))


def make_toy(seed: int = 0) -> LoadedPolicy:
    torch.manual_seed(seed)
    interface = PolicyInterface(
        driver="sampling",
        sampler=Sampler.euler(4),
        cameras=CAMERAS,
        optional_cameras=0,
        image_height=SIDE,
        image_width=SIDE,
        image_source_height=SIDE,
        image_source_width=SIDE,
        image_steps=(),
        image_scale=1.0,
        image_offset=0.0,
        tokenizer_json="{}",
        tokenizer_max_length=8,
        tokenizer_pad_id=0,
        tokenizer_suffix="",
        state_names=tuple(f"s{i}" for i in range(STATE_DIM)),
        action_names=tuple(f"a{i}" for i in range(ACTION_DIM)),
        state_padded_dim=PADDED,
        action_padded_dim=PADDED,
        state_mean=(0.0,) * STATE_DIM,
        state_std=(1.0,) * STATE_DIM,
        action_mean=(0.1,) * ACTION_DIM,
        action_std=(0.5,) * ACTION_DIM,
        normalization_eps=1e-8,
        chunk_length=CHUNK,
        steps_per_chunk=CHUNK,
        control_rate_hz=10.0,
        noise_rows=CHUNK,
        noise_dim=PADDED,
    )
    return LoadedPolicy(
        ToyFamily(), ToyPolicy().eval(), None, None, None, Path("toy"), "0" * 64, interface
    )


def toy_tensors(loaded: LoadedPolicy) -> list[QuantizableTensor]:
    groups = {"vision": "vision", "state": "projection", "language": "language"}
    return [
        QuantizableTensor(f"{n}.weight", n, n, groups.get(n, "expert"), tuple(m.weight.shape))  # type: ignore[arg-type]
        for n, m in loaded.policy.named_children()
    ]


def make_dataset(
    folder: Path,
    *,
    episodes: int = 4,
    length: int = 8,
    seed: int = 0,
    state_dim: int = STATE_DIM,
    action_dim: int = ACTION_DIM,
    side: int = SIDE,
    cameras: tuple[str, ...] = CAMERAS,
    poison: tuple[int, int, str] | None = None,
) -> Path:
    """A LeRobotDataset with images; poison = (episode, frame, feature) gets a NaN."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    axes = ["height", "width", "channels"]
    features: dict[str, dict[str, Any]] = {
        camera: {"dtype": "image", "shape": (side, side, 3), "names": axes} for camera in cameras
    }
    for key, size in (("observation.state", state_dim), ("action", action_dim)):
        names = [f"{key[0]}{i}" for i in range(size)]
        features[key] = {"dtype": "float32", "shape": (size,), "names": names}
    dataset = LeRobotDataset.create(
        "local/tiny", fps=10, features=features, root=folder, use_videos=False
    )
    rng = np.random.default_rng(seed)
    for episode in range(episodes):
        walk = np.cumsum(rng.normal(0, 0.3, (length, state_dim)), axis=0).astype(np.float32)
        for step in range(length):
            grid = rng.integers(0, 256, (6, 6, 3), np.uint8)
            frame: dict[str, Any] = {c: np.kron(grid, np.ones((side // 6, side // 6, 1), np.uint8))
                                     for c in cameras}  # fmt: skip
            frame["observation.state"] = walk[step].copy()
            frame["action"] = np.resize(walk[min(step + 1, length - 1)], action_dim).copy()
            if poison is not None and poison[:2] == (episode, step):
                frame[poison[2]][0] = np.nan
            dataset.add_frame({**frame, "task": TASKS[episode % len(TASKS)]})
        dataset.save_episode()
    dataset.finalize()
    return folder
