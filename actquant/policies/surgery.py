"""Layers taken apart and put together: weights that can be quantized, work that is done once."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` without dropout, its packed projection as three layers."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = packed.num_heads
        self.batch_first = packed.batch_first
        biases = (None,) * 3 if packed.in_proj_bias is None else packed.in_proj_bias.chunk(3)
        layers = [
            _linear(w, b) for w, b in zip(packed.in_proj_weight.chunk(3), biases, strict=True)
        ]
        self.q_proj, self.k_proj, self.v_proj = layers
        self.out_proj = packed.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        **_: None,
    ) -> tuple[Tensor, None]:
        """Sequences [L, B, D], or [B, L, D] with batch_first; key_padding_mask b8 [B, L]: true
        for keys that are not attended to."""
        to_heads = (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3)
        from_heads = (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).permute(to_heads)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        seen = None if key_padding_mask is None else ~key_padding_mask[:, None, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out_proj(attended.permute(from_heads).flatten(2)), None


class SplitConditioning(nn.Module):
    """`nn.Sequential(activation, nn.Linear)` on [time features, observation features]: the part of
    the time is a table, the part of the observation is computed once per chunk."""

    def __init__(self, packed: nn.Sequential, time_features: int) -> None:
        super().__init__()
        layer: Any = packed[1]
        self.activation = packed[0]
        self.time_features = time_features
        self.time = _linear(layer.weight[:, :time_features], layer.bias)
        self.observation = _linear(layer.weight[:, time_features:], None)

    def forward(self, features: Tensor) -> Tensor:
        time, observation = features.tensor_split([self.time_features], dim=-1)
        return self.time(self.activation(time)) + self.observation(self.activation(observation))


def split_attention(module: nn.Module) -> None:
    """Replaces every `nn.MultiheadAttention` within a module."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, SplitAttention(child))


def split_conditioning(module: nn.Module, name: str, time_features: int) -> None:
    """Replaces every `nn.Sequential` of this name within a module."""
    for parent in list(module.modules()):
        child = getattr(parent, name, None)
        if isinstance(child, nn.Sequential):
            setattr(parent, name, SplitConditioning(child, time_features))


def fold_batch_norms(module: nn.Module) -> None:
    """Gives every convolution the batch norm that is registered right after it, as torchvision's
    ResNets have them."""
    for parent in list(module.modules()):
        for (name, layer), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(
                norm, nn.BatchNorm2d | FrozenBatchNorm2d
            ):
                setattr(parent, name, _with_norm(layer, norm))
                setattr(parent, norm_name, nn.Identity())


def _with_norm(layer: nn.Conv2d, norm: Any) -> nn.Conv2d:
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = 0.0 if layer.bias is None else layer.bias.double()
    bias = norm.bias.double() + (bias - norm.running_mean.double()) * scale
    weight = layer.weight.double() * scale[:, None, None, None]
    folded = copy.copy(layer)
    folded._parameters = {
        "weight": nn.Parameter(weight.float(), requires_grad=False),
        "bias": nn.Parameter(bias.float(), requires_grad=False),
    }
    return folded
