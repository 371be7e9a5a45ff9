"""A LeRobot policy as docs/policy_template.py supposes it: a flow over actions that attends to
images, prompt and state. It is registered with LeRobot as `your_policy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.policies.common.vla_utils import pad_vector
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import TokenizerProcessorStep
from lerobot.processor.factory import (
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from tiny_policies import CAMERAS, dataset_statistics, policy_features, randomise
from tiny_xvla import build_bart_tokenizer
from torch import Tensor, nn

WIDTH, VOCABULARY, QUERIES = 32, 300, 4


@PreTrainedConfig.register_subclass("your_policy")
@dataclass
class YourConfig(PreTrainedConfig):
    chunk_size: int = 5
    n_action_steps: int = 5
    num_steps: int = 4
    max_state_dim: int = 8
    max_action_dim: int = 8
    tokenizer_name: str = "tokenizer"
    tokenizer_max_length: int = 24
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )
    observation_delta_indices = action_delta_indices = reward_delta_indices = None

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig()

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        assert self.image_features and self.robot_state_feature and self.action_feature


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], seen [B, M, D], mask [B, M] -> [B, N, D], one head."""
        q, k, v = self.q(x)[:, None], self.k(seen)[:, None], self.v(seen)[:, None]
        wide = None if mask is None else mask[:, None, None]
        return x + self.out(F.scaled_dot_product_attention(q, k, v, wide)[:, 0])


class Stack(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention() for _ in range(depth))


class Vision(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, x)
        return x


class Model(nn.Module):
    def __init__(self, config: YourConfig) -> None:
        super().__init__()
        self.vision, self.language, self.expert = Vision(), Stack(), Stack()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.state_in = nn.Linear(config.max_state_dim, WIDTH)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, WIDTH))
        self.action_in = nn.Linear(config.max_action_dim, WIDTH)
        self.time_in = nn.Linear(1, WIDTH)
        self.action_out = nn.Linear(WIDTH, config.max_action_dim)

    def embed_image(self, image: Tensor) -> Tensor:
        return self.vision(image)

    def encode(self, images: Tensor, tokens: Tensor, token_mask: Tensor, state: Tensor) -> Tensor:
        """What was observed, read by a few queries: padding tokens are not."""
        seen = torch.cat([images, self.state_in(state)[:, None], self.words(tokens)], dim=1)
        always = torch.ones(len(tokens), images.shape[1] + 1, dtype=torch.bool)
        mask = torch.cat([always, token_mask], dim=1)
        context = self.queries.expand(len(tokens), -1, -1)
        for layer in self.language.layers:
            context = layer(context, seen, mask)
        return context

    def velocity(self, x_t: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        x = self.action_in(x_t) + F.silu(self.time_in(timestep[:, None]))[:, None]
        for layer in self.expert.layers:
            x = layer(x, context)
        return self.action_out(x)


class YourPolicy(PreTrainedPolicy):
    config_class = YourConfig
    name = "your_policy"

    def __init__(self, config: YourConfig, **_: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self.model = Model(config)

    def reset(self) -> None:
        """It keeps nothing from one chunk to the next."""

    def get_optim_params(self) -> Any:
        return self.parameters()

    def _context(self, batch: dict[str, Tensor]) -> Tensor:
        embedded = []
        for key in self.config.image_features:
            embedding = self.model.embed_image(2 * batch[key] - 1)
            present = batch.get(f"{key}_padding_mask", torch.ones(len(embedding)))
            embedded.append(embedding * present[:, None, None])
        state = pad_vector(batch["observation.state"], self.config.max_state_dim)
        tokens, mask = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
        return self.model.encode(torch.cat(embedded, dim=1), tokens, mask.bool(), state)

    def forward(
        self, batch: dict[str, Tensor], noise: Tensor, time: Tensor, reduction: str = "mean"
    ) -> tuple[Tensor, None]:
        actions = pad_vector(batch["action"], self.config.max_action_dim)
        t = time[:, None, None]
        velocity = self.model.velocity(t * noise + (1 - t) * actions, time, self._context(batch))
        losses = (velocity - (noise - actions)).square().mean(dim=(1, 2))
        return (losses if reduction == "none" else losses.mean()), None

    def predict_action_chunk(self, batch: dict[str, Tensor], noise: Tensor, **_: Any) -> Tensor:
        context, x, steps = self._context(batch), noise, self.config.num_steps
        for k in range(steps):
            time = torch.full((len(x),), 1 - k / steps)
            x = x - self.model.velocity(x, time, context) / steps
        return x[..., : self.config.action_feature.shape[0]]

    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        raise NotImplementedError("chunks are executed by the caller")


def build_tiny_template_policy(folder: Path, *, state_dim: int = 6, action_dim: int = 7) -> Path:
    """As `save_pretrained` writes it, with the tokenizer in `folder/tokenizer`."""
    build_bart_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    config = YourConfig(device="cpu", **policy_features(CAMERAS, (32, 32), state_dim, action_dim))
    policy = YourPolicy(config).eval()
    randomise(policy, 0)
    policy.save_pretrained(folder)
    steps = make_default_policy_processor_steps(
        config, dataset_statistics(state_dim, action_dim, 0)
    )
    tokenize = TokenizerProcessorStep(
        tokenizer_name=str(folder / "tokenizer"),
        max_length=config.tokenizer_max_length,
        padding="max_length",
    )
    processors = make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.add_batch_dim, tokenize, steps.normalize],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
    tokenize.tokenizer_name = "tokenizer"
    for kind, pipeline in zip(("pre", "post"), processors, strict=True):
        pipeline.save_pretrained(folder, config_filename=f"policy_{kind}processor.json")
    return folder
