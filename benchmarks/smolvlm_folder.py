"""The folder that a SmolVLA names as its backbone: SmolVLM2-500M's configuration and a made-up
tokenizer of its kind and size, byte-level BPE. No weights: a checkpoint of SmolVLA has them all."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

from gemma_tokenizer import merges_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPACE = "Ġ"
SPECIAL = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL.values())

# From HuggingFaceTB/SmolVLM2-500M-Video-Instruct's config.json.
TEXT = {
    "model_type": "llama",
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "vocab_size": 49280,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
VISION = {
    "model_type": "smolvlm_vision",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
}
SCALE_FACTOR = 4


def byte_level_tokenizer(size: int) -> Tokenizer:
    """Builds a tokenizer of `size` tokens: all bytes, as many merges of letters as fit, the special
    tokens last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    count = size - len(alphabet) - len(TOKENS)
    if count < 0:
        raise ValueError(
            f"a byte-level tokenizer has at least {len(alphabet) + len(TOKENS)} tokens, not {size}"
        )
    merges = list(itertools.islice(merges_of(SPACE + string.ascii_lowercase), count))
    tokens = [*alphabet, *(left + right for left, right in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(TOKENS))
    return tokenizer


def write_smolvlm_folder(
    folder: Path,
    text: dict[str, Any] = TEXT,
    vision: dict[str, Any] = VISION,
    scale_factor: int = SCALE_FACTOR,
    dtype: str = "bfloat16",
) -> Path:
    """Writes configuration, processors and tokenizer; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_tokenizer(text["vocab_size"])
    tokenizer.save(str(folder / "tokenizer.json"))
    image, patch = vision["image_size"], vision["patch_size"]
    padding = tokenizer.token_to_id("<|im_end|>")
    edge = {"longest_edge": image}
    files: dict[str, dict[str, Any]] = {
        "config.json": {
            "architectures": ["SmolVLMForConditionalGeneration"],
            "model_type": "smolvlm",
            "image_token_id": tokenizer.token_to_id("<image>"),
            "scale_factor": scale_factor,
            "tie_word_embeddings": False,
            "pad_token_id": padding,
            "torch_dtype": dtype,
            "text_config": {**text, "pad_token_id": padding},
            "vision_config": vision,
        },
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "size": edge,
            "max_image_size": edge,
            "do_image_splitting": False,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": edge},
        },
        "processor_config.json": {
            "processor_class": "SmolVLMProcessor",
            "image_seq_len": (image // patch // scale_factor) ** 2,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": SPECIAL["end_of_utterance_token"],
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 8192,
            "extra_special_tokens": SPECIAL,
            **SPECIAL,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder
