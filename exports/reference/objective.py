"""The policy's computation for training: lerobot's weights, several flow samples per prefix.

`policy.forward` draws one flow sample per observation and recomputes the prefix for each. Here the
prefix is computed once and K samples attend to it. The function is pure (weights come as a
dictionary) so that it can be compiled and run in bfloat16. A test holds it equal to the policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from build_policy import ACTION_DIM, PolicySize
from torch import Tensor

VLM = "model.vlm_with_expert.vlm.model."
EXPERT = "model.vlm_with_expert.lm_expert."
Weights = dict[str, Tensor]


@dataclass
class Prefix:
    """What the expert and the auxiliary heads read of an observation."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    image_tokens: Tensor
    states: list[Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    weight = w[name + ".weight"]
    bias = w.get(name + ".bias")
    return F.linear(x.to(weight.dtype), weight, bias)


def rms_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    return x * w[name + ".weight"].float()


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    weight, bias = w[name + ".weight"].float(), w[name + ".bias"].float()
    return F.layer_norm(x.float(), weight.shape, weight, bias, 1e-6)


def rope_angles(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    exponent = (2.0 / width) * torch.arange(width // 2, dtype=torch.float32)
    angle = positions[..., None].float() / 10_000**exponent
    return angle.cos()[:, None], angle.sin()[:, None]


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Applies the rotary embedding on [B, heads, L, D]."""
    cos, sin = angles
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def heads(x: Tensor, width: int) -> Tensor:
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Computes attention on [B, heads, L, D] with grouped keys; returns [B, L, heads * D]."""
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.matmul(q, k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
    out = torch.matmul(scores.softmax(-1).to(v.dtype), v)
    return out.transpose(1, 2).flatten(2)


def swiglu(w: Weights, name: str, x: Tensor) -> Tensor:
    gate = (
        F.silu(linear(w, name + ".gate_proj", x).float()) * linear(w, name + ".up_proj", x).float()
    )
    return linear(w, name + ".down_proj", gate)


class Objective:
    """The computation of one policy size."""

    def __init__(self, size: PolicySize) -> None:
        self.size = size
        self.head_dim = size.head_dim

    def embed_images(self, w: Weights, images: Tensor) -> Tensor:
        """Embeds uint8 [N, 96, 96, 3] as image tokens [N, T, width]."""
        size, tower = self.size, VLM + "vision_model."
        grid = size.image_size // size.patch
        x = images.view(-1, grid, size.patch, grid, size.patch, 3).permute(0, 1, 3, 5, 2, 4)
        kernel = w[tower + "embeddings.patch_embedding.weight"]
        x = (x.reshape(len(images), grid * grid, -1).float() / 127.5 - 1).to(kernel.dtype)
        x = F.linear(x, kernel.flatten(1), w[tower + "embeddings.patch_embedding.bias"])
        x = x.float() + w[tower + "embeddings.position_embedding.weight"].float()
        for i in range(size.vision_layers):
            layer = f"{tower}encoder.layers.{i}."
            h = layer_norm(w, layer + "layer_norm1", x)
            q, k, v = (
                heads(linear(w, f"{layer}self_attn.{n}_proj", h), self.head_dim) for n in "qkv"
            )
            x = x + linear(w, layer + "self_attn.out_proj", attend(q, k, v, None)).float()
            h = linear(w, layer + "mlp.fc1", layer_norm(w, layer + "layer_norm2", x))
            h = F.gelu(h.float(), approximate="tanh")
            x = x + linear(w, layer + "mlp.fc2", h).float()
        x = layer_norm(w, tower + "post_layernorm", x)
        s = size.scale_factor
        x = x.view(-1, grid // s, s, grid // s, s, size.vision).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(len(images), size.image_tokens, -1)
        return linear(w, VLM + "connector.modality_projection.proj", x)

    def prefix(
        self, w: Weights, images: Tensor, state: Tensor, tokens: Tensor, mask: Tensor
    ) -> Prefix:
        """Embeds images uint8 [B, 2, 96, 96, 3], normalised state [B, 13], tokens, mask [B, 16]."""
        size = self.size
        batch, scale = len(images), math.sqrt(size.width)
        seen = self.embed_images(w, images.flatten(0, 1)).view(batch, -1, size.width)
        words = F.embedding(tokens, w[VLM + "text_model.embed_tokens.weight"])
        padded = F.pad(state, (0, size.padded_state - state.shape[1]))
        own = linear(w, "model.state_proj", padded)[:, None]
        x = torch.cat([seen.float() * scale, words.float() * scale, own.float()], dim=1)
        one = torch.ones(batch, 1, dtype=torch.bool)
        valid = torch.cat([one.expand(-1, seen.shape[1]), mask, one], dim=1)
        angles = rope_angles(valid.cumsum(1) - 1, self.head_dim)
        order = torch.zeros(x.shape[1], dtype=torch.long)
        order[-1] = 1
        allowed = (order[None, :] <= order[:, None])[None] & valid[:, None, :] & valid[:, :, None]
        keys, values, states = [], [], []
        for i in range(size.layers):
            layer = f"{VLM}text_model.layers.{i}."
            h = rms_norm(w, layer + "input_layernorm", x)
            q, k, v = (
                heads(linear(w, f"{layer}self_attn.{n}_proj", h), self.head_dim) for n in "qkv"
            )
            k = rotate(k, angles)
            keys.append(k)
            values.append(v)
            states.append(x[:, -1])
            if (
                i == size.layers - 1
            ):  # nothing reads the last layer's output, only its keys and values
                break
            mixed = attend(rotate(q, angles), k, v, allowed[:, None])
            x = x + linear(w, layer + "self_attn.o_proj", mixed).float()
            x = (
                x
                + swiglu(
                    w, layer + "mlp", rms_norm(w, layer + "post_attention_layernorm", x)
                ).float()
            )
        return Prefix(keys, values, valid, seen, states)

    def velocity(self, w: Weights, prefix: Prefix, noisy: Tensor, time: Tensor) -> Tensor:
        """Predicts the velocity [B, K, H, A] from noisy [B, K, H, A] and time [B, K]."""
        batch, copies, steps, _ = noisy.shape
        x = self.embed_actions(w, noisy, time).flatten(1, 2)
        step = torch.arange(steps).repeat(copies)
        copy = torch.arange(copies).repeat_interleave(steps)
        own = (copy[None, :] == copy[:, None]) & (step[None, :] <= step[:, None])
        to_prefix = prefix.mask[:, None, :].expand(-1, copies * steps, -1)
        both = torch.cat([to_prefix, own[None].expand(batch, -1, -1)], dim=2)[:, None]
        start = prefix.mask.sum(1, keepdim=True)
        after = rope_angles(start + step[None], self.head_dim)
        alone = rope_angles(step[None].expand(batch, -1), self.head_dim)
        for i in range(self.size.layers):
            layer = f"{EXPERT}layers.{i}."
            h = rms_norm(w, layer + "input_layernorm", x)
            q = heads(linear(w, layer + "self_attn.q_proj", h), self.head_dim)
            if i % 2 == 0:
                k, v = (
                    heads(linear(w, f"{layer}self_attn.{n}_proj", h), self.head_dim) for n in "kv"
                )
                k = torch.cat([prefix.keys[i], rotate(k, after)], dim=2)
                v = torch.cat([prefix.values[i], v], dim=2)
                mixed = attend(rotate(q, after), k, v, both)
            else:
                flat = (t.transpose(1, 2).flatten(2) for t in (prefix.keys[i], prefix.values[i]))
                k, v = (
                    heads(linear(w, f"{layer}self_attn.{n}_proj", t), self.head_dim)
                    for n, t in zip("kv", flat, strict=True)
                )
                mixed = attend(rotate(q, alone), k, v, to_prefix[:, None])
            x = x + linear(w, layer + "self_attn.o_proj", mixed).float()
            x = (
                x
                + swiglu(
                    w, layer + "mlp", rms_norm(w, layer + "post_attention_layernorm", x)
                ).float()
            )
        out = linear(w, "model.action_out_proj", rms_norm(w, EXPERT + "norm", x))
        return out.float().view(batch, copies, steps, ACTION_DIM)

    def embed_actions(self, w: Weights, noisy: Tensor, time: Tensor) -> Tensor:
        width = self.size.expert
        fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64)
        period = 4e-3 * (4.0 / 4e-3) ** fraction
        angle = time.double()[..., None] * (2 * math.pi / period)
        clock = torch.cat([angle.sin(), angle.cos()], dim=-1).float()[:, :, None]
        x = linear(w, "model.action_in_proj", noisy).float()
        x = torch.cat([x, clock.expand(-1, -1, x.shape[2], -1)], dim=-1)
        x = F.silu(linear(w, "model.action_time_mlp_in", x).float())
        return linear(w, "model.action_time_mlp_out", x).float()

    def flow_loss(
        self, w: Weights, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor
    ) -> Tensor:
        """Returns lerobot's flow loss; actions [B, H, A], noise [B, K, H, A], time [B, K]."""
        t = time[..., None, None]
        target = noise - actions[:, None]
        return F.mse_loss(self.velocity(w, prefix, actions[:, None] + t * target, time), target)

    def sample_actions(self, w: Weights, prefix: Prefix, noise: Tensor) -> Tensor:
        """Integrates by Euler's method from noise [B, H, A] to normalised actions."""
        x, steps = noise[:, None], self.size.flow_steps
        for i in range(steps):
            time = torch.full(x.shape[:2], 1 - i / steps)
            x = x - self.velocity(w, prefix, x, time) / steps
        return x[:, 0]


def sample_times(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws lerobot's Beta(1.5, 1) times by inverting the distribution function."""
    return torch.rand(shape, generator=generator) ** (1 / 1.5) * 0.999 + 0.001
