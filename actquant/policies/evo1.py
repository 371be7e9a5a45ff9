"""EVO1: InternVL3 and a flow head that attends to its tokens (https://huggingface.co/papers/2511.04555)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.evo1 import internvl3_embedder
from lerobot.policies.evo1.flow_matching import CategorySpecificLinear
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from lerobot.policies.evo1.processor_evo1 import reconcile_evo1_processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from actquant.common.errors import CheckpointError
from actquant.format.schema import Sampler
from actquant.policies import checkpoint
from actquant.policies.base import LoadedPolicy, StageModule
from actquant.policies.given_noise import given_noise
from actquant.policies.lerobot import LeRobotFamily, cameras, replaced
from actquant.policies.normalization import Normalization
from actquant.policies.processors import find_step, plain_tokenizer
from actquant.policies.steps import BATCH, DEVICE, NORMALIZER, RENAME, UNNORMALIZER, Step
from actquant.policies.surgery import split_attention
from actquant.weights.parameters import ParameterStore, StoredTensor

VLM = "model.embedder.model."
HEAD = "model.action_head."
LANGUAGE_MODELS = ("qwen2", "qwen3")
"""Of InternVL3 and InternVL3.5."""
TEMPLATE = "\n{task}"
"""The end of the last image's line, and the task."""

PAD_STATE = Step("evo1_pad_state_processor", ("max_state_dim",), after=(RENAME.name,), decides=True)
PAD_ACTION = Step("evo1_pad_action_processor", ("max_action_dim",))
NORMALIZE = replace(NORMALIZER, after=(*NORMALIZER.after, PAD_STATE.name))
GRIPPER = tuple(
    f"gripper_{name}"
    for name in ("index", "threshold", "below_threshold_value", "above_threshold_value")
)
CROP = Step("evo1_action_processor", ("action_dim", "binarize_gripper", *GRIPPER))


class Vision(StageModule):
    """image [1, 3, H, W] in [0, 1] -> embedding [1, T, D], after the projector."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean, std = (
            torch.tensor(values).reshape(1, 3, 1, 1)
            for values in (internvl3_embedder.IMAGENET_MEAN, internvl3_embedder.IMAGENET_STD)
        )
        features = self.policy.model.embedder.model.get_image_features((image - mean) / std)
        return {"embedding": features.pooler_output}


class Prefix(StageModule):
    """What the head attends to: `InternVL3Embedder._forward_vlm` after the images' stage.

    Nothing attends to the image tokens of a view that is absent, so they are left out here; what
    follows them keeps its positions. Prompts are never padded.
    """

    def __init__(self, policy: Any, between: list[Tensor], cameras: int) -> None:
        super().__init__(policy)
        self.between = between
        self.cameras = cameras

    def forward(
        self, tokens: Tensor, token_mask: Tensor, state: Tensor, **images: Tensor
    ) -> dict[str, Tensor]:
        embedder, head = self.policy.model.embedder, self.policy.model.action_head
        language, view = embedder.model.language_model, embedder.num_image_token
        embed = language.get_input_embeddings()
        parts, places, start = [], [], 0
        for index, text in enumerate(self.between):
            parts.append(embed(text)[None])
            places.append(start + torch.arange(len(text)))
            start += len(text)
            if index < self.cameras:
                parts.append(images[f"image_embedding_{index}"])
                places.append(start + torch.arange(view))
            start += view if index < len(self.between) - 1 else 0
        parts.append(embed(tokens))
        places.append(start - 1 + token_mask[0].long().cumsum(0))
        encoded = language(
            inputs_embeds=torch.cat(parts, dim=1),
            position_ids=torch.cat(places)[None],
            attention_mask={"full_attention": None},
            use_cache=False,
        ).last_hidden_state
        fused = encoded[:, -1] if self.policy.model.return_cls_only else encoded
        context, _, _ = head._prepare_context(fused, state, None, None)
        return {"context": context}


class Denoise(StageModule):
    """One velocity of the flow: x_t [1, H, A], timestep [1], context [1, T, D] -> output.

    The policy starts from noise that is uniform in [-1, 1], the driver's is N(0, 1). So the first
    step takes the one for the other, and adds its sample to the output (see `sampler`).
    """

    def __init__(self, policy: Any, mask: Tensor) -> None:
        super().__init__(policy)
        self.mask = mask
        head = policy.model.action_head
        self.steps = head.num_inference_timesteps
        # As `FlowmatchingActionHead.get_action` has it, also where k / steps * 999 is rounded.
        indices = [min(int(k / self.steps * 999), 999) for k in range(self.steps)]
        self.times = head.time_pos_enc(1000)[0, indices].detach()

    def forward(self, x_t: Tensor, timestep: Tensor, context: Tensor) -> dict[str, Tensor]:
        step = (timestep * self.steps + 0.5).long()
        first = (step == 0).float()[:, None, None]
        x = (first * uniform(x_t) + (1 - first) * x_t) * self.mask
        time = F.embedding(step, self.times)
        flow = velocity(self.policy.model.action_head, x, time, context) * self.mask
        return {"output": flow + first * self.steps * x}


class Decode(nn.Module):
    """A gripper between whose two commands the policy's postprocessor chooses by a threshold."""

    def __init__(self, config: Any, mean: float, std: float) -> None:
        super().__init__()
        self.index, self.threshold = config.gripper_index, config.gripper_threshold
        self.below = config.gripper_below_threshold_value
        self.above = config.gripper_above_threshold_value
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        gripper = torch.arange(x.shape[-1]) == self.index
        over = x * self.std + self.mean - self.threshold
        is_above = (over * 1e30).clamp(0, 1)
        command = self.below + (self.above - self.below) * is_above
        chosen = (command - self.mean) / self.std
        return {"actions": x * (~gripper).float() + chosen * gripper.float()}


