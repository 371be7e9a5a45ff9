"""Build the reference policy: a small SmolVLAPolicy and its tokenizer, as a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actquant.common.files import atomic_folder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CAMERAS = ("observation.images.scene", "observation.images.wrist")
STATE, ACTION = "observation.state", "action"
STATE_DIM, ACTION_DIM = 13, 7
SPECIALS = {
    "end_of_text": "<|endoftext|>",
    "start": "<|im_start|>",
    "end": "<|im_end|>",
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance": "<end_of_utterance>",
    "video_token": "<video>",
}
VLM_FOLDER = "vlm"
TEXT_MODEL = "model.vlm_with_expert.vlm.model.text_model."


@dataclass(frozen=True)
class PolicySize:
    """Every dimension of the policy that we choose."""

    width: int = 256
    intermediate: int = 512
    heads: int = 4
    kv_heads: int = 2
    layers: int = 5
    vision_layers: int = 4
    image_size: int = 96
    patch: int = 16
    scale_factor: int = 2
    vocab: int = 512
    prompt_length: int = 16
    chunk: int = 8
    action_steps: int = 4
    flow_steps: int = 5
    padded_state: int = 16
    vision_width: int = 0  # 0: as wide as the language model
    expert_width: int = 0  # 0: as wide as the language model
    pretrained: bool = False  # the language model: SmolLM2-135M, frozen

    @property
    def vision(self) -> int:
        return self.vision_width or self.width

    @property
    def vision_intermediate(self) -> int:
        return 2 * self.vision_width or self.intermediate

    @property
    def expert(self) -> int:
        return self.expert_width or self.width

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def image_tokens(self) -> int:
        return (self.image_size // self.patch) ** 2 // self.scale_factor**2


def train_tokenizer(instructions: list[str], folder: Path, vocab: int) -> None:
    """Trains byte-level BPE in SmolLM2's format on the instructions alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{text}\n" for text in sorted(set(instructions))], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_tokenizer_config(folder)


