"""ACT: a ResNet and a transformer that predicts a chunk at once (https://huggingface.co/papers/2304.13705)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from lerobot.policies.act.modeling_act import ACTPolicy
from torch import Tensor, nn

from actquant.policies.base import LoadedPolicy
from actquant.policies.lerobot import LeRobotFamily
from actquant.policies.visual import ImagePrefix, Vision, VisualNormalization


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` without mask and dropout, its packed projection as three linear
    layers, each of which can be quantized. Sequences are [L, B, D], as ACT has them."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = packed.num_heads
        width = packed.embed_dim
        projections = [nn.Linear(width, width) for _ in range(3)]
        weights = packed.in_proj_weight.detach().chunk(3)
        biases = packed.in_proj_bias.detach().chunk(3)
        for projection, weight, bias in zip(projections, weights, biases, strict=True):
            projection.weight = nn.Parameter(weight.clone(), requires_grad=False)
            projection.bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.q_proj, self.k_proj, self.v_proj = projections
        self.out_proj = packed.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: None) -> tuple[Tensor]:
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).permute(1, 2, 0, 3)
            for projection, x in (
                (self.q_proj, query),
                (self.k_proj, key),
                (self.v_proj, value),
            )
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return (self.out_proj(attended.permute(2, 0, 1, 3).flatten(2)),)


def encode_image(policy: Any, _: int, image: Tensor) -> Tensor:
    """Normalised images [N, 3, H, W] -> tokens [N, T, D]."""
    features = policy.model.backbone(image)["feature_map"]
    return policy.model.encoder_img_feat_input_proj(features).flatten(2).transpose(1, 2)


def image_positions(policy: Any, size: tuple[int, int]) -> Tensor:
    """ACT's sinusoids for the tokens of one image: [1, T, D]."""
    with torch.no_grad():
        features = policy.model.backbone(torch.zeros(1, 3, *size))["feature_map"]
        return policy.model.encoder_cam_feat_pos_embed(features).flatten(2).transpose(1, 2)


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
        if config.temporal_ensemble_coeff is not None:
            logging.getLogger(__name__).warning(
                "%s: temporal_ensemble_coeff is not part of the file, which gives whole chunks; "
                "averaging them over time is the caller's",
                folder,
            )

    def finish(self, policy: Any) -> None:
        """Replace the attention of encoder and decoder; what only training runs stays."""
        for layer in (*policy.model.encoder.layers, *policy.model.decoder.layers):
            for name, module in list(layer.named_children()):
                if isinstance(module, nn.MultiheadAttention):
                    setattr(layer, name, SplitAttention(module))

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        return {"driver": "one_shot", "sampler": None}

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        visual: VisualNormalization = loaded.cache["visual"]
        arguments = (loaded.policy, encode_image, visual, visual.is_shared)
        return {"vision": Vision(*arguments), "prefix": Prefix(*arguments, loaded.interface)}

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        return policy.predict_action_chunk(batch)

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """L1 over the actions that are not padding, with the latent zero; no noise and no time."""
        policy: Any = loaded.policy
        images = {"observation.images": [batch[key] for key in loaded.config.image_features]}
        actions, _ = policy.model({**batch, **images})
        error = (actions - batch["action"]).abs().mean(dim=2)
        padding = batch.get("action_is_pad", torch.zeros_like(error, dtype=torch.bool))
        return (error * ~padding).sum(dim=1) / (~padding).sum(dim=1).clamp_min(1)