def uniform(noise: Tensor) -> Tensor:
    """Maps N(0, 1) to what is uniform in [-1, 1], erf(n / √2), by operators that a program has:
    gelu(n) + gelu(-n) = n erf(n / √2)."""
    odd = F.gelu(noise) + F.gelu(-noise)
    return noise * odd / (noise * noise + 1e-30)


def velocity(
    head: Any, x: Tensor, time: Tensor, context: Tensor, padding: Tensor | None = None
) -> Tensor:
    """Predicts as `FlowmatchingActionHead` does in training and inference: x [B, H, A], time
    [B, D], context [B, T, D], padding b8 [B, T] (true: not attended to) -> [B, H, A]."""
    category = torch.zeros(len(x), dtype=torch.long, device=x.device)
    hidden = head._project_actions(x, category)
    for block in head.transformer_blocks:
        hidden = block(hidden, context, time, padding)
    hidden = head.norm_out(hidden)
    pooled = head.seq_pool_proj(hidden.flatten(1)) if head.horizon > 1 else hidden[:, 0]
    return head.mlp_head(pooled, category).view(x.shape)


def sampler(steps: int) -> Sampler:
    """Returns Euler steps from t = 0 to 1, of which the first starts from nothing: `Denoise` has
    its sample in the output."""
    flow = Sampler.euler(steps, start=0.0, end=1.0)
    first = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0 / steps, 0.0, 0.0)
    return Sampler(flow.timesteps, (first, *flow.coefficients[1:]))


