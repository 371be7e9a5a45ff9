"""Template of a policy family: copy to actquant/policies/<name>.py and replace what is in capitals.

docs/adding-a-policy.md explains every part.
"""

from __future__ import annotations

from typing import Any

import torch
from lerobot.policies.act.modeling_act import ACTPolicy  # YOUR POLICY'S CLASS
from torch import Tensor, nn

from actquant.format.schema import Sampler
from actquant.policies.base import LoadedPolicy, StageModule
from actquant.policies.lerobot import LeRobotFamily, cameras


class Vision(StageModule):
    """image [1, 3, H, W] in [-1, 1] -> embedding [1, T, D]."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.policy.model.embed_image(image)}


class Prefix(StageModule):
    """Image embeddings, prompt and state -> what every step of `Denoise` reads."""

    def forward(
        self, tokens: Tensor, token_mask: Tensor, state: Tensor, **images: Tensor
    ) -> dict[str, Tensor]:
        seen = [value for name, value in images.items() if name.startswith("image_embedding_")]
        context = self.policy.model.encode(torch.cat(seen, dim=1), tokens, token_mask, state)
        return {"context": context}


class Denoise(StageModule):
    """x_t [1, H, A] at time timestep [1] -> output [1, H, A]."""

    def forward(self, x_t: Tensor, timestep: Tensor, context: Tensor) -> dict[str, Tensor]:
        return {"output": self.policy.model.velocity(x_t, timestep, context)}


class Family(LeRobotFamily):
    policy_type = "your_policy"  # THE NAME LEROBOT REGISTERS
    policy_class = ACTPolicy
    unsupported = {"use_relative_actions": False}
    layer_groups = (
        (r"model\.vision\.layers\.(\d+)\.", "vision", "vision.{}"),
        (r"model\.language\.layers\.(\d+)\.", "language", "language.{}"),
        (r"model\.expert\.layers\.(\d+)\.", "expert", "expert.{}"),
        (r"model\.", "projection", "projection"),
    )
    short_names = (("model.vision.layers.", "vision.blk."), ("model.", ""))

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        return {
            "driver": "sampling",
            "sampler": Sampler.euler(config.num_steps),
            "optional_cameras": len(cameras(config)) - 1,
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
        return policy.forward(dict(batch), noise=noise, time=time, reduction="none")[0]
