"""Diffusion Policy: ResNets, and a 1-D U-Net that denoises actions (https://huggingface.co/papers/2303.04137)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from torch import Tensor, nn

from actquant.errors import CheckpointError
from actquant.policies.base import LoadedPolicy, Observation
from actquant.policies.given_noise import given_noise
from actquant.policies.lerobot import LeRobotFamily
from actquant.policies.noise_schedule import sampler
from actquant.policies.visual import ImagePrefix, Vision, VisualNormalization

ENCODER = r"diffusion\.rgb_encoder\."
UNET = r"diffusion\.unet\."


def encode_image(policy: Any, camera: int, image: Tensor) -> Tensor:
    """Normalised, cropped images [N, 3, H, W] -> features [N, 1, D]."""
    encoder = policy.diffusion.rgb_encoder
    if isinstance(encoder, nn.ModuleList):
        encoder = encoder[camera]
    keypoints = encoder.pool(encoder.backbone(image)).flatten(1)
    return encoder.relu(encoder.out(keypoints))[:, None]


class Prefix(ImagePrefix):
    """Image features and states [T, S] -> what the U-Net is conditioned on. Follows
    `DiffusionModel._prepare_global_conditioning`."""

    def forward(self, state: Tensor, **images: Tensor) -> dict[str, Tensor]:
        features = [camera.flatten(1) for camera in self.image_features(images)]
        return {"cond": torch.cat([state, *features], dim=1).flatten()[None]}


class Denoise(nn.Module):
    """The U-Net: x_t [1, horizon, A], timestep [1], cond [1, D] -> output [1, horizon, A]."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x_t: Tensor, timestep: Tensor, cond: Tensor) -> dict[str, Tensor]:
        return {"output": self.policy.diffusion.unet(x_t, timestep, global_cond=cond)}


class Decode(nn.Module):
    """The rows that are executed: x [1, horizon, A] -> actions [1, H, A]."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__()
        self.start = start
        self.length = length

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"actions": x[:, self.start : self.start + self.length]}


def image_steps(config: Any) -> tuple[str, ...]:
    """torchvision's Resize (of float images: no rounding) and CenterCrop."""
    steps = []
    if config.resize_shape is not None:
        height, width = config.resize_shape
        steps.append(f"resize height={height} width={width} filter=bilinear antialias=1 round=0")
    if config.crop_shape is not None:
        height, width = config.crop_shape
        steps.append(f"center_crop height={height} width={width}")
    return tuple(steps)


class Diffusion(LeRobotFamily):
    policy_type = "diffusion"
    policy_class = DiffusionPolicy
    normalizes_images = True
    unsupported: ClassVar = {"env_state_feature": None}
    layer_groups = (
        (rf"{ENCODER}(\d+)\.backbone\.(\d+)\.", "vision", "vision.{}.{}"),
        (rf"{ENCODER}backbone\.(\d+)\.", "vision", "vision.{}"),
        (rf"{ENCODER}(?:\d+\.)?(?:pool|out)\.", "projection", "projection"),
        (rf"{UNET}(down|mid|up)_modules\.(\d+)\.", "expert", "expert.{}.{}"),
        (rf"{UNET}final_conv\.", "expert", "expert.final"),
        (rf"{UNET}diffusion_step_encoder\.", "projection", "projection"),
    )
    short_names = (
        ("diffusion.rgb_encoder.", "vision."),
        ("diffusion.unet.", "unet."),
        ("diffusion.", ""),
    )

    def prepare(self, config: Any, folder: Path) -> None:
        config.pretrained_backbone_weights = None
        most = config.horizon - config.n_obs_steps + 1
        if config.n_action_steps > most:
            raise CheckpointError(
                f"{folder}/config.json: n_action_steps is {config.n_action_steps}, at most "
                f"horizon - n_obs_steps + 1 = {most}"
            )

    def finish(self, policy: Any) -> None:
        model = policy.diffusion
        model.unet = getattr(model.unet, "_orig_mod", model.unet)  # of torch.compile

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        model = policy.diffusion
        fields: dict[str, Any] = {
            "driver": "sampling",
            "sampler": sampler(model.noise_scheduler, model.num_inference_steps),
            "noise_rows": config.horizon,
            "noise_dim": config.action_feature.shape[0],
            "observation_steps": config.n_obs_steps,
            "image_steps": image_steps(config),
        }
        if size := config.crop_shape or config.resize_shape:
            fields["image_height"], fields["image_width"] = size
        return fields

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        policy: Any = loaded.policy
        face = loaded.interface
        visual: VisualNormalization = loaded.cache["visual"]
        separate = isinstance(policy.diffusion.rgb_encoder, nn.ModuleList)
        shared = len(face.cameras) == 1 or (visual.is_shared and not separate)
        arguments = (policy, encode_image, visual, shared)
        return {
            "vision": Vision(*arguments),
            "prefix": Prefix(*arguments, face),
            "denoise": Denoise(policy),
            "decode": Decode(face.observation_steps - 1, face.chunk_length),
        }

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        with given_noise(*(noise.unbind(1) if noise.ndim == 4 else [noise])):
            return policy.predict_action_chunk(batch)

    def action_window(self, loaded: LoadedPolicy) -> range:
        start = 1 - loaded.interface.observation_steps
        return range(start, start + loaded.interface.noise_rows)

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """`DiffusionModel.compute_loss` per sample; time (0, 1] is cut into the scheduler's
        training timesteps."""
        policy: Any = loaded.policy
        model, config = policy.diffusion, loaded.config
        trajectory = batch["action"]
        eps = noise[:, 0] if noise.ndim == 4 else noise
        count = model.noise_scheduler.config.num_train_timesteps
        timesteps = ((time * count).ceil().long() - 1).clamp(0, count - 1)
        images = torch.stack([batch[key] for key in config.image_features], dim=-4)
        cond = model._prepare_global_conditioning({**batch, "observation.images": images})
        noisy = model.noise_scheduler.add_noise(trajectory, eps, timesteps)
        output = model.unet(noisy, timesteps, global_cond=cond)
        target = eps if config.prediction_type == "epsilon" else trajectory
        error = ((output - target) ** 2).mean(dim=2)
        if not config.do_mask_loss_for_padding:
            return error.mean(dim=1)
        valid = ~batch["action_is_pad"]
        return (error * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        batch = super().batch(loaded, observations)
        if loaded.interface.observation_steps == 1:
            for key in ("observation.state", *loaded.config.image_features):
                batch[key] = batch[key][:, None]
        return batch