class Evo1(LeRobotFamily):
    policy_type = "evo1"
    policy_class = Evo1Policy
    preprocessor = (RENAME, BATCH, PAD_STATE, PAD_ACTION, NORMALIZE, DEVICE)
    postprocessor = (UNNORMALIZER, CROP, DEVICE)
    unsupported: ClassVar = {"n_obs_steps": 1, "action_head": "flowmatching"}
    layer_groups = (
        (rf"{VLM}vision_tower\.encoder\.layer\.(\d+)\.", "vision", "vision.{}"),
        (rf"{VLM}vision_tower\.embeddings\.", "projection", "projection"),
        (rf"{VLM}multi_modal_projector\.", "projection", "projection"),
        (rf"{VLM}language_model\.layers\.(\d+)\.", "language", "language.{}"),
        (rf"{HEAD}transformer_blocks\.(\d+)\.", "expert", "expert.{}"),
        (HEAD, "projection", "projection"),
    )
    short_names = (
        (f"{VLM}vision_tower.encoder.layer.", "vision.blk."),
        (f"{VLM}vision_tower.", "vision."),
        (f"{VLM}multi_modal_projector.", "projector."),
        (f"{VLM}language_model.layers.", "language.blk."),
        (f"{VLM}language_model.", "language."),
        (f"{HEAD}transformer_blocks.", "expert.blk."),
        (HEAD, "expert."),
    )

    def prepare(self, config: Any, folder: Path) -> None:
        if config.num_inference_timesteps < 1:
            raise CheckpointError(
                f"{folder}/config.json: num_inference_timesteps is "
                f"{config.num_inference_timesteps}, wanted at least 1"
            )
        config.vlm_model_name = checkpoint.find_model(folder, config.vlm_model_name)
        config.vlm_dtype = "float32"
        config.use_amp = config.use_flash_attn = config.enable_gradient_checkpointing = False
        # Else LeRobot detaches the language model's outputs.
        config.finetune_vlm = config.finetune_language_model = config.finetune_vision_model = True

    def remarks(self, config: Any) -> list[str]:
        if config.num_categories == 1:
            return []
        return [
            f"of {config.num_categories} embodiments, the file is for the number "
            f"{config.default_embodiment_id} (default_embodiment_id)"
        ]

    def make(self, config: Any) -> nn.Module:
        """Makes the policy with InternVL's configuration alone; LeRobot would load its weights
        first. Its head is taken apart, as `head_layout` says."""
        with replaced(internvl3_embedder, AutoModel=WithoutWeights):
            policy: Any = self.policy_class(config)
        check_backbone(policy)
        split_attention(policy.model.action_head)
        leave_one_category(policy.model.action_head)
        return policy

    def load_weights(self, policy: Any, folder: Path, store: ParameterStore) -> None:
        config = policy.config
        store = head_layout(store, config.num_categories, config.default_embodiment_id)
        checkpoint.load_weights(policy, folder, store=store)

    def tokenizer(self, config: Any, folder: Path) -> None:
        """Returns none: the tokenizer is the backbone's, and no step of the preprocessor."""

    def processors(self, config: Any, pre: Any, post: Any) -> tuple[Any, Any]:
        return reconcile_evo1_processors(config, pre, post)

    def normalization(self, pre: Any, post: Any, config: Any, folder: Path) -> Normalization:
        """Reads the statistics, which are as wide as what the policy pads to."""
        padded = SimpleNamespace(
            robot_state_feature=PolicyFeature(FeatureType.STATE, (config.max_state_dim,)),
            action_feature=PolicyFeature(FeatureType.ACTION, (config.max_action_dim,)),
        )
        wide = Normalization.read(pre, post, padded, folder)
        state, action = (
            config.robot_state_feature.shape[0],
            find_step(post, "action_dim").action_dim,
        )
        wrong = [
            f"the statistics move element {i} of the state, which is padding, away from 0"
            for i in range(state, len(wide.state_mean))
            if wide.state_mean[i] != 0
        ]
        wrong += [
            f"{size} numbers of {kind}, wanted 1 to {most} (max_{kind}_dim)"
            for kind, size, most in (
                ("state", state, config.max_state_dim),
                ("action", action, config.max_action_dim),
            )
            if not 1 <= size <= most
        ]
        gripper = config.gripper_index
        if config.binarize_gripper and not 0 <= gripper < action:
            wrong.append(f"gripper_index {gripper} is none of {action} actions")
        elif config.binarize_gripper and wide.action_std[gripper] == 0:
            wrong.append(f"action.std is 0 for the gripper, element {gripper}")
        if wrong:
            raise CheckpointError(f"{folder}: {'; '.join(wrong)}")
        return Normalization(
            wide.state_mean[:state],
            wide.state_std[:state],
            wide.action_mean[:action],
            wide.action_std[:action],
            wide.eps,
        )

    def interface(self, policy: Any, config: Any) -> dict[str, Any]:
        embedder = policy.model.embedder
        before = prompt_before_text(embedder, config.max_views)
        size = config.image_resolution[0]
        resize = f"resize height={size} width={size} filter=bicubic antialias=1 round=1"
        return {
            "driver": "sampling",
            "sampler": sampler(config.num_inference_timesteps),
            "image_height": size,
            "image_width": size,
            "image_steps": (resize,),
            "prompt_template": TEMPLATE,
            "prompt_task_steps": ("strip",),
            "tokenizer_json": plain_tokenizer(embedder.tokenizer),
            "tokenizer_min_length": 1,
            "tokenizer_max_length": config.max_text_length - len(before),
            "tokenizer_pad_id": embedder.tokenizer.pad_token_id or 0,
            "state_padded_dim": config.max_state_dim,
            "action_padded_dim": config.max_action_dim,
            "noise_rows": config.chunk_size,
            "noise_dim": config.max_action_dim,
        }

    def modules(self, loaded: LoadedPolicy) -> dict[str, nn.Module]:
        policy: Any = loaded.policy
        embedder = policy.model.embedder
        before = prompt_before_text(embedder, loaded.config.max_views)
        between = texts_between_images(before, embedder.img_context_token_id)
        mask = policy._prepare_inference_action_mask(1).float()[:, None]
        modules: dict[str, nn.Module] = {
            "vision": Vision(policy),
            "prefix": Prefix(policy, between, len(cameras(loaded.config))),
            "denoise": Denoise(policy, mask),
        }
        if loaded.config.binarize_gripper:
            face, index = loaded.interface, loaded.config.gripper_index
            mean, std = face.action_mean[index], face.action_std[index]
            modules["decode"] = Decode(loaded.config, mean, std)
        return modules

    def draw_time(self, loaded: LoadedPolicy, rng: np.random.Generator) -> float:
        """Draws as the policy's training, whose noise is at t = 0."""
        return 1.0 - float(np.clip(rng.beta(2.0, 2.0), 0.02, 0.98))

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        policy: Any = loaded.policy
        head = policy.model.action_head
        images, seen = policy._collect_image_batches(batch)
        prompts = policy._normalize_task_batch(batch)
        fused, valid = policy._compute_fused_tokens(prompts, images, seen)
        state, _ = policy._prepare_state(batch)
        context, padding, _ = head._prepare_context(fused, state, None, valid)
        clean, mask = policy._prepare_actions(batch)
        noise = torch.erf(noise / math.sqrt(2)) * mask
        clean = clean * mask
        t = 1 - time
        index = (t * 999).long().clamp(0, 999)
        noisy = (1 - t)[:, None, None] * noise + t[:, None, None] * clean
        flow = velocity(head, noisy, head.time_pos_enc(1000)[0, index], context, padding)
        target = (clean - noise).flatten(1)
        return policy._compute_masked_loss(flow.flatten(1), target, mask, "none")

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        policy: Any = loaded.policy
        policy.reset()
        drawn = (torch.erf(noise / math.sqrt(2)) + 1) / 2
        with given_noise(drawn.flatten(1), function=torch.rand):
            return policy.predict_action_chunk(batch)


