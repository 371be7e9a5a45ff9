"""SmolVLA: a SigLIP tower, half a SmolVLM, a flow expert (https://huggingface.co/papers/2506.01844)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, pad_tensor
from torch import Tensor, nn
from transformers import DynamicCache

from actquant.errors import CheckpointError
from actquant.model_schema import PolicyInterface, Sampler
from actquant.policies import checkpoint
from actquant.policies.base import (
    Group,
    LoadedPolicy,
    Observation,
    PolicyFamily,
    Stage,
    example_outputs,
)

EMPTY_CAMERA = "observation.images.empty_camera_"
VLM = "model.vlm_with_expert.vlm.model."
LAYER_GROUPS: tuple[tuple[str, Group, str], ...] = (
    (rf"{VLM}vision_model\.encoder\.layers\.(\d+)\.", "vision", "vision.{}"),
    (rf"{VLM}connector\.", "projection", "projection"),
    (rf"{VLM}text_model\.layers\.(\d+)\.", "language", "language.{}"),
    (r"model\.vlm_with_expert\.lm_expert\.layers\.(\d+)\.", "expert", "expert.{}"),
    (r"model\.(state_proj|action_\w+)\.", "projection", "projection"),
)


class Vision(nn.Module):
    """image [1, 3, H, W] -> embedding [1, T, D], with the connector and the scale of the prefix."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        embedding = self.policy.model.vlm_with_expert.embed_image(image)
        return {"embedding": embedding * embedding.shape[-1] ** 0.5}


