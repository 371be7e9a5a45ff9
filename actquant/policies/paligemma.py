"""What pi0 and pi0.5 share: a PaliGemma prefix whose keys and values a Gemma expert attends to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d
from torch import Tensor, nn

from actquant.common.errors import CheckpointError
from actquant.format.schema import Sampler
from actquant.policies import checkpoint
from actquant.policies.base import LoadedPolicy, StageModule
from actquant.policies.key_values import key_value_cache, key_value_outputs
from actquant.policies.lerobot import LeRobotFamily, cameras
from actquant.policies.processors import tokenizer_source
from actquant.policies.steps import AFTER, RENAME, Step
from actquant.weights.parameters import ParameterStore

TOKENS, TOKEN_MASK = "observation.language.tokens", "observation.language.attention_mask"
PALIGEMMA = "model.paligemma_with_expert.paligemma.model."
VISION = f"{PALIGEMMA}vision_tower.vision_model."
EXPERT = "model.paligemma_with_expert.gemma_expert.model."
EMBEDDING = f"{PALIGEMMA}language_model.embed_tokens.weight"
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"
EXPERT_HEAD = "model.paligemma_with_expert.gemma_expert.lm_head.weight"


ABSOLUTE_ONLY: Any = {"only": {"enabled": (False,)}, "meaning": "actions relative to the state"}
RELATIVE = Step(
    "relative_actions_processor",
    ("exclude_joints", "action_names"),
    after=(RENAME.name,),
    **ABSOLUTE_ONLY,
)
ABSOLUTE = Step("absolute_actions_processor", **ABSOLUTE_ONLY)


class Vision(StageModule):
    """image [1, 3, H, W] in [-1, 1] -> embedding [1, T, D], after the projector."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.policy.model.paligemma_with_expert.embed_image(image)}