class WithoutWeights:
    """InternVL by its configuration, in place of transformers' `AutoModel`."""

    @staticmethod
    def from_pretrained(name: str, **_: Any) -> nn.Module:
        config = AutoConfig.from_pretrained(name)
        if config.model_type != "internvl":
            raise CheckpointError(f"the backbone {name} is of {config.model_type}, not internvl")
        return AutoModel.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def check_backbone(policy: Any) -> None:
    """Raises CheckpointError for a backbone that LeRobot's policy, or capture, cannot take.

    Frequencies of rotary embeddings that change beyond a length are fixed: no prompt gets there.
    """
    config, language = policy.config, policy.model.embedder.model.language_model
    if language.config.model_type not in LANGUAGE_MODELS:
        raise CheckpointError(
            f"the backbone {config.vlm_model_name}: its language model is "
            f"{language.config.model_type}, supported: {', '.join(LANGUAGE_MODELS)}"
        )
    wrong = []
    if language.config.hidden_size != config.embed_dim:
        wrong.append(f"its width is {language.config.hidden_size}, embed_dim {config.embed_dim}")
    if language.has_sliding_layers:
        wrong.append("attention in a sliding window is not supported")
    rotary = language.rotary_emb
    if rotary.rope_type == "dynamic" and config.max_text_length <= rotary.original_max_seq_len:
        rotary.rope_type = "default"
    if rotary.rope_type in ("dynamic", "longrope"):
        wrong.append(
            f"rotary embeddings of the type {rotary.rope_type} with prompts of "
            f"{config.max_text_length} tokens are not supported"
        )
    if wrong:
        raise CheckpointError(f"the backbone {config.vlm_model_name}: {'; '.join(wrong)}")


