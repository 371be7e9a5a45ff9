"""X-VLA: Florence-2's encoder and a soft-prompted transformer (https://huggingface.co/papers/2510.10274)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.xvla import modeling_xvla
from lerobot.utils.constants import IMAGENET_STATS
from torch import Tensor, nn

from actquant.format.schema import Sampler
from actquant.policies import checkpoint
from actquant.policies.base import LoadedPolicy, Observation, StageModule
from actquant.policies.given_noise import given_noise
from actquant.policies.lerobot import LeRobotFamily, cameras
from actquant.policies.processors import find_step, raw_keys
from actquant.policies.steps import (
    BATCH,
    DEVICE,
    NORMALIZER,
    PADDED_TOKENIZER,
    RENAME,
    Step,
)
from actquant.weights.parameters import ParameterStore, StoredTensor

VLM = "model.vlm."
OLD_PROJECTION = f"{VLM}image_projection"


ALL_IMAGES = {"image_keys": (None,)}
TO_FLOAT = Step("xvla_image_to_float", ("validate_range",), ALL_IMAGES)
IMAGENET = Step("xvla_imagenet_normalize", (), ALL_IMAGES, after=(TO_FLOAT.name,), decides=True)
DOMAIN = Step("xvla_add_domain_id", ("domain_id",))


class ActionSpace:
    """What `policy.model.action_space` does to state and action, as constants.

    LeRobot's action spaces write zeros into gripper channels, which capture cannot trace; here they
    are probed once. seen_state [1, S], seen_action [1, 1, A]: 1 where the transformer sees the
    value, else 0; gripper [1, 1, real A]: 1 where the output is a logit.
    """

    def __init__(self, policy: Any) -> None:
        space = policy.model.action_space
        self.dim = space.dim_action
        state, action = torch.ones(1, policy.config.max_state_dim), torch.ones(1, 1, self.dim)
        self.seen_state, self.seen_action = space.preprocess(state, action)
        self.gripper = (space.postprocess(torch.zeros(1, 1, self.dim)) == 0.5).float()
        self.real_dim = self.gripper.shape[-1]


class Vision(StageModule):
    """image [1, 3, H, W] in [0, 1] -> embedding [1, T, D]."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean, std = (torch.tensor(IMAGENET_STATS[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
        features = self.policy.model.vlm.get_image_features((image - mean) / std)
        return {"embedding": features.pooler_output}


class Prefix(StageModule):
    """What the transformer attends to: `XVLAModel.forward_vlm` after the images' stage.

    A view that is absent is a run of zeros, and padding tokens are attended to, as in training.
    """

    def __init__(self, policy: Any, space: ActionSpace, views: int) -> None:
        super().__init__(policy)
        self.space = space
        self.views = views

    def forward(
        self, tokens: Tensor, state: Tensor | None = None, **images: Tensor
    ) -> dict[str, Tensor]:
        vlm = self.policy.model.vlm
        features = [value for name, value in images.items() if "embedding" in name]
        features += [torch.zeros_like(features[0])] * (self.views - len(features))
        merged = torch.cat([features[0], vlm.get_input_embeddings()(tokens)], dim=1)
        encoded = vlm.language_model.encoder(inputs_embeds=merged)[0]
        others = torch.cat(features[1:], dim=1) if self.views > 1 else encoded[:, :0]
        outputs = {"vlm_features": encoded, "aux_visual_inputs": others}
        return outputs if state is None else {**outputs, "proprio": state * self.space.seen_state}


class Denoise(StageModule):
    """The clean chunk as the policy sees it from x_t [1, H, A] at the time timestep [1]."""

    def __init__(self, policy: Any, space: ActionSpace, domain: int) -> None:
        super().__init__(policy)
        self.space = space
        self.domain = domain

    def forward(self, x_t: Tensor, timestep: Tensor, **context: Tensor) -> dict[str, Tensor]:
        proprio = context.pop("proprio", torch.zeros(1, 0))
        chunk = self.policy.model.transformer(
            domain_id=torch.tensor([self.domain]),
            action_with_noise=x_t * self.space.seen_action,
            t=timestep,
            proprio=proprio,
            **context,
        )
        return {"output": chunk}


class Decode(nn.Module):
    """Grippers are logits until here; what pads the policy's own action is cut off."""

    def __init__(self, space: ActionSpace) -> None:
        super().__init__()
        self.space = space

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, gripper = x[..., : self.space.real_dim], self.space.gripper
        return {"actions": x * (1 - gripper) + torch.sigmoid(x) * gripper}


def sampler(steps: int) -> Sampler:
    """Returns `XVLAModel.generate_actions` as a table: every step predicts the clean chunk o from
    x = t * noise + (1 - t) * (the o before), so the next x is t' * noise + (1 - t') * o."""
    times = tuple(k / steps for k in range(steps, 0, -1))
    rows = tuple((0.0, 0.0, 0.0, 0.0, 0.0, 1.0 - t, 0.0, t) for t in (*times[1:], 0.0))
    return Sampler(times, rows)


