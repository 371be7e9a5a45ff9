"""Multi-task DiT: CLIP's towers and a transformer that denoises actions (https://arxiv.org/abs/2507.05331)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lerobot.policies.multi_task_dit import modeling_multi_task_dit as lerobot_dit
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from actquant.common.errors import CheckpointError
from actquant.format.schema import Sampler
from actquant.policies import checkpoint
from actquant.policies.action_diffusion import ActionDiffusionFamily, Prefix, image_steps
from actquant.policies.base import LoadedPolicy, StageModule
from actquant.policies.lerobot import replaced
from actquant.policies.losses import chunk_mean, noised
from actquant.policies.noise_schedule import sampler
from actquant.policies.steps import BATCH, DEVICE, NORMALIZER, RENAME, TOKENIZER
from actquant.policies.surgery import split_attention, split_conditioning

VISION = r"observation_encoder\.vision_encoder"
TEXT = r"observation_encoder\.text_encoder\."
DIT = r"noise_predictor\."


def encode_image(policy: Any, camera: int, image: Tensor) -> Tensor:
    """Encodes normalised, cropped images [N, 3, H, W] -> features [N, 1, D]."""
    encoders = policy.observation_encoder
    encoder = encoders.vision_encoder or encoders.vision_encoders[camera]
    return encoder(image).flatten(1)[:, None]


class TextPrefix(Prefix):
    """With the text's feature after the images', the same for every observation.

    Attention is causal, and the feature is read at the first end of text, so that padding after it
    changes nothing.
    """

    def forward(
        self, tokens: Tensor, token_mask: Tensor, state: Tensor, **images: Tensor
    ) -> dict[str, Tensor]:
        encoder = self.policy.observation_encoder.text_encoder
        text = encoder.text_encoder.text_model
        positions = token_mask.long().cumsum(1) - 1
        hidden = text.embeddings(input_ids=tokens, position_ids=positions)
        hidden = text.encoder(inputs_embeds=hidden, attention_mask=None, is_causal=True)[0]
        # Configurations older than the fix of transformers have 2 here and mean the highest id.
        end = tokens.amax(1, keepdim=True) if text.eos_token_id == 2 else text.eos_token_id
        is_end = (tokens == end).long()
        first = (is_end * (is_end.cumsum(1) == 1)).float()
        pooled = text.final_layer_norm((first[:, None] @ hidden)[:, 0])
        feature = encoder.projection(pooled).expand(self.steps, -1)
        return {"cond": self.condition(state, images, feature)}


class Denoise(StageModule):
    """The transformer: x_t [1, horizon, A], timestep [1], cond [1, D] -> output like x_t."""

    def forward(self, x_t: Tensor, timestep: Tensor, cond: Tensor) -> dict[str, Tensor]:
        return {"output": self.policy.noise_predictor(x_t, timestep, conditioning_vec=cond)}


class MultiTaskDiT(ActionDiffusionFamily):
    policy_type = "multi_task_dit"
    policy_class = lerobot_dit.MultiTaskDiTPolicy
    prefix = TextPrefix
    preprocessor = (RENAME, BATCH, TOKENIZER, DEVICE, NORMALIZER)
    unsupported: ClassVar = {"tokenizer_padding_side": "right"}
    layer_groups = (
        (rf"{VISION}s\.(\d+)\..*\.layers\.(\d+)\.", "vision", "vision.{}.{}"),
        (rf"{VISION}\..*\.layers\.(\d+)\.", "vision", "vision.{}"),
        (rf"{VISION}.*embeddings\.", "projection", "projection"),
        (rf"{TEXT}.*\.layers\.(\d+)\.", "language", "language.{}"),
        (rf"{TEXT}(projection|.*embeddings)\.", "projection", "projection"),
        (rf"{DIT}transformer_blocks\.(\d+)\.", "expert", "expert.{}"),
        (rf"{DIT}(time_mlp|input_proj|output_proj)\.", "projection", "projection"),
    )
    short_names = (
        ("observation_encoder.vision_encoder.model.vision_model.", "vision."),
        ("observation_encoder.vision_encoders.", "vision."),
        ("observation_encoder.text_encoder.text_encoder.text_model.", "language."),
        ("observation_encoder.", ""),
        ("noise_predictor.transformer_blocks.", "expert.blk."),
        ("noise_predictor.", "expert."),
    )

    def prepare(self, config: Any, folder: Path) -> None:
        super().prepare(config, folder)
        if config.is_flow_matching and config.integration_method != "euler":
            raise CheckpointError(
                f"{folder}/config.json: not supported: integration_method "
                f"{config.integration_method!r}; supported: 'euler'"
            )
        config.vision_encoder_name = checkpoint.find_model(folder, config.vision_encoder_name)
        config.text_encoder_name = checkpoint.find_model(folder, config.text_encoder_name)

    def make(self, config: Any) -> nn.Module:
        """Makes the policy with CLIP's configuration alone; LeRobot would load its weights
        first."""
        with replaced(
            lerobot_dit,
            CLIPVisionModel=FromConfiguration(CLIPVisionModel, CLIPVisionConfig),
            CLIPTextModel=FromConfiguration(CLIPTextModel, CLIPTextConfig),
        ):
            return self.policy_class(config)

    def finish(self, policy: Any) -> None:
        split_attention(policy.noise_predictor)
        time_features = policy.config.timestep_embed_dim
        split_conditioning(policy.noise_predictor, "adaLN_modulation", time_features)

    def tokenizer(self, config: Any, folder: Path) -> str:
        return config.text_encoder_name

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        objective = policy.objective
        if config.is_flow_matching:
            steps = Sampler.euler(config.num_integration_steps, start=0.0, end=1.0)
        else:
            steps = sampler(objective.noise_scheduler, objective.num_inference_steps)
        return {
            **super().interface(policy, config),
            **image_steps(config.image_resize_shape, config.image_crop_shape),
            "sampler": steps,
        }

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        separate = loaded.config.use_separate_rgb_encoder_per_camera
        return self.stages_around(loaded, encode_image, Denoise(loaded.policy), separate)

    def generate(self, policy: Any, batch: dict[str, Any]) -> Tensor:
        return policy._generate_actions(batch)

    def draw_time(self, loaded: LoadedPolicy, rng: np.random.Generator) -> float:
        config = loaded.config
        if config.is_diffusion or config.timestep_sampling_strategy == "uniform":
            return super().draw_time(loaded, rng)
        drawn = rng.beta(config.timestep_sampling_alpha, config.timestep_sampling_beta)
        return 1.0 - config.timestep_sampling_s * (1.0 - drawn)

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        config, actions = loaded.config, batch["action"]
        noise = noise[:, 0] if noise.ndim == 4 else noise
        cond = policy.observation_encoder.encode(self.with_images(loaded, batch))
        if config.is_flow_matching:
            when, spread = 1 - time, 1 - config.sigma_min
            t = when[:, None, None]
            noisy, target = t * actions + (1 - spread * t) * noise, actions - spread * noise
        else:
            scheduler = policy.objective.noise_scheduler
            noisy, when, target = noised(scheduler, actions, noise, time)
        error = (policy.noise_predictor(noisy, when, conditioning_vec=cond) - target) ** 2
        return chunk_mean(
            error, batch["action_is_pad"] if config.do_mask_loss_for_padding else None
        )


class FromConfiguration:
    """A transformers model whose `from_pretrained` reads no weights."""

    def __init__(self, model: Any, configuration: Any) -> None:
        self.model = model
        self.configuration = configuration

    def from_pretrained(self, name: str) -> nn.Module:
        return self.model(self.configuration.from_pretrained(name))