def write_pretrained_tokenizer(folder: Path) -> None:
    """Writes SmolLM2's tokenizer with SmolVLM's special tokens after its own."""
    from smollm2 import load_tokenizer

    tokenizer = load_tokenizer().backend_tokenizer
    tokenizer.add_special_tokens(list(SPECIALS.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_tokenizer_config(folder)


def write_tokenizer_config(folder: Path) -> None:
    """Writes which tokens are special, by the names that SmolVLM's processor asks for."""
    names = {k: SPECIALS[k] for k in ("fake_image_token", "image_token", "global_image_token")}
    names["end_of_utterance_token"] = SPECIALS["end_of_utterance"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS["start"],
        "eos_token": SPECIALS["end_of_utterance"],
        "pad_token": SPECIALS["end"],
        "unk_token": SPECIALS["end_of_text"],
        "model_max_length": 8192,
        "extra_special_tokens": names,
        **names,
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def vlm_config(size: PolicySize, folder: Path) -> dict[str, Any]:
    """Returns SmolVLM's config.json at our size, for the tokenizer in a folder."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pad = tokenizer.token_to_id(SPECIALS["end"])
    text = {
        "model_type": "llama",
        "hidden_size": size.width,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "vocab_size": size.vocab,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "pad_token_id": pad,
    }
    vision = {
        "model_type": "smolvlm_vision",
        "hidden_size": size.vision,
        "intermediate_size": size.vision_intermediate,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision // size.head_dim,
        "image_size": size.image_size,
        "patch_size": size.patch,
        "hidden_act": "gelu_pytorch_tanh",
    }
    return {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": tokenizer.token_to_id(SPECIALS["image_token"]),
        "scale_factor": size.scale_factor,
        "tie_word_embeddings": False,
        "pad_token_id": pad,
        "text_config": text,
        "vision_config": vision,
        "torch_dtype": "float32",
    }


def write_vlm_folder(folder: Path, instructions: list[str], size: PolicySize) -> None:
    """Writes the folder that `vlm_model_name` points to: configs and tokenizer, no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if size.pretrained:
        write_pretrained_tokenizer(folder)
    else:
        train_tokenizer(instructions, folder, size.vocab)
    write_json(folder / "config.json", vlm_config(size, folder))
    edge = {"longest_edge": size.image_size}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "size": edge,
            "max_image_size": edge,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "do_image_splitting": False,
            "do_pad": True,
            "resample": 1,
            "rescale_factor": 1 / 255,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": edge},
        },
    )
    processor = {"processor_class": "SmolVLMProcessor", "image_seq_len": size.image_tokens}
    write_json(folder / "processor_config.json", processor)


def policy_config(vlm_name: str, size: PolicySize) -> Any:
    """Returns lerobot's configuration of the policy, every part trainable."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    image = (3, size.image_size, size.image_size)
    features = {key: PolicyFeature(type=FeatureType.VISUAL, shape=image) for key in CAMERAS}
    features[STATE] = PolicyFeature(type=FeatureType.STATE, shape=(STATE_DIM,))
    return SmolVLAConfig(
        vlm_model_name=vlm_name,
        load_vlm_weights=False,
        resize_imgs_with_padding=(size.image_size, size.image_size),
        device="cpu",
        input_features=features,
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(ACTION_DIM,))},
        chunk_size=size.chunk,
        n_action_steps=size.action_steps,
        max_state_dim=size.padded_state,
        max_action_dim=ACTION_DIM,
        num_steps=size.flow_steps,
        tokenizer_max_length=size.prompt_length,
        pad_language_to="max_length",
        num_vlm_layers=size.layers,
        expert_width_multiplier=size.expert / size.width,
        self_attn_every_n_layers=2,
        attention_mode="cross_attn",
        empty_cameras=0,
        freeze_vision_encoder=False,
        train_expert_only=False,
    )


@contextlib.contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Enters a checkpoint, so that relative names in it (`vlm`) resolve."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def build_policy(folder: Path, size: PolicySize, seed: int) -> Any:
    """Builds a fresh policy from the VLM folder inside `folder`, with every parameter trainable but
    those that are pretrained."""
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    torch.manual_seed(seed)
    with working_directory(folder), contextlib.redirect_stdout(None):
        policy = SmolVLAPolicy(policy_config(VLM_FOLDER, size))
    if size.pretrained:
        from smollm2 import text_weights

        weights = text_weights(size.layers, size.vocab).items()
        policy.load_state_dict({TEXT_MODEL + n: v for n, v in weights}, strict=False)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not is_frozen(name, size))
    return policy.eval()


def is_frozen(parameter: str, size: PolicySize) -> bool:
    """Returns whether a parameter is pretrained, and stays as it is."""
    return size.pretrained and (parameter.startswith(TEXT_MODEL) or ".lm_head." in parameter)


def load_policy(folder: Path) -> Any:
    """Loads a saved checkpoint, through lerobot's own loader."""
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    with working_directory(folder), contextlib.redirect_stdout(None):
        return SmolVLAPolicy.from_pretrained(".").eval()


def load_processors(folder: Path) -> tuple[Any, Any]:
    """Loads the pre- and post-processor of a saved checkpoint."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors

    with working_directory(folder):
        config = PreTrainedConfig.from_pretrained(".")
        return make_pre_post_processors(config, pretrained_path=".")


def save_checkpoint(
    policy: Any, stats: dict[str, dict[str, torch.Tensor]], vlm: Path, folder: Path
) -> None:
    """Writes weights, config, processors and the VLM folder, replacing `folder` at the end.

    Weights are stored in float16, which halves the folder; loaders widen them to float32 again.
    """
    from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors

    with atomic_folder(folder) as draft:
        shutil.copytree(vlm, draft / VLM_FOLDER)
        half = {name: value.half() for name, value in policy.state_dict().items()}
        policy.save_pretrained(draft, state_dict=half)
        with working_directory(draft):
            for part in make_smolvla_pre_post_processors(policy.config, stats):
                part.save_pretrained(".")


def assert_prompts_fit(vlm: Path, instructions: list[str], length: int) -> int:
    """Checks that every instruction and its newline fit; returns the longest count."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(vlm))
    counts = {text: len(tokenizer(f"{text}\n")["input_ids"]) for text in instructions}
    worst = max(counts, key=lambda text: counts[text])
    if counts[worst] > length:
        raise ValueError(f"{worst!r} takes {counts[worst]} tokens; the policy holds {length}")
    return counts[worst]


def tokenize(vlm: Path, instructions: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and mask [n, length], as the processors give them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(vlm))
    out = tokenizer(
        [f"{text}\n" for text in instructions],
        padding="max_length",
        padding_side="right",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    return out["input_ids"], out["attention_mask"].bool()


def main() -> None:
    """Builds an untrained policy, reports its size and writes it as a checkpoint."""
    from simulation import all_instructions

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = PolicySize()
    instructions = all_instructions()
    with tempfile.TemporaryDirectory() as name:
        vlm = Path(name) / VLM_FOLDER
        write_vlm_folder(vlm, instructions, size)
        longest = assert_prompts_fit(vlm, instructions, size.prompt_length)
        policy = build_policy(Path(name), size, args.seed)
        stats = {
            STATE: {"mean": torch.zeros(STATE_DIM), "std": torch.ones(STATE_DIM)},
            ACTION: {"mean": torch.zeros(ACTION_DIM), "std": torch.ones(ACTION_DIM)},
        }
        save_checkpoint(policy, stats, vlm, args.out)
    count = sum(p.numel() for p in policy.parameters())
    print(
        f"{count / 1e6:.2f} M parameters, longest prompt {longest} of {size.prompt_length} tokens"
    )


if __name__ == "__main__":
    main()