class XVLA(LeRobotFamily):
    policy_type = "xvla"
    policy_class = modeling_xvla.XVLAPolicy
    preprocessor = (
        *(RENAME, BATCH, PADDED_TOKENIZER, TO_FLOAT, IMAGENET, DOMAIN, DEVICE, NORMALIZER),
    )
    layer_groups = (
        (rf"{VLM}vision_tower\.convs\.(\d+)\.", "vision", "vision.{}.embedding"),
        (rf"{VLM}vision_tower\.blocks\.(\d+)\.(\d+)\.", "vision", "vision.{}.{}"),
        (rf"{VLM}multi_modal_projector\.", "projection", "projection"),
        (rf"{VLM}language_model\.encoder\.layers\.(\d+)\.", "language", "language.{}"),
        (r"model\.transformer\.blocks\.(\d+)\.", "expert", "expert.{}"),
        (r"model\.transformer\.", "projection", "projection"),
    )
    short_names = (
        (f"{VLM}vision_tower.", "vision."),
        (f"{VLM}multi_modal_projector.", "projector."),
        (f"{VLM}language_model.encoder.layers.", "language.blk."),
        (f"{VLM}language_model.", "language."),
        ("model.transformer.blocks.", "expert.blk."),
        ("model.transformer.", "expert."),
    )

    def load_weights(self, policy: nn.Module, folder: Path, store: ParameterStore) -> None:
        checkpoint.load_weights(policy, folder, store=native_layout(store))

    def pads_prompts(self, config: Any) -> bool:
        return True

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        space = ActionSpace(policy)
        fields: dict[str, Any] = {
            "driver": "sampling",
            "sampler": sampler(config.num_denoising_steps),
            "optional_cameras": len(cameras(config)) - 1,
            "state_padded_dim": config.max_state_dim,
            "action_dim": space.real_dim,
            "action_padded_dim": space.real_dim,
            "noise_rows": config.chunk_size,
            "noise_dim": space.dim,
        }
        if config.resize_imgs_with_padding is not None:
            height, width = config.resize_imgs_with_padding
            # LeRobot pads with 0 after the normalisation, which is the mean before it.
            mean = torch.tensor(IMAGENET_STATS["mean"]).flatten().tolist()
            pad = ",".join(f"{255 * channel:.7g}" for channel in mean)
            resize = f"resize_pad height={height} width={width} filter=bilinear antialias=0 round=0"
            fields |= {"image_height": height, "image_width": width}
            fields["image_steps"] = (f"{resize} anchor=end value={pad}",)
        return fields

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        policy: Any = loaded.policy
        space = ActionSpace(policy)
        return {
            "vision": Vision(policy),
            "prefix": Prefix(policy, space, policy.config.num_image_views),
            "denoise": Denoise(policy, space, domain_id(loaded.preprocessor)),
            "decode": Decode(space),
        }

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        model, inputs = policy.model, self._inputs(loaded, batch)
        clean, t = policy._prepare_action_targets(batch), time.view(-1, 1, 1)
        proprio, noisy = model.action_space.preprocess(
            inputs["proprio"], noise * t + clean * (1 - t)
        )
        encoded = model.forward_vlm(
            inputs["input_ids"], inputs["image_input"], inputs["image_mask"]
        )
        chunk = model.transformer(
            domain_id=inputs["domain_id"],
            action_with_noise=noisy,
            proprio=proprio,
            t=time,
            **encoded,
        )
        losses: list[Any] = [
            sum(model.action_space.compute_loss(a[None], b[None]).values())
            for a, b in zip(chunk, clean, strict=True)
        ]
        return torch.stack(losses)

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Observation]) -> dict[str, Any]:
        """X-VLA's preprocessor takes everything under `observation.images` for an image, so an
        absent camera is black until it is through, and its mask comes after."""
        face, whole = loaded.interface, []
        for observation in observations:
            seen = [observation[key] for key in face.cameras if observation.get(key) is not None]
            black = np.zeros_like(seen[0]) if seen else None
            whole.append({**dict.fromkeys(face.cameras, black), **observation})
        batch = super().batch(loaded, whole)
        keys = {raw: key for key, raw in raw_keys(loaded.preprocessor).items()}
        for camera in face.cameras:
            mask = [observation.get(camera) is not None for observation in observations]
            batch[f"{keys.get(camera, camera)}_padding_mask"] = torch.tensor(mask)
        return batch

    def _inputs(self, loaded: LoadedPolicy, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's inputs; an absent camera is a view that the model masks, in its place."""
        policy: Any = loaded.policy
        inputs = policy._build_model_inputs(batch)
        present = [key for key in policy.config.image_features if key in batch]
        for index, key in enumerate(present):
            mask = batch.get(f"{key}_padding_mask")
            if mask is not None:
                inputs["image_mask"][:, index] &= mask
        return inputs

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        policy.reset()
        steps = policy.config.num_denoising_steps
        with given_noise(noise):
            return policy.model.generate_actions(**self._inputs(loaded, batch), steps=steps)


def native_layout(store: ParameterStore) -> ParameterStore:
    """Weights of published checkpoints under the names that transformers' Florence-2 has.

    The rules are LeRobot's own; the one matrix that was stored transposed is turned here.
    """
    names: Any = dict.fromkeys(store)
    if not modeling_xvla._is_vendored_florence_state_dict(names):
        return store
    keys: Any = {key: key for key in names if key != OLD_PROJECTION}
    renamed: Any = modeling_xvla._remap_vendored_florence_state_dict(keys)
    tensors = {name: store[key] for name, key in renamed.items()}
    if OLD_PROJECTION in store:
        turned = store[OLD_PROJECTION]
        tensors[f"{VLM}multi_modal_projector.image_projection.weight"] = StoredTensor(
            turned.shape[::-1], lambda: turned.read().T.contiguous()
        )
    return ParameterStore(tensors)


def domain_id(preprocessor: Any) -> int:
    step = find_step(preprocessor, "domain_id")
    return 0 if step is None else int(step.domain_id)