class Prefix(nn.Module):
    """Image embeddings, prompt and state -> the keys and values that the expert attends to.

    Follows `VLAFlowMatching.embed_prefix`; a masked camera is a run of masked tokens.
    """

    def __init__(self, policy: Any, cameras: int, empty_cameras: int) -> None:
        super().__init__()
        self.policy = policy
        self.cameras = cameras
        self.empty_cameras = empty_cameras

    def forward(self, tokens: Tensor, token_mask: Tensor, state: Tensor, **images: Tensor):
        model = self.policy.model
        embeddings: list[Tensor] = []
        masks: list[Tensor] = []
        for index in range(self.cameras):
            embedding = images[f"image_embedding_{index}"]
            mask = images[f"image_mask_{index}"][:, None].expand(1, embedding.shape[1])
            self._append_image(embeddings, masks, embedding, mask)
        for _ in range(self.empty_cameras):
            self._append_image(embeddings, masks, None, None)
        text = model.vlm_with_expert.embed_language_tokens(tokens)
        embeddings.append(text * text.shape[-1] ** 0.5)
        masks.append(token_mask)
        embeddings.append(model.state_proj(state)[:, None, :])
        masks.append(torch.ones(1, 1, dtype=torch.bool))

        embedding, mask = torch.cat(embeddings, dim=1), torch.cat(masks, dim=1)
        causal = torch.zeros(1, mask.shape[1], dtype=torch.bool)
        causal[:, -1] = True
        length = model.prefix_length
        if mask.shape[1] < length:
            embedding, mask, causal = (pad_tensor(t, length) for t in (embedding, mask, causal))
        # A masked token before the first visible one would have position -1; nobody looks at it.
        positions = (torch.cumsum(mask, dim=1) - 1) * mask
        _, cache = model.vlm_with_expert.forward(
            attention_mask=make_att_2d_masks(mask, causal),
            position_ids=positions,
            past_key_values=None,
            inputs_embeds=[embedding, None],
            use_cache=True,
        )
        outputs = {"prefix_mask": mask}
        for index, layer in enumerate(cache.layers):
            outputs[f"keys_{index}"] = layer.keys
            outputs[f"values_{index}"] = layer.values
        return outputs

    def _append_image(
        self,
        embeddings: list[Tensor],
        masks: list[Tensor],
        embedding: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        """One camera between its special tokens, which are attended to even if it is masked."""
        special = self.policy.model.add_image_special_tokens
        if special:
            self._append_special(embeddings, masks, self.policy.model.global_image_start_token)
        if embedding is not None and mask is not None:
            embeddings.append(embedding)
            masks.append(mask)
        if special:
            self._append_special(embeddings, masks, self.policy.model.image_end_token)

    def _append_special(
        self, embeddings: list[Tensor], masks: list[Tensor], tokens: Tensor
    ) -> None:
        embed = self.policy.model.vlm_with_expert.embed_language_tokens
        embeddings.append(embed(tokens)[None])
        masks.append(torch.ones(1, tokens.shape[0], dtype=torch.bool))


class Denoise(nn.Module):
    """One velocity of the flow: x_t [1, H, A], timestep [1], the prefix -> output [1, H, A]."""

    def __init__(self, policy: Any, layers: int) -> None:
        super().__init__()
        self.policy = policy
        self.layers = layers

    def forward(
        self, x_t: Tensor, timestep: Tensor, prefix_mask: Tensor, **cached: Tensor
    ) -> dict[str, Tensor]:
        cache = DynamicCache()
        for index in range(self.layers):
            cache.update(cached[f"keys_{index}"], cached[f"values_{index}"], index)
        velocity = self.policy.model.denoise_step(
            prefix_pad_masks=prefix_mask, past_key_values=cache, x_t=x_t, timestep=timestep
        )
        return {"output": velocity}


class SmolVLA(PolicyFamily):
    policy_type = "smolvla"
    short_names = (
        (f"{VLM}vision_model.encoder.layers.", "vision.blk."),
        (f"{VLM}vision_model.", "vision."),
        (f"{VLM}connector.", "connector."),
        (f"{VLM}text_model.layers.", "language.blk."),
        (f"{VLM}text_model.", "language."),
        ("model.vlm_with_expert.lm_expert.layers.", "expert.blk."),
        ("model.vlm_with_expert.lm_expert.", "expert."),
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
        vlm = checkpoint.resolve(folder, config.vlm_model_name)
        config.vlm_model_name = vlm
        config.load_vlm_weights = False
        config.compile_model = False
        self._check(config, folder)
        policy = checkpoint.build(lambda: SmolVLAPolicy(config), folder)
        checkpoint.load_weights(policy, folder)
        pre, post = checkpoint.load_processors(folder, tokenizer=vlm)
        return LoadedPolicy(
            family=self,
            policy=policy,
            config=config,
            preprocessor=pre,
            postprocessor=post,
            folder=folder,
            checkpoint_sha256=checkpoint.weights_sha256(folder),
            interface=self._interface(
                config,
                checkpoint.Normalization.read(pre, post, config, folder),
                checkpoint.Tokenizer.read(pre, config.tokenizer_max_length),
                checkpoint.control_rate(folder, control_rate_hz),
                (state_names, action_names),
                checkpoint.raw_keys(pre),
            ),
        )

    def _check(self, config: Any, folder: Path) -> None:
        unsupported = {
            "adapt_to_pi_aloha": config.adapt_to_pi_aloha,
            "use_delta_joint_actions_aloha": config.use_delta_joint_actions_aloha,
            "use_cache = false": not config.use_cache,
        }
        wrong = [name for name, is_set in unsupported.items() if is_set]
        if wrong:
            raise CheckpointError(f"{folder}/config.json: not supported: {', '.join(wrong)}")
        if not self._cameras(config):
            raise CheckpointError(f"{folder}/config.json: the policy has no camera")

    @staticmethod
    def _cameras(config: Any) -> list[str]:
        return [key for key in config.image_features if not key.startswith(EMPTY_CAMERA)]

    def _interface(
        self,
        config: Any,
        normalization: checkpoint.Normalization,
        tokenizer: checkpoint.Tokenizer,
        control_rate_hz: float | None,
        names: tuple[Sequence[str] | None, Sequence[str] | None],
        raw_keys: dict[str, str],
    ) -> PolicyInterface:
        cameras = self._cameras(config)
        shapes = [tuple(config.image_features[key].shape[1:]) for key in cameras]
        if config.resize_imgs_with_padding is not None:
            width, height = config.resize_imgs_with_padding
            steps = (
                f"resize_pad height={height} width={width} filter=bilinear antialias=0 round=0 "
                "anchor=end value=0",
            )
        elif len(set(shapes)) == 1:
            (height, width), steps = shapes[0], ()
        else:
            raise CheckpointError(f"without resizing, cameras must agree in size: {shapes}")
        state, action = config.robot_state_feature, config.action_feature
        return PolicyInterface(
            driver="sampling",
            sampler=Sampler.euler(config.num_steps),
            cameras=tuple(raw_keys.get(key, key) for key in cameras),
            optional_cameras=len(cameras) - 1,
            image_height=height,
            image_width=width,
            image_source_height=shapes[0][0],
            image_source_width=shapes[0][1],
            image_steps=steps,
            image_scale=2.0,
            image_offset=-1.0,
            tokenizer_json=tokenizer.json,
            # A prefix of fixed length is padded by what is left beside the prompt.
            tokenizer_min_length=tokenizer.max_length if config.prefix_length > 0 else 1,
            tokenizer_max_length=tokenizer.max_length,
            tokenizer_pad_id=tokenizer.pad_id,
            tokenizer_suffix="\n",
            state_names=checkpoint.names("state", state.shape[0], names[0]),
            action_names=checkpoint.names("action", action.shape[0], names[1]),
            state_padded_dim=config.max_state_dim,
            action_padded_dim=config.max_action_dim,
            state_mean=normalization.state_mean,
            state_std=normalization.state_std,
            action_mean=normalization.action_mean,
            action_std=normalization.action_std,
            normalization_eps=normalization.eps,
            chunk_length=config.chunk_size,
            steps_per_chunk=config.n_action_steps,
            control_rate_hz=control_rate_hz,
            noise_rows=config.chunk_size,
            noise_dim=config.max_action_dim,
        )

    def stages(self, loaded: LoadedPolicy, prompt_length: int) -> list[Stage]:
        policy: Any = loaded.policy
        face = loaded.interface
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        vision = Vision(policy)
        empty = loaded.config.empty_cameras if policy.model.add_image_special_tokens else 0
        prefix = Prefix(policy, len(face.cameras), empty)
        image = random(1, 3, face.image_height, face.image_width)
        token_mask = torch.zeros(1, prompt_length, dtype=torch.bool)
        token_mask[:, : max(1, prompt_length // 2)] = True
        prefix_inputs: dict[str, Tensor] = {
            "tokens": torch.ones(1, prompt_length, dtype=torch.long),
            "token_mask": token_mask,
            "state": random(1, face.state_padded_dim),
        }
        if "image_embedding" not in loaded.cache:
            embedding = example_outputs(vision, {"image": image})["embedding"]
            loaded.cache["image_embedding"] = embedding
        for index in range(len(face.cameras)):
            prefix_inputs[f"image_embedding_{index}"] = loaded.cache["image_embedding"].clone()
            prefix_inputs[f"image_mask_{index}"] = torch.ones(1, dtype=torch.bool)
        cached = example_outputs(prefix, prefix_inputs)
        layers = (len(cached) - 1) // 2
        denoise_inputs = {
            "x_t": random(1, face.noise_rows, face.noise_dim),
            "timestep": torch.full((1,), 0.7),
            **cached,
        }
        return [
            Stage("vision", vision, {"image": image}),
            Stage("prefix", prefix, prefix_inputs),
            Stage(
                "denoise",
                Denoise(policy, layers),
                denoise_inputs,
                step_inputs=("x_t", "timestep"),
                step_time="timestep",
            ),
        ]

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        return policy.forward(dict(batch), noise=noise, time=time, reduction="none")[0]

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        return checkpoint.batch(loaded.preprocessor, loaded.interface.cameras, observations)

    def group_of(self, parameter: str) -> tuple[Group, str]:
        for pattern, group, layer in LAYER_GROUPS:
            if match := re.match(pattern, parameter):
                return group, layer.format(*match.groups())
        raise CheckpointError(f"{parameter} belongs to no group of a {self.policy_type} policy")