def leave_one_category(head: Any) -> None:
    """Gives layers with weights for several embodiments those of one."""
    for parent in list(head.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, CategorySpecificLinear) and child.num_categories > 1:
                _, columns, rows = child.weight.shape
                setattr(parent, name, CategorySpecificLinear(columns, rows))
    head.num_categories = 1


def head_layout(store: ParameterStore, categories: int, category: int) -> ParameterStore:
    """Weights of a checkpoint under the names, and in the shapes, that the head has in pieces:
    projections that attention packs, and weights for several embodiments, of which one is left."""
    tensors: dict[str, StoredTensor] = {}
    for name, stored in store.items():
        module, _, kind = name.rpartition(".")
        if name.startswith(HEAD) and kind in ("in_proj_weight", "in_proj_bias"):
            rows, *columns = stored.shape
            for index, letter in enumerate("qkv"):
                tensors[f"{module}.{letter}_proj.{kind[8:]}"] = StoredTensor(
                    (rows // 3, *columns), lambda s=stored, i=index: s.read().chunk(3)[i].clone()
                )
        elif (
            name.startswith(HEAD)
            and len(stored.shape) == {"weight": 3, "bias": 2}.get(kind)
            and stored.shape[0] == categories
        ):
            tensors[f"{module}.linear.{kind}"] = StoredTensor(
                stored.shape[:0:-1], lambda s=stored: s.read()[category].t().contiguous()
            )
        else:
            tensors[name] = stored
    return ParameterStore(tensors)


def prompt_before_text(embedder: Any, views: int) -> list[int]:
    """Returns the tokens of a prompt before the last newline, which begins the text.

    Raises CheckpointError if the tokenizer has no tokens for images, or what it makes of a text
    depends on the images before it, and if no room is left for a text.
    """
    tokenizer, name = embedder.tokenizer, embedder.tokenizer.name_or_path

    def tokens(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    (whole,) = embedder._build_multimodal_prompts([[1] * views], [""])
    newline = tokens(TEMPLATE.format(task=""))
    before = tokens(whole)[: -len(newline)]
    if before.count(embedder.img_context_token_id) != views * embedder.num_image_token:
        raise CheckpointError(f"the tokenizer {name} has no token <IMG_CONTEXT>")
    for task in ("", "put the cup on it", "3 Äpfel", "(now)"):
        if tokens(whole + task) != before + tokens(TEMPLATE.format(task=task)):
            raise CheckpointError(f"the tokenizer {name} reads a task not as a text of its own")
    if len(before) + len(newline) >= embedder.max_text_length:
        raise CheckpointError(
            f"max_text_length {embedder.max_text_length} leaves no room for a task behind "
            f"{len(before)} tokens of {views} views (max_views)"
        )
    return before


def texts_between_images(before: list[int], image_token: int) -> list[Tensor]:
    """Cuts tokens at their runs of image tokens: what is before, between and after them."""
    texts: list[list[int]] = [[]]
    for last, token in zip([None, *before], before, strict=False):
        if token != image_token:
            texts[-1].append(token)
        elif last != image_token:
            texts.append([])
    return [torch.tensor(text) for text in texts]