class Prefix(StageModule):
    """Image embeddings and prompt -> the keys and values that the expert attends to.

    Follows `sample_actions` up to its first step; the masks come from `token_mask` alone, not from
    lists as long as the prompt.
    """

    def forward(self, tokens: Tensor, token_mask: Tensor, **images: Tensor) -> dict[str, Tensor]:
        model = self.policy.model.paligemma_with_expert
        embeddings, masks = [], []
        for index in range(len(images) // 2):
            embeddings.append(images[f"image_embedding_{index}"])
            seen = images[f"image_mask_{index}"]
            masks.append(seen[:, None].expand(1, embeddings[-1].shape[1]))
        embedding = torch.cat([*embeddings, model.embed_language_tokens(tokens)], dim=1)
        mask = torch.cat([*masks, token_mask], dim=1)
        visible = mask[:, None, :] & mask[:, :, None]
        # A masked token before the first visible one would have position -1; nobody looks at it.
        positions = (torch.cumsum(mask, dim=1) - 1) * mask
        _, cache = model.forward(
            attention_mask=prepare_attention_masks_4d(visible),
            position_ids=positions,
            past_key_values=None,
            inputs_embeds=[embedding, None],
            use_cache=True,
        )
        return {"prefix_mask": mask, **key_value_outputs(cache)}


class Denoise(StageModule):
    """One velocity of the flow: x_t [1, H, A], timestep [1], the prefix -> output [1, H, A]."""

    def forward(
        self, x_t: Tensor, timestep: Tensor, prefix_mask: Tensor, **cached: Tensor
    ) -> dict[str, Tensor]:
        cache, others = key_value_cache(cached)
        velocity = self.policy.model.denoise_step(
            prefix_pad_masks=prefix_mask,
            past_key_values=cache,
            x_t=x_t,
            timestep=timestep,
            **others,
        )
        return {"output": velocity}


class PaliGemmaFamily(LeRobotFamily):
    """pi0 and pi0.5; subclasses say what differs."""

    postprocessor = (AFTER[0], ABSOLUTE, *AFTER[1:])
    unsupported = {"use_relative_actions": False, "n_obs_steps": 1}
    single_precision = (VISION, rf"{PALIGEMMA}multi_modal_projector\.", r"model\.(?!paligemma)")
    layer_groups = (
        (rf"{VISION}encoder\.layers\.(\d+)\.", "vision", "vision.{}"),
        (rf"{PALIGEMMA}multi_modal_projector\.", "projection", "projection"),
        (rf"{PALIGEMMA}language_model\.layers\.(\d+)\.", "language", "language.{}"),
        (rf"{EXPERT}layers\.(\d+)\.", "expert", "expert.{}"),
        (rf"{EXPERT}norm\.", "projection", "projection"),
        (r"model\.(state_proj|action_\w+|time_mlp_\w+)\.", "projection", "projection"),
    )
    short_names = (
        (f"{VISION}encoder.layers.", "vision.blk."),
        (VISION, "vision."),
        (f"{PALIGEMMA}multi_modal_projector.", "projector."),
        (f"{PALIGEMMA}language_model.layers.", "language.blk."),
        (f"{PALIGEMMA}language_model.", "language."),
        (f"{EXPERT}layers.", "expert.blk."),
        (EXPERT, "expert."),
        ("model.", ""),
    )
    renamed_keys: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Beginnings of keys that published checkpoints name differently."""
    ignored_keys: ClassVar[tuple[str, ...]] = ()
    """Beginnings of keys that published checkpoints have and the policy has not."""

    @abstractmethod
    def model_inputs(self, policy: Any, batch: dict[str, Any]) -> list[Any]:
        """Returns what the model takes of a preprocessed batch, in its order (see
        `camera_inputs`)."""

    def prepare(self, config: Any, folder: Path) -> None:
        if config.rtc_config is not None and config.rtc_config.enabled:
            raise CheckpointError(f"{folder}/config.json: not supported: rtc_config.enabled = True")
        config.dtype = "float32"
        config.compile_model = config.gradient_checkpointing = False

    def make(self, config: Any) -> nn.Module:
        """Makes the policy without the two large heads that predict tokens: no action needs
        them."""
        policy: Any = super().make(config)
        model = policy.model.paligemma_with_expert
        model.paligemma.lm_head = model.gemma_expert.lm_head = None
        language_model(policy).config._attn_implementation = "eager"  # as `sample_actions` does
        return policy

    def load_weights(self, policy: nn.Module, folder: Path, store: ParameterStore) -> None:
        checkpoint.load_weights(policy, folder, self.parameter_names, store=store)

    def parameter_names(self, keys: Sequence[str]) -> dict[str, str]:
        """Returns key of the file -> name of the policy's parameter, as LeRobot's `from_pretrained`
        has it.

        Published checkpoints lack the prefix `model.`, and the embedding where the head, tied to
        it, is stored. The heads are left out.
        """
        names: dict[str, str] = {}
        for key in keys:
            if not key.startswith(self.ignored_keys):
                old, new = next((x for x in self.renamed_keys if key.startswith(x[0])), ("", ""))
                name = new + key[len(old) :]
                names[key] = name if name.startswith("model.") else f"model.{name}"
        if EMBEDDING not in names.values():
            names = {key: EMBEDDING if name == HEAD else name for key, name in names.items()}
        return {key: name for key, name in names.items() if name not in (HEAD, EXPERT_HEAD)}

    def tokenizer(self, config: Any, folder: Path) -> str:
        return tokenizer_source(folder)

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        height, width = config.image_resolution
        resize = f"resize_pad height={height} width={width} filter=bilinear antialias=0 round=0"
        return {
            "driver": "sampling",
            "sampler": Sampler.euler(config.num_inference_steps),
            "optional_cameras": len(cameras(config)) - 1,
            "image_height": height,
            "image_width": width,
            "image_steps": (f"{resize} anchor=center value=0",),
            "image_scale": 2.0,
            "image_offset": -1.0,
            "state_padded_dim": config.max_state_dim,
            "action_padded_dim": config.max_action_dim,
            "noise_rows": config.chunk_size,
            "noise_dim": config.max_action_dim,
        }

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        policy = loaded.policy
        return {"vision": Vision(policy), "prefix": Prefix(policy), "denoise": Denoise(policy)}

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        inputs, actions = self.model_inputs(policy, batch), policy.prepare_action(batch)
        losses = policy.model.forward(*inputs, actions, noise, time)
        return losses[:, :, : len(loaded.interface.action_names)].mean(dim=(1, 2))

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        """Answers as `PolicyFamily.predict_chunk`. The policy itself knows absent cameras of whole
        batches only, so this enters one call below `predict_action_chunk`."""
        policy: Any = loaded.policy
        policy.reset()
        chunk = policy.model.sample_actions(*self.model_inputs(policy, batch), noise=noise)
        return chunk[:, :, : len(loaded.interface.action_names)]


def camera_inputs(policy: Any, batch: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Images and camera masks in the policy's order; an absent camera's mask is false."""
    images, masks = policy._preprocess_images(batch)
    present = [key for key in policy.config.image_features if key in batch]
    for index, key in enumerate(present):
        masks[index] = batch.get(f"{key}_padding_mask", masks[index]).bool()
    return images, masks


def language_model(policy: Any) -> Any:
    return policy.model.paligemma_with_expert.paligemma.model.language_model
