"""Diffusion Policy: ResNets, and a 1-D U-Net that denoises actions (https://huggingface.co/papers/2303.04137)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.policies.diffusion import modeling_diffusion as lerobot_diffusion
from torch import Tensor, nn

from actquant.policies.action_diffusion import ActionDiffusionFamily, image_steps
from actquant.policies.base import LoadedPolicy, StageModule
from actquant.policies.lerobot import replaced
from actquant.policies.losses import chunk_mean, noised
from actquant.policies.noise_schedule import sampler
from actquant.policies.steps import BEFORE
from actquant.policies.surgery import fold_batch_norms, split_conditioning

ENCODER = r"diffusion\.rgb_encoder\."
UNET = r"diffusion\.unet\."


def encode_image(policy: Any, camera: int, image: Tensor) -> Tensor:
    """Encodes normalised, cropped images [N, 3, H, W] -> features [N, 1, D]."""
    encoder: Any = policy.diffusion.rgb_encoder
    if isinstance(encoder, nn.ModuleList):
        encoder = encoder[camera]
    keypoints = encoder.pool(encoder.backbone(image)).flatten(1)
    return encoder.relu(encoder.out(keypoints))[:, None]


def output_shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    empty = copy.deepcopy(module).to_empty(device="meta")
    return tuple(empty(torch.zeros(shape, device="meta")).shape)


class Denoise(StageModule):
    """The U-Net: x_t [1, horizon, A], timestep [1], cond [1, D] -> output [1, horizon, A]."""

    def forward(self, x_t: Tensor, timestep: Tensor, cond: Tensor) -> dict[str, Tensor]:
        return {"output": self.policy.diffusion.unet(x_t, timestep, global_cond=cond)}


class Diffusion(ActionDiffusionFamily):
    policy_type = "diffusion"
    policy_class = lerobot_diffusion.DiffusionPolicy
    preprocessor = BEFORE
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
        super().prepare(config, folder)
        config.pretrained_backbone_weights = None
        config.compile_model = False

    def make(self, config: Any) -> nn.Module:
        """Makes the policy; LeRobot runs its backbone, still without weights, to know its size."""
        with replaced(lerobot_diffusion, get_output_shape=output_shape):
            try:
                return self.policy_class(config)
            except NotImplementedError as error:  # diffusers' word for a setting it does not know
                raise ValueError(str(error)) from error

    def finish(self, policy: Any) -> None:
        model = policy.diffusion
        fold_batch_norms(model.rgb_encoder)
        split_conditioning(model.unet, "cond_encoder", policy.config.diffusion_step_embed_dim)

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        model = policy.diffusion
        return {
            **super().interface(policy, config),
            **image_steps(config.resize_shape, config.crop_shape),
            "sampler": sampler(model.noise_scheduler, model.num_inference_steps),
        }

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        policy: Any = loaded.policy
        separate = isinstance(policy.diffusion.rgb_encoder, nn.ModuleList)
        return self.stages_around(loaded, encode_image, Denoise(policy), separate)

    def generate(self, policy: Any, batch: dict[str, Any]) -> Tensor:
        return policy.diffusion.generate_actions(batch)

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        model = policy.diffusion
        eps = noise[:, 0] if noise.ndim == 4 else noise
        cond = model._prepare_global_conditioning(self.with_images(loaded, batch))
        noisy, timesteps, target = noised(model.noise_scheduler, batch["action"], eps, time)
        error = (model.unet(noisy, timesteps, global_cond=cond) - target) ** 2
        masked = loaded.config.do_mask_loss_for_padding
        return chunk_mean(error, batch["action_is_pad"] if masked else None)
