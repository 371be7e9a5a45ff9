"""pi0.5: the state is text, the time conditions the norms (https://huggingface.co/papers/2504.16054)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from actquant.policies.paligemma import (
    RELATIVE,
    TOKEN_MASK,
    TOKENS,
    PaliGemmaFamily,
    camera_inputs,
)
from actquant.policies.steps import BATCH, DEVICE, NORMALIZER, RENAME, TOKENIZER, Step

STATE_IN_PROMPT = Step(
    "pi05_prepare_state_tokenizer_processor_step",
    ("max_state_dim",),
    {"task_key": ("task",)},
    after=(NORMALIZER.name,),
    decides=True,
)


class Pi05(PaliGemmaFamily):
    policy_type = "pi05"
    policy_class = PI05Policy
    preprocessor = (
        *(RENAME, BATCH, RELATIVE, NORMALIZER, STATE_IN_PROMPT),
        *(replace(TOKENIZER, after=(STATE_IN_PROMPT.name,)), DEVICE),
    )
    renamed_keys = (("action_time_mlp_", "time_mlp_"),)
    ignored_keys = ("state_proj.",)

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        return {
            **super().interface(policy, config),
            "prompt_template": "Task: {task}, State: {state};\nAction: ",
            "prompt_task_steps": ("strip", "underscores_to_spaces", "newlines_to_spaces"),
            "prompt_state_bins": 256,
        }

    def model_inputs(self, policy: Any, batch: dict[str, Any]) -> list[Any]:
        images, masks = camera_inputs(policy, batch)
        return [images, masks, batch[TOKENS], batch[TOKEN_MASK]]
