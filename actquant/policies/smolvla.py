"""SmolVLA: a SigLIP tower, half a SmolVLM, a flow expert (https://huggingface.co/papers/2506.01844)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, pad_tensor
from torch import Tensor, nn

from actquant.format.schema import Sampler
from actquant.policies import checkpoint
from actquant.policies.base import LoadedPolicy, StageModule
from actquant.policies.key_values import key_value_cache, key_value_outputs
from actquant.policies.lerobot import LeRobotFamily, cameras
from actquant.policies.steps import BATCH, DEVICE, NORMALIZER, RENAME, TOKENIZER, Step

VLM = "model.vlm_with_expert.vlm.model."


class Vision(StageModule):
    """image [1, 3, H, W] -> embedding [1, T, D], with the connector and the scale of the prefix."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        embedding = self.policy.model.vlm_with_expert.embed_image(image)
        return {"embedding": embedding * embedding.shape[-1] ** 0.5}


class Prefix(StageModule):
    """Image embeddings, prompt and state -> the keys and values that the expert attends to.

    Follows `VLAFlowMatching.embed_prefix`; a masked camera is a run of masked tokens.
    """

    def __init__(self, policy: Any, cameras: int, empty_cameras: int) -> None:
        super().__init__(policy)
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
        return {"prefix_mask": mask, **key_value_outputs(cache)}

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


class Denoise(StageModule):
    """One velocity of the flow: x_t [1, H, A], timestep [1], the prefix -> output [1, H, A]."""

    def forward(
        self, x_t: Tensor, timestep: Tensor, prefix_mask: Tensor, **cached: Tensor
    ) -> dict[str, Tensor]:
        cache, _ = key_value_cache(cached)
        velocity = self.policy.model.denoise_step(
            prefix_pad_masks=prefix_mask, past_key_values=cache, x_t=x_t, timestep=timestep
        )
        return {"output": velocity}


NEWLINE = Step("smolvla_new_line_processor", decides=True)


class SmolVLA(LeRobotFamily):
    policy_type = "smolvla"
    policy_class = SmolVLAPolicy
    preprocessor = (
        RENAME,
        BATCH,
        NEWLINE,
        replace(TOKENIZER, after=(NEWLINE.name,)),
        DEVICE,
        NORMALIZER,
    )
    layer_groups = (
        (rf"{VLM}vision_model\.encoder\.layers\.(\d+)\.", "vision", "vision.{}"),
        (rf"{VLM}connector\.", "projection", "projection"),
        (rf"{VLM}text_model\.layers\.(\d+)\.", "language", "language.{}"),
        (r"model\.vlm_with_expert\.lm_expert\.layers\.(\d+)\.", "expert", "expert.{}"),
        (r"model\.(state_proj|action_\w+)\.", "projection", "projection"),
    )
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

    unsupported: ClassVar = {
        "adapt_to_pi_aloha": False,
        "use_delta_joint_actions_aloha": False,
        "use_cache": True,
    }

    def prepare(self, config: Any, folder: Path) -> None:
        config.vlm_model_name = checkpoint.find_model(folder, config.vlm_model_name)
        config.load_vlm_weights = config.compile_model = False

    def tokenizer(self, config: Any, folder: Path) -> str:
        return config.vlm_model_name

    def pads_prompts(self, config: Any) -> bool:
        """Returns a prefix of fixed length is padded by what is left beside the prompt."""
        return config.prefix_length > 0

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "driver": "sampling",
            "sampler": Sampler.euler(config.num_steps),
            "optional_cameras": len(cameras(config)) - 1,
            "image_scale": 2.0,
            "image_offset": -1.0,
            "tokenizer_suffix": "\n",
            "state_padded_dim": config.max_state_dim,
            "action_padded_dim": config.max_action_dim,
            "noise_rows": config.chunk_size,
            "noise_dim": config.max_action_dim,
        }
        if config.resize_imgs_with_padding is not None:
            width, height = config.resize_imgs_with_padding
            resize = f"resize_pad height={height} width={width} filter=bilinear antialias=0 round=0"
            fields |= {"image_height": height, "image_width": width}
            fields["image_steps"] = (f"{resize} anchor=end value=0",)
        return fields

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        policy: Any = loaded.policy
        empty = loaded.config.empty_cameras if policy.model.add_image_special_tokens else 0
        return {
            "vision": Vision(policy),
            "prefix": Prefix(policy, len(loaded.interface.cameras), empty),
            "denoise": Denoise(policy),
        }

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        return policy.forward(dict(batch), noise=noise, time=time, reduction="none")[0]
