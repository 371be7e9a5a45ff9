"""Checkpoints of any size with random weights, written tensor by tensor: no model is in memory.

What a real checkpoint costs to load, convert and run does not depend on what its weights learned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import TokenizerProcessorStep
from torch import Tensor, nn

from actquant.common.files import atomic_path

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
BLOCK = 1 << 24
"""Elements that are drawn at once."""
Spread = Callable[[str, tuple[int, ...]], tuple[float, float]]
"""Name and shape of a tensor -> mean and standard deviation of its elements."""


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Products keep the size of their input, norms and variances are near 1, biases near 0."""
    if len(shape) > 1:
        return 0.0, 1 / math.sqrt(math.prod(shape[1:]))
    is_norm = "norm" in name and name.endswith("weight")
    return (1.0, 0.1) if is_norm or name.endswith("running_var") else (0.0, 0.1)


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Returns a module that has shapes and dtypes but no data."""
    with torch.device("meta"):
        return make()


def write_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    spread: Spread = spread,
    seed: int = 0,
    shard_bytes: int | None = None,
) -> list[Path]:
    """Writes random `model.safetensors`, or shards of about `shard_bytes` and their index.

    tensors: shapes and dtypes by name, e.g. the `state_dict` of a module on the meta device. What
    is no floating-point number is zero. Returns the files.
    """
    shards = _shards(tensors, shard_bytes or 1 << 62)
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for index, (name, shard) in enumerate(zip(names, shards, strict=True)):
        _write_file(folder / name, shard, spread, (seed << 16) + index)
    if len(shards) > 1:
        places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(map(_size, tensors.values()))
        index_json = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_json, indent=1))
    return [folder / name for name in names]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shards(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + _size(tensor) > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += _size(tensor)
    return shards


def _write_file(path: Path, tensors: Mapping[str, Tensor], spread: Spread, seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + _size(tensor)
        kind, shape = DTYPES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            mean, deviation = spread(name, tuple(tensor.shape))
            for block in _blocks(tensor, mean, deviation, generator):
                _write(file, block)


def _blocks(
    tensor: Tensor, mean: float, deviation: float, generator: torch.Generator
) -> Iterator[Tensor]:
    for begin in range(0, tensor.numel(), BLOCK):
        count = min(BLOCK, tensor.numel() - begin)
        if tensor.dtype.is_floating_point:
            drawn = torch.randn(count, generator=generator, device="cpu")
            yield drawn.mul_(deviation).add_(mean).to(tensor.dtype)
        else:
            yield torch.zeros(count, dtype=tensor.dtype, device="cpu")


def _write(file: BinaryIO, block: Tensor) -> None:
    file.write(block.view(torch.uint8).numpy().data)


def statistics(size: int, seed: int) -> dict[str, Tensor]:
    """Returns made-up statistics of a feature: all that any normalisation mode reads."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(size, generator=generator)
    width = 0.5 + torch.rand(size, generator=generator)
    return {
        **{"mean": low + width / 2, "std": width / 2},
        **{"min": low - 0.1, "max": low + width + 0.1},
        **{"q01": low, "q99": low + width, "q10": low + 0.1 * width, "q90": low + 0.9 * width},
    }


def save_processors(folder: Path, config: Any, tokenizer: Any, tokenizer_name: str) -> None:
    """LeRobot's own processors for `config`, with made-up statistics and the given tokenizer, which
    the file names `tokenizer_name`."""
    features = {
        "observation.state": config.robot_state_feature,
        "action": config.action_feature,
    }
    stats = {
        key: statistics(feature.shape[0], seed)
        for seed, (key, feature) in enumerate(features.items(), 1)
        if feature is not None
    }
    # Some policies' processors name a tokenizer of the hub; nothing is to be fetched here.
    source = "lerobot.processor.tokenizer_processor.AutoTokenizer.from_pretrained"
    with mock.patch(source, return_value=tokenizer):
        pipelines: Any = make_pre_post_processors(config, dataset_stats=stats)
    for pipeline, kind in zip(pipelines, ("pre", "post"), strict=True):
        for step in pipeline.steps:
            if isinstance(step, TokenizerProcessorStep):
                step.tokenizer_name = tokenizer_name
        pipeline.save_pretrained(folder, config_filename=f"policy_{kind}processor.json")
