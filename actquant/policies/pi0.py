"""pi0: the state is a token beside the noisy actions (https://huggingface.co/papers/2410.24164)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from torch import Tensor, nn

from actquant.policies.base import LoadedPolicy
from actquant.policies.paligemma import (
    RELATIVE,
    TOKEN_MASK,
    TOKENS,
    PaliGemmaFamily,
    Prefix,
    camera_inputs,
)
from actquant.policies.steps import BATCH, DEVICE, NORMALIZER, RENAME, TOKENIZER, Step

NEWLINE = Step("pi0_new_line_processor", decides=True)


class StatePrefix(Prefix):
    """The state [1, S] goes through to the steps, which project it."""

    def forward(
        self, tokens: Tensor, token_mask: Tensor, state: Tensor, **images: Tensor
    ) -> dict[str, Tensor]:
        return {**super().forward(tokens, token_mask, **images), "state": state}


class Pi0(PaliGemmaFamily):
    policy_type = "pi0"
    policy_class = PI0Policy
    preprocessor = (
        *(RENAME, BATCH, NEWLINE, replace(TOKENIZER, after=(NEWLINE.name,))),
        *(DEVICE, RELATIVE, NORMALIZER),
    )
    renamed_keys = (("time_mlp_", "action_time_mlp_"),)

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        return {**super().interface(policy, config), "tokenizer_suffix": "\n"}

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        return {**super().modules(loaded), "prefix": StatePrefix(loaded.policy)}

    def model_inputs(self, policy: Any, batch: dict[str, Any]) -> list[Any]:
        images, masks = camera_inputs(policy, batch)
        return [images, masks, batch[TOKENS], batch[TOKEN_MASK], policy.prepare_state(batch)]
