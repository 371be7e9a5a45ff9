"""OpenVLA-OFT: two vision towers and Llama 2, all actions of a chunk in one pass.

Of https://arxiv.org/abs/2502.19645 the variant with the L1 regression head, as published with
https://github.com/moojink/openvla-oft. LIBERO's evaluation turns the images by 180 degrees before,
and the gripper's number g in [0, 1] into -sign(2g - 1) after the policy; both belong to the
environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actquant.common.errors import CheckpointError
from actquant.format.schema import PolicyInterface
from actquant.policies import checkpoint
from actquant.policies.base import (
    LoadedPolicy,
    Observation,
    PolicyFamily,
    Stage,
    StageModule,
    example_stages,
)
from actquant.policies.normalization import STATE
from actquant.policies.openvla_oft import images, settings
from actquant.policies.openvla_oft.layout import check_config, read_architecture
from actquant.policies.openvla_oft.prompt import (
    MAX_LENGTH,
    MIN_LENGTH,
    TASK_STEPS,
    TEMPLATE,
    Prompt,
)
from actquant.policies.openvla_oft.weights import Weights

STATE_CLIP = 1.0


class Vision(StageModule):
    """image [1, 3, H, W] in [0, 1] -> embedding [1, T, D], through the projector."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.policy.embed_image(image)}


class Prefix(StageModule):
    """Image embeddings, prompt and state -> actions [1, H, A], normalised."""

    def __init__(self, policy: Any, cameras: int) -> None:
        super().__init__(policy)
        self.cameras = cameras

    def forward(
        self, tokens: Tensor, token_mask: Tensor, state: Tensor | None = None, **embedded: Tensor
    ) -> dict[str, Tensor]:
        per_camera = [embedded[f"image_embedding_{i}"] for i in range(self.cameras)]
        return {"actions": self.policy.decode(per_camera, tokens, token_mask, state)}


