"""Keys and values on their way from the stage `prefix` to `denoise`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import DynamicCache


def key_value_outputs(cache: Any) -> dict[str, Tensor]:
    """Returns a transformers cache as outputs of a stage: `keys_<layer>`, `values_<layer>`."""
    outputs = {}
    for index, layer in enumerate(cache.layers):
        outputs[f"keys_{index}"] = layer.keys
        outputs[f"values_{index}"] = layer.values
    return outputs


def key_value_cache(inputs: Mapping[str, Tensor]) -> tuple[DynamicCache, dict[str, Tensor]]:
    """Returns (the cache that `key_value_outputs` took apart, the inputs that are none of it)."""
    others = dict(inputs)
    cache = DynamicCache()
    for index in range(sum(name.startswith("keys_") for name in inputs)):
        cache.update(others.pop(f"keys_{index}"), others.pop(f"values_{index}"), index)
    return cache, others
