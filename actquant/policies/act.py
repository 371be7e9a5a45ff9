"""ACT: a ResNet and a transformer that predicts a chunk at once (https://huggingface.co/papers/2304.13705)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.policies.act.modeling_act import ACTPolicy
from torch import Tensor, nn

from actquant.policies.base import LoadedPolicy
from actquant.policies.lerobot import LeRobotFamily
from actquant.policies.losses import chunk_mean
from actquant.policies.steps import BEFORE
from actquant.policies.surgery import fold_batch_norms, split_attention
from actquant.policies.visual import ImagePrefix, Vision, VisualNormalization


def encode_image(policy: Any, _: int, image: Tensor) -> Tensor:
    """Encodes normalised images [N, 3, H, W] -> tokens [N, T, D]."""
    features = policy.model.backbone(image)["feature_map"]
    return policy.model.encoder_img_feat_input_proj(features).flatten(2).transpose(1, 2)


def image_positions(policy: Any, size: tuple[int, int]) -> Tensor:
    """ACT's sinusoids for the tokens of one image: [1, T, D]."""
    stride = 16 if policy.config.replace_final_stride_with_dilation else 32
    rows, columns = (math.ceil(side / stride) for side in size)
    sinusoids = policy.model.encoder_cam_feat_pos_embed(torch.zeros(1, 1, rows, columns))
    return sinusoids.flatten(2).transpose(1, 2)


class Prefix(ImagePrefix):
    """Image tokens and state [1, S] -> actions [1, H, A]. Follows `ACT.forward` with the latent
    zero, so that of its projection the bias is left."""

    positions: Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        positions = image_positions(self.policy, self.size)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, state: Tensor, **images: Tensor) -> dict[str, Tensor]:
        model = self.policy.model
        latent = model.encoder_latent_input_proj.bias[None]
        vectors = torch.stack([latent, model.encoder_robot_state_input_proj(state)], dim=1)
        tokens = torch.cat([vectors, *self.image_features(images)], dim=1)
        vector_positions = model.encoder_1d_feature_pos_embed.weight[None]
        positions = torch.cat([vector_positions, *[self.positions] * self.cameras], dim=1)
        positions = positions.transpose(0, 1)
        encoded = model.encoder(tokens.transpose(0, 1), pos_embed=positions)
        queries = model.decoder_pos_embed.weight[:, None]
        decoded = model.decoder(
            torch.zeros_like(queries),
            encoded,
            encoder_pos_embed=positions,
            decoder_pos_embed=queries,
        )
        return {"actions": model.action_head(decoded.transpose(0, 1))}


class ACT(LeRobotFamily):
    policy_type = "act"
    policy_class = ACTPolicy
    normalizes_images = True
    preprocessor = BEFORE
    unsupported: ClassVar = {"env_state_feature": None}
    layer_groups = (
        (r"model\.backbone\.conv1\.", "vision", "vision.0"),
        (r"model\.backbone\.layer(\d+)\.", "vision", "vision.{}"),
        (r"model\.(encoder|decoder)\.layers\.(\d+)\.", "expert", "expert.{}.{}"),
        (r"model\.(encoder_\w+_proj|action_head)\.", "projection", "projection"),
    )
    short_names = (
        ("model.backbone.", "vision."),
        ("model.encoder.layers.", "encoder.blk."),
        ("model.decoder.layers.", "decoder.blk."),
        ("model.", ""),
    )

    def prepare(self, config: Any, folder: Path) -> None:
        config.pretrained_backbone_weights = None

    def remarks(self, config: Any) -> list[str]:
        if config.temporal_ensemble_coeff is None:
            return []
        return [
            "temporal_ensemble_coeff is not part of the file, which gives whole chunks; averaging "
            "them over time is the caller's"
        ]

    def finish(self, policy: Any) -> None:
        fold_batch_norms(policy.model.backbone)
        split_attention(policy.model.encoder)
        split_attention(policy.model.decoder)

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        return {"driver": "one_shot", "sampler": None}

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        visual: VisualNormalization = loaded.cache["visual"]
        arguments = (loaded.policy, encode_image, visual, visual.is_shared)
        return {"vision": Vision(*arguments), "prefix": Prefix(*arguments, loaded.interface)}

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        policy.reset()
        return policy.predict_action_chunk(batch)

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """Returns the L1 error of the actions that are not padding, with the latent zero; no noise
        and no time."""
        policy: Any = loaded.policy
        images = {"observation.images": [batch[key] for key in loaded.config.image_features]}
        actions, _ = policy.model({**batch, **images})
        return chunk_mean((actions - batch["action"]).abs(), batch.get("action_is_pad"))