class OpenVLAOFTFamily(PolicyFamily):
    policy_type = "openvla_oft"
    options = settings.OPTIONS
    layer_groups = (
        (r"vision_backbone\.featurizer\.blocks\.(\d+)\.", "vision", "vision.dinov2.{}"),
        (r"vision_backbone\.fused_featurizer\.blocks\.(\d+)\.", "vision", "vision.siglip.{}"),
        (r"language_model\.model\.layers\.(\d+)\.", "language", "language.{}"),
        (r"action_head\.", "expert", "expert.head"),
        (r"(projector|proprio_projector)\.", "projection", "projection"),
    )
    short_names = (
        ("vision_backbone.featurizer.blocks.", "dinov2.blk."),
        ("vision_backbone.featurizer.", "dinov2."),
        ("vision_backbone.fused_featurizer.blocks.", "siglip.blk."),
        ("vision_backbone.fused_featurizer.", "siglip."),
        ("language_model.model.layers.", "language.blk."),
        ("language_model.model.", "language."),
        ("action_head.model.", "action_head."),
    )

    def load(
        self,
        folder: Path,
        *,
        control_rate_hz: float | None,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
        **options: Any,
    ) -> LoadedPolicy:
        """Options (see `settings.OPTIONS`): unnorm_key, the dataset whose statistics are used;
        num_images_in_input, num_action_chunks, center_crop, where they are not the platform's."""
        config = json.loads((folder / "config.json").read_text())
        check_config(config, f"{folder}/config.json")
        weights = Weights.find(folder)
        shape = read_architecture(weights.shapes, config)
        weights.check(shape)
        known = settings.read_settings(folder, config, options, shape.action_dim, shape.proprio_dim)
        prompt = Prompt.read(folder, config)
        policy = weights.build(shape, known.chunk_length, prompt.stop_id)
        policy.vision_backbone.set_normalization(*_image_statistics(folder))
        size = round(shape.towers[0].positions ** 0.5) * shape.towers[0].patch
        rate = checkpoint.control_rate(folder, control_rate_hz)
        names = known.platform.state_names if shape.proprio_dim else ()
        state_dim = len(names)
        return LoadedPolicy(
            family=self,
            policy=policy,
            config=config,
            preprocessor=prompt,
            postprocessor=partial(unnormalize, known.action.mean, known.action.std),
            folder=folder,
            checkpoint_sha256=weights.sha256(),
            interface=PolicyInterface(
                driver="one_shot",
                sampler=None,
                cameras=known.cameras,
                optional_cameras=0,
                image_height=size,
                image_width=size,
                image_source_height=known.platform.source_size,
                image_source_width=known.platform.source_size,
                image_steps=images.steps(size, known.center_crop),
                image_scale=1.0,
                image_offset=0.0,
                state_names=checkpoint.names("state", state_dim, state_names or names),
                action_names=checkpoint.names(
                    "action", shape.action_dim, action_names or known.platform.action_names
                ),
                state_padded_dim=state_dim,
                action_padded_dim=shape.action_dim,
                state_mean=known.state.mean,
                state_std=known.state.std,
                action_mean=known.action.mean,
                action_std=known.action.std,
                normalization_eps=0.0,
                state_clip=STATE_CLIP,
                chunk_length=known.chunk_length,
                steps_per_chunk=known.chunk_length,
                control_rate_hz=known.platform.control_rate_hz if rate is None else rate,
                prompt_template=TEMPLATE,
                prompt_task_steps=TASK_STEPS,
                tokenizer_json=prompt.json,
                tokenizer_min_length=MIN_LENGTH,
                tokenizer_max_length=MAX_LENGTH,
                tokenizer_pad_id=prompt.pad_id,
                tokenizer_suffix_ids=(prompt.empty_id,),
            ),
            cache={"center_crop": known.center_crop},
        )

    def stages(self, loaded: LoadedPolicy, prompt_length: int) -> list[Stage]:
        face = loaded.interface
        prefix = Prefix(loaded.policy, len(face.cameras))
        modules = {"vision": Vision(loaded.policy), "prefix": prefix}
        return example_stages(modules, face, prompt_length)

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """Returns mean absolute error over the chunk, which the policy was trained with; noise and
        time are not used."""
        predicted = self._forward(loaded, batch)
        return (predicted - batch["action"][:, : predicted.shape[1]]).abs().mean(dim=(1, 2))

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        """Returns `images` [B, C, 3, H, W] in [0, 1], `tokens` and `token_mask` [B, L], and `state`
        [B, S], normalised and clamped. Raises CheckpointError naming a camera that is missing."""
        face = loaded.interface
        missing = sorted({c for c in face.cameras for o in observations if c not in o})
        if missing:
            raise CheckpointError(f"the observations lack {', '.join(missing)}")
        crop = loaded.cache["center_crop"]
        tokens, token_mask = loaded.preprocessor.encode([str(o["task"]) for o in observations])
        pixels = [
            [images.prepare(torch.as_tensor(o[c]), face.image_height, crop) for c in face.cameras]
            for o in observations
        ]
        batch = {
            "images": torch.stack([torch.stack(row) for row in pixels]),
            "tokens": tokens,
            "token_mask": token_mask,
        }
        if face.state_names:
            state = torch.stack([torch.as_tensor(o[STATE]) for o in observations])
            mean, std = torch.tensor(face.state_mean), torch.tensor(face.state_std)
            batch["state"] = ((state.float() - mean) / std).clamp(-STATE_CLIP, STATE_CLIP)
        return batch

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        return self._forward(loaded, batch)

    @staticmethod
    def _forward(loaded: LoadedPolicy, batch: Mapping[str, Tensor]) -> Tensor:
        return loaded.policy(
            batch["images"], batch["tokens"], batch["token_mask"], batch.get("state")
        )


def unnormalize(mean: Sequence[float], std: Sequence[float], chunk: Tensor) -> Tensor:
    """Returns a chunk [B, H, A] in the robot's units; mean, std: [A]."""
    return chunk * torch.tensor(std) + torch.tensor(mean)


def _image_statistics(folder: Path) -> tuple[list[list[float]], list[list[float]]]:
    """Means and standard deviations of the colours, one triple for each vision tower."""
    file = folder / "preprocessor_config.json"
    try:
        content = json.loads(file.read_text())
        means, stds = content["means"], content["stds"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: means and stds cannot be read: {error!r}") from error
    if [len(x) for x in (*means, *stds)] != [3] * 4:
        raise CheckpointError(f"{file}: means and stds are not three numbers for two towers each")
    return means, stds
