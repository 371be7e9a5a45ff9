"""Diffusion Policy: ResNets, and a 1-D U-Net that denoises actions (https://huggingface.co/papers/2303.04137)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from torch import Tensor, nn

from actquant.errors import CheckpointError
from actquant.model_schema import PolicyInterface, Sampler
from actquant.policies import checkpoint
from actquant.policies.base import Group, LoadedPolicy, Observation, PolicyFamily, Stage
from actquant.policies.noise_schedule import given_noise, sampler
from actquant.policies.visual import (
    ImagePrefix,
    Vision,
    VisualNormalization,
    image_size,
    require_cameras,
)

ENCODER = r"diffusion\.rgb_encoder\."
UNET = r"diffusion\.unet\."
LAYER_GROUPS: tuple[tuple[str, Group, str], ...] = (
    (rf"{ENCODER}(\d+)\.backbone\.(\d+)\.", "vision", "vision.{}.{}"),
    (rf"{ENCODER}backbone\.(\d+)\.", "vision", "vision.{}"),
    (rf"{ENCODER}(?:\d+\.)?(?:pool|out)\.", "projection", "projection"),
    (rf"{UNET}(down|mid|up)_modules\.(\d+)\.", "expert", "expert.{}.{}"),
    (rf"{UNET}final_conv\.", "expert", "expert.final"),
    (rf"{UNET}diffusion_step_encoder\.", "projection", "projection"),
)


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


class Diffusion(PolicyFamily):
    policy_type = "diffusion"
    short_names = (
        ("diffusion.rgb_encoder.", "vision."),
        ("diffusion.unet.", "unet."),
        ("diffusion.", ""),
    )

    def load(
        self,
        folder: Path,
        *,
        control_rate_hz: float | None,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
    ) -> LoadedPolicy:
        config = checkpoint.read_config(folder)
        config.pretrained_backbone_weights = None
        self._check(config, folder)
        source = image_size(config, folder)
        policy: Any = checkpoint.build(lambda: DiffusionPolicy(config), folder)
        checkpoint.load_weights(policy, folder)
        model = policy.diffusion
        model.unet = getattr(model.unet, "_orig_mod", model.unet)  # of torch.compile
        pre, post = checkpoint.load_processors(folder, tokenizer="")
        return LoadedPolicy(
            family=self,
            policy=policy,
            config=config,
            preprocessor=pre,
            postprocessor=post,
            folder=folder,
            checkpoint_sha256=checkpoint.sha256(folder / "model.safetensors"),
            interface=self._interface(
                config,
                source,
                sampler(model.noise_scheduler, model.num_inference_steps),
                checkpoint.Normalization.read(pre, post, config, folder, visual=True),
                checkpoint.control_rate(folder, control_rate_hz),
                (state_names, action_names),
                checkpoint.raw_keys(pre),
            ),
            cache={"visual": VisualNormalization.read(pre, config, folder)},
        )

    def _check(self, config: Any, folder: Path) -> None:
        wrong = []
        if config.env_state_feature is not None:
            wrong.append("an environment state is not supported")
        if config.n_action_steps > config.horizon - config.n_obs_steps + 1:
            wrong.append("n_action_steps must be at most horizon - n_obs_steps + 1")
        if wrong:
            raise CheckpointError(f"{folder}/config.json: {'; '.join(wrong)}")

    def _interface(
        self,
        config: Any,
        source: tuple[int, int],
        sampler: Sampler,
        normalization: checkpoint.Normalization,
        control_rate_hz: float | None,
        names: tuple[Sequence[str] | None, Sequence[str] | None],
        raw_keys: dict[str, str],
    ) -> PolicyInterface:
        state, action = config.robot_state_feature.shape[0], config.action_feature.shape[0]
        height, width = config.crop_shape or config.resize_shape or source
        return PolicyInterface(
            driver="sampling",
            sampler=sampler,
            cameras=tuple(raw_keys.get(key, key) for key in config.image_features),
            optional_cameras=0,
            image_height=height,
            image_width=width,
            image_source_height=source[0],
            image_source_width=source[1],
            image_steps=self._image_steps(config),
            image_scale=1.0,
            image_offset=0.0,
            state_names=checkpoint.names("state", state, names[0]),
            action_names=checkpoint.names("action", action, names[1]),
            state_padded_dim=state,
            action_padded_dim=action,
            state_mean=normalization.state_mean,
            state_std=normalization.state_std,
            action_mean=normalization.action_mean,
            action_std=normalization.action_std,
            normalization_eps=normalization.eps,
            chunk_length=config.n_action_steps,
            steps_per_chunk=config.n_action_steps,
            control_rate_hz=control_rate_hz,
            noise_rows=config.horizon,
            noise_dim=action,
            observation_steps=config.n_obs_steps,
        )

    @staticmethod
    def _image_steps(config: Any) -> tuple[str, ...]:
        """torchvision's Resize (of float images: no rounding) and CenterCrop."""
        steps = []
        if config.resize_shape is not None:
            height, width = config.resize_shape
            steps.append(
                f"resize height={height} width={width} filter=bilinear antialias=1 round=0"
            )
        if config.crop_shape is not None:
            height, width = config.crop_shape
            steps.append(f"center_crop height={height} width={width}")
        return tuple(steps)

    def stages(self, loaded: LoadedPolicy, prompt_length: int = 0) -> list[Stage]:
        policy: Any = loaded.policy
        face = loaded.interface
        visual: VisualNormalization = loaded.cache["visual"]
        separate = isinstance(policy.diffusion.rgb_encoder, nn.ModuleList)
        shared = len(face.cameras) == 1 or (visual.is_shared and not separate)
        size = (face.image_height, face.image_width)
        arguments = (policy, encode_image, visual, shared)
        cameras, steps = len(face.cameras), face.observation_steps
        vision = Vision(*arguments)
        prefix = Prefix(*arguments, cameras=cameras, steps=steps, size=size)
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, *size, generator=generator)
        inputs = {"state": torch.randn(steps, face.state_padded_dim, generator=generator)}
        with torch.no_grad():
            embedding = vision(image)["embedding"]
            for index in range(steps * cameras):
                inputs[f"image_embedding_{index}"] = embedding.clone()
            cond = prefix(**inputs)["cond"]
        x = torch.randn(1, face.noise_rows, face.noise_dim, generator=generator)
        denoise_inputs = {"x_t": x, "timestep": torch.full((1,), 3.0), "cond": cond.clone()}
        return [
            Stage("vision", vision, {"image": image}),
            Stage("prefix", prefix, inputs),
            Stage("denoise", Denoise(policy), denoise_inputs, ("x_t", "timestep"), "timestep"),
            Stage("decode", Decode(steps - 1, face.chunk_length), {"x": x.clone()}),
        ]

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        draws = noise if noise.ndim == 4 else noise[:, None]
        with given_noise(draws[:, 1:]):
            return policy.predict_action_chunk(batch, noise=draws[:, 0])

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
        cameras = loaded.interface.cameras
        require_cameras(cameras, observations)
        batch = checkpoint.batch(loaded.preprocessor, cameras, observations)
        if loaded.interface.observation_steps == 1:
            for key in ("observation.state", *loaded.config.image_features):
                batch[key] = batch[key][:, None]
        return batch

    def group_of(self, parameter: str) -> tuple[Group, str]:
        for pattern, group, layer in LAYER_GROUPS:
            if match := re.match(pattern, parameter):
                return group, layer.format(*match.groups())
        raise CheckpointError(f"{parameter} belongs to no group of a {self.policy_type} policy")
