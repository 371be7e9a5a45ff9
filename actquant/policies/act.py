"""ACT: a ResNet and a transformer that predicts a chunk at once (https://huggingface.co/papers/2304.13705)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from lerobot.policies.act.modeling_act import ACTPolicy
from torch import Tensor, nn

from actquant.errors import CheckpointError
from actquant.model_schema import PolicyInterface
from actquant.policies import checkpoint
from actquant.policies.base import Group, LoadedPolicy, Observation, PolicyFamily, Stage
from actquant.policies.visual import (
    ImagePrefix,
    Vision,
    VisualNormalization,
    image_size,
    require_cameras,
)

LAYER_GROUPS: tuple[tuple[str, Group, str], ...] = (
    (r"model\.backbone\.conv1\.", "vision", "vision.0"),
    (r"model\.backbone\.layer(\d+)\.", "vision", "vision.{}"),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.", "expert", "expert.{}.{}"),
    (r"model\.(encoder_\w+_proj|action_head)\.", "projection", "projection"),
)


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


def split_attention(policy: Any) -> None:
    """Replace the attention of the encoder and the decoder; what only training runs stays."""
    for part in (policy.model.encoder, policy.model.decoder):
        for layer in part.layers:
            for name in ("self_attn", "multihead_attn"):
                if hasattr(layer, name):
                    setattr(layer, name, SplitAttention(getattr(layer, name)))


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

    def __init__(self, *arguments: Any, cameras: int, size: tuple[int, int]) -> None:
        super().__init__(*arguments, cameras=cameras, steps=1, size=size)
        self.register_buffer("positions", image_positions(self.policy, size), persistent=False)

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


class ACT(PolicyFamily):
    policy_type = "act"
    short_names = (
        ("model.backbone.", "vision."),
        ("model.encoder.layers.", "encoder.blk."),
        ("model.decoder.layers.", "decoder.blk."),
        ("model.", ""),
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
        if config.env_state_feature is not None:
            raise CheckpointError(f"{folder}/config.json: an environment state is not supported")
        if config.temporal_ensemble_coeff is not None:
            logging.getLogger(__name__).warning(
                "%s: temporal_ensemble_coeff is not part of the file, which gives whole chunks; "
                "averaging them over time is the caller's",
                folder,
            )
        size = image_size(config, folder)
        policy = checkpoint.build(lambda: ACTPolicy(config), folder)
        checkpoint.load_weights(policy, folder)
        split_attention(policy)
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
                size,
                checkpoint.Normalization.read(pre, post, config, folder, visual=True),
                checkpoint.control_rate(folder, control_rate_hz),
                (state_names, action_names),
                checkpoint.raw_keys(pre),
            ),
            cache={"visual": VisualNormalization.read(pre, config, folder)},
        )

    def _interface(
        self,
        config: Any,
        size: tuple[int, int],
        normalization: checkpoint.Normalization,
        control_rate_hz: float | None,
        names: tuple[Sequence[str] | None, Sequence[str] | None],
        raw_keys: dict[str, str],
    ) -> PolicyInterface:
        state, action = config.robot_state_feature.shape[0], config.action_feature.shape[0]
        return PolicyInterface(
            driver="one_shot",
            sampler=None,
            cameras=tuple(raw_keys.get(key, key) for key in config.image_features),
            optional_cameras=0,
            image_height=size[0],
            image_width=size[1],
            image_source_height=size[0],
            image_source_width=size[1],
            image_steps=(),
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
            chunk_length=config.chunk_size,
            steps_per_chunk=config.n_action_steps,
            control_rate_hz=control_rate_hz,
        )

    def stages(self, loaded: LoadedPolicy, prompt_length: int = 0) -> list[Stage]:
        face = loaded.interface
        visual: VisualNormalization = loaded.cache["visual"]
        size = (face.image_height, face.image_width)
        arguments = (loaded.policy, encode_image, visual, visual.is_shared)
        vision = Vision(*arguments)
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, *size, generator=generator)
        with torch.no_grad():
            embedding = vision(image)["embedding"]
        inputs = {"state": torch.randn(1, face.state_padded_dim, generator=generator)}
        for index in range(len(face.cameras)):
            inputs[f"image_embedding_{index}"] = embedding.clone()
        prefix = Prefix(*arguments, cameras=len(face.cameras), size=size)
        return [Stage("vision", vision, {"image": image}), Stage("prefix", prefix, inputs)]

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

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        require_cameras(loaded.interface.cameras, observations)
        return checkpoint.batch(loaded.preprocessor, loaded.interface.cameras, observations)

    def group_of(self, parameter: str) -> tuple[Group, str]:
        for pattern, group, layer in LAYER_GROUPS:
            if match := re.match(pattern, parameter):
                return group, layer.format(*match.groups())
        raise CheckpointError(f"{parameter} belongs to no group of a {self.policy_type} policy")
