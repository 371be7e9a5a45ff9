"""The architecture of OpenVLA-OFT with the parameter names of its published checkpoints.

Kim, Finn and Liang, "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success"
(https://arxiv.org/abs/2502.19645). Only what inference reads is built: the vision towers end at
their last block but one, and the language model has no head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

TOWER_EPS = 1e-6
"""Of every LayerNorm of timm's vision transformers."""


@dataclass(frozen=True)
class TowerShape:
    """Sizes of one vision transformer."""

    width: int
    hidden: int
    """Of its MLPs."""
    heads: int
    blocks: int
    """How many are computed: all but the last."""
    patch: int
    positions: int
    prefix_tokens: tuple[str, ...]
    """Parameters before the patches, `cls_token` and `reg_token`; they have no position."""
    registers: int
    layer_scale: bool


@dataclass(frozen=True)
class Architecture:
    """Sizes of the whole policy."""

    towers: tuple[TowerShape, TowerShape]
    projector_hidden: int
    language: LlamaConfig
    action_dim: int
    head_hidden: int
    head_blocks: int
    proprio_dim: int | None
    """None for a policy that reads no state."""


class Attention(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.hidden)
        self.fc2 = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Block(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=TOWER_EPS)
        self.attn = Attention(shape)
        self.ls1 = LayerScale(shape.width) if shape.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(shape.width, eps=TOWER_EPS)
        self.mlp = Mlp(shape)
        self.ls2 = LayerScale(shape.width) if shape.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, kernel_size=shape.patch, stride=shape.patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class VisionTower(nn.Module):
    """A vision transformer as timm names it: normalised image [B, 3, H, W] -> the patches' features
    [B, T, D] after the last block but one, without a norm."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.prefix_tokens = shape.prefix_tokens
        self.patch_embed = PatchEmbedding(shape)
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.positions, shape.width))
        for name in shape.prefix_tokens:
            count = shape.registers if name == "reg_token" else 1
            setattr(self, name, nn.Parameter(torch.zeros(1, count, shape.width)))
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.blocks)))

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image) + self.pos_embed
        prefix = [getattr(self, name).expand(len(image), -1, -1) for name in self.prefix_tokens]
        x = self.blocks(torch.cat([*prefix, patches], dim=1))
        return x[:, x.shape[1] - patches.shape[1] :]


class VisionBackbone(nn.Module):
    """Embeds image [B, 3, H, W] in [0, 1] -> the features [B, T, D] of both towers side by side."""

    mean: Tensor
    std: Tensor

    def __init__(self, towers: tuple[TowerShape, TowerShape]) -> None:
        super().__init__()
        self.featurizer = VisionTower(towers[0])
        self.fused_featurizer = VisionTower(towers[1])
        self.register_buffer("mean", torch.zeros(2, 1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(2, 1, 3, 1, 1), persistent=False)

    def set_normalization(
        self, means: Sequence[Sequence[float]], stds: Sequence[Sequence[float]]
    ) -> None:
        """Sets mean and standard deviation of the three colours for each of the two towers."""
        self.mean = torch.tensor(means).view(2, 1, 3, 1, 1)
        self.std = torch.tensor(stds).view(2, 1, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.featurizer((image - self.mean[0]) / self.std[0])
        second = self.fused_featurizer((image - self.mean[1]) / self.std[1])
        return torch.cat([first, second], dim=-1)


class Projector(nn.Module):
    """Vision features to the width of the language model."""

    def __init__(self, vision: int, hidden: int, language: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision, hidden)
        self.fc2 = nn.Linear(hidden, language)
        self.fc3 = nn.Linear(language, language)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class ProprioProjector(nn.Module):
    """The normalised state [B, S] to one token [B, D]."""

    def __init__(self, state: int, language: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(state, language)
        self.fc2 = nn.Linear(language, language)

    def forward(self, state: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(state)))


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class ResidualMlp(nn.Module):
    def __init__(self, inputs: int, hidden: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, hidden)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class ActionHead(nn.Module):
    """Hidden states [B, H·A, D], A per action of the chunk -> normalised actions [B, H, A]."""

    def __init__(self, language: int, shape: Architecture) -> None:
        super().__init__()
        self.action_dim = shape.action_dim
        self.model = ResidualMlp(
            language * shape.action_dim, shape.head_hidden, shape.head_blocks, shape.action_dim
        )

    def forward(self, hidden: Tensor) -> Tensor:
        batch, count, width = hidden.shape
        return self.model(hidden.reshape(batch, count // self.action_dim, self.action_dim * width))


class LanguageModel(nn.Module):
    """Llama 2 in which every token attends to every other."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.embed_tokens(tokens)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Runs the layers: embeddings [B, S, D], mask [B, S] true for tokens that exist -> [B, S,
        D], normalised."""
        positions = torch.cumsum(mask, dim=1) - 1
        rotary = self.model.rotary_emb(embeddings, positions)
        attend = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        for layer in self.model.layers:
            embeddings = layer(
                embeddings,
                attention_mask=attend,
                position_ids=positions,
                position_embeddings=rotary,
            )
        return self.model.norm(embeddings)


class OpenVLAOFT(nn.Module):
    """Images, prompt and state to one chunk of normalised actions, in one pass.

    The sequence is: first token of the prompt, patches of all images, the state, the rest of the
    prompt, one empty token per number of the chunk, the stop token. The hidden state *before* an
    empty token predicts its number.
    """

    def __init__(self, shape: Architecture, chunk_length: int, stop_token: int) -> None:
        super().__init__()
        width = shape.language.hidden_size
        self.slots = chunk_length * shape.action_dim
        self.stop_token = stop_token
        self.vision_backbone = VisionBackbone(shape.towers)
        features = sum(tower.width for tower in shape.towers)
        self.projector = Projector(features, shape.projector_hidden, width)
        self.language_model = LanguageModel(shape.language)
        self.action_head = ActionHead(width, shape)
        self.proprio_projector = (
            None if shape.proprio_dim is None else ProprioProjector(shape.proprio_dim, width)
        )

    def embed_image(self, image: Tensor) -> Tensor:
        """Embeds image [B, 3, H, W] in [0, 1] -> [B, T, D]."""
        return self.projector(self.vision_backbone(image))

    def decode(
        self, images: Sequence[Tensor], tokens: Tensor, token_mask: Tensor, state: Tensor | None
    ) -> Tensor:
        """Decodes actions. images: [B, T, D] each; tokens, token_mask: [B, L], the first and last
        true (a token that is masked out counts as absent); state: [B, S], normalised -> [B, H, A],
        normalised."""
        stop = torch.full((len(tokens), 1), self.stop_token, device=tokens.device)
        text = self.language_model.embed(torch.cat([tokens, stop], dim=1))
        inserted = list(images)
        if self.proprio_projector is not None:
            inserted.append(self.proprio_projector(state)[:, None])
        empty = torch.zeros(len(text), self.slots, text.shape[2]).to(text)
        embeddings = torch.cat([text[:, :1], *inserted, text[:, 1:-1], empty, text[:, -1:]], dim=1)
        present = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) for x in inserted]
        after = torch.ones(len(text), self.slots + 1, dtype=torch.bool, device=token_mask.device)
        mask = torch.cat([token_mask[:, :1], *present, token_mask[:, 1:], after], dim=1)
        hidden = self.language_model(embeddings, mask)
        first = hidden.shape[1] - self.slots - 2
        return self.action_head(hidden[:, first : first + self.slots])

    def forward(
        self, images: Tensor, tokens: Tensor, token_mask: Tensor, state: Tensor | None = None
    ) -> Tensor:
        """Answers images [B, C, 3, H, W] in [0, 1], the others as in `decode`: [B, H, A],
        normalised."""
        batch, cameras = images.shape[:2]
        embedded = self.embed_image(images.flatten(0, 1))
        per_camera = embedded.unflatten(0, (batch, cameras)).unbind(1)
        return self.decode(per_camera, tokens, token_mask, state)
