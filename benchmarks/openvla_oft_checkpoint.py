"""OpenVLA-OFT in its published layout with random weights, of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_checkpoint import spread, write_weights
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from torch import Tensor

TOWERS = ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]
SPACE = "▁"
STEP = 150
WORDS = (
    *("Out", f"{SPACE}In", f"{SPACE}What", f"{SPACE}action", f"{SPACE}should", f"{SPACE}the"),
    *(f"{SPACE}robot", f"{SPACE}take", f"{SPACE}to", f"{SPACE}put", f"{SPACE}bowl"),
    *(f"{SPACE}plate", f"{SPACE}on", "ck"),
)
"""Tokens beside letters and bytes."""


@dataclass(frozen=True)
class Sizes:
    """Of the published checkpoints are the sizes of `PUBLISHED`."""

    image: int = 28
    dino: tuple[int, int, int] = (32, 96, 3)
    """Width, width of the MLPs, blocks."""
    siglip: tuple[int, int, int] = (48, 100, 3)
    language: tuple[int, int, int] = (64, 96, 2)
    heads: int = 4
    vocabulary: int = 448
    state_dim: int | None = 8
    action_dim: int = 7

    @property
    def projector(self) -> int:
        return 4 * (self.dino[0] + self.siglip[0])


PUBLISHED = Sizes(
    image=224,
    dino=(1024, 4096, 24),
    siglip=(1152, 4304, 27),
    language=(4096, 11008, 32),
    heads=32,
    vocabulary=32064,
)


def tower_shapes(prefix: str, width: int, hidden: int, blocks: int, sizes: Sizes, dino: bool):
    yield f"{prefix}patch_embed.proj.weight", (width, 3, 14, 14)
    yield f"{prefix}patch_embed.proj.bias", (width,)
    yield f"{prefix}pos_embed", (1, (sizes.image // 14) ** 2, width)
    if dino:
        yield f"{prefix}cls_token", (1, 1, width)
        yield f"{prefix}reg_token", (1, 4, width)
    for index in range(blocks):
        block = f"{prefix}blocks.{index}."
        yield from linear(f"{block}attn.qkv", 3 * width, width)
        yield from linear(f"{block}attn.proj", width, width)
        yield from linear(f"{block}mlp.fc1", hidden, width)
        yield from linear(f"{block}mlp.fc2", width, hidden)
        yield from norm(f"{block}norm1", width)
        yield from norm(f"{block}norm2", width)
        if dino:
            yield f"{block}ls1.scale_factor", (width,)
            yield f"{block}ls2.scale_factor", (width,)
    yield from norm(f"{prefix}norm", width)
    if not dino:
        pool = f"{prefix}attn_pool."
        yield f"{pool}latent", (1, 1, width)
        yield from linear(f"{pool}q", width, width)
        yield from linear(f"{pool}kv", 2 * width, width)
        yield from linear(f"{pool}proj", width, width)
        yield from norm(f"{pool}norm", width)
        yield from linear(f"{pool}mlp.fc1", hidden, width)
        yield from linear(f"{pool}mlp.fc2", width, hidden)


def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def model_shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Returns name and shape of every tensor of the shards."""
    yield from tower_shapes("vision_backbone.featurizer.", *sizes.dino, sizes, dino=True)
    yield from tower_shapes("vision_backbone.fused_featurizer.", *sizes.siglip, sizes, dino=False)
    width, hidden, layers = sizes.language
    yield from linear("projector.fc1", sizes.projector, sizes.dino[0] + sizes.siglip[0])
    yield from linear("projector.fc2", width, sizes.projector)
    yield from linear("projector.fc3", width, width)
    yield "language_model.model.embed_tokens.weight", (sizes.vocabulary, width)
    for index in range(layers):
        layer = f"language_model.model.layers.{index}."
        for name in "qkvo":
            yield f"{layer}self_attn.{name}_proj.weight", (width, width)
        yield f"{layer}mlp.gate_proj.weight", (hidden, width)
        yield f"{layer}mlp.up_proj.weight", (hidden, width)
        yield f"{layer}mlp.down_proj.weight", (width, hidden)
        yield f"{layer}input_layernorm.weight", (width,)
        yield f"{layer}post_attention_layernorm.weight", (width,)
    yield "language_model.model.norm.weight", (width,)
    yield "language_model.lm_head.weight", (sizes.vocabulary, width)


def head_shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = sizes.language[0]
    inputs = width * sizes.action_dim
    yield from norm("model.layer_norm1", inputs)
    yield from linear("model.fc1", width, inputs)
    for index in range(2):
        yield from norm(f"model.mlp_resnet_blocks.{index}.ffn.0", width)
        yield from linear(f"model.mlp_resnet_blocks.{index}.ffn.1", width, width)
    yield from norm("model.layer_norm2", width)
    yield from linear("model.fc2", sizes.action_dim, width)


def state_shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = sizes.language[0]
    if sizes.state_dim is not None:
        yield from linear("fc1", width, sizes.state_dim)
        yield from linear("fc2", width, width)


def oft_spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Embeddings and layer scales that matter."""
    if name.endswith("embed_tokens.weight"):
        return 0.0, 1.0
    if name.endswith("scale_factor"):
        return 1.0, 0.1
    if name.endswith(("pos_embed", "_token", "latent")):
        return 0.0, 0.1
    return spread(name, shape)


def empty(shapes: Iterator[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes}


def part(shapes: Iterator[tuple[str, tuple[int, ...]]], seed: int) -> dict[str, Tensor]:
    """Returns what `torch.save` gets of an action head or a state projector."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes:
        # `ffn.0` is a norm, whose name does not say so.
        mean, deviation = oft_spread(name.replace("ffn.0.", "norm."), shape)
        values = torch.randn(shape, generator=generator)
        tensors[name] = values.mul_(deviation).add_(mean).to(torch.bfloat16)
    return tensors


def build_tokenizer(file: Path) -> None:
    """As Llama 2's tokenizer.json: byte-fallback BPE, a space in front, `<s>` first."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    letters = "abcdefghijklmnopqrstuvwxyzIOW?:" + SPACE
    vocab |= {letter: len(vocab) + index for index, letter in enumerate(letters)}
    merges = []
    for word in WORDS:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocab:
                merges.append((word[:end], word[end]))
                vocab[word[: end + 1]] = len(vocab)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    special = ("<unk>", "<s>", "</s>")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_special_tokens([AddedToken("<PAD>", normalized=False)])
    tokenizer.save(str(file))


def statistics(size: int, generator: torch.Generator, masked: tuple[int, ...] = ()) -> dict:
    centre, half = (
        torch.randn(size, generator=generator),
        0.5 + torch.rand(size, generator=generator),
    )
    mask = [index not in masked for index in range(size)]
    low, high = centre - half, centre + half
    ends = {"q01": low, "q99": high, "min": low - 0.25, "max": high + 0.25}
    moments = {"mean": centre, "std": half / 2}
    values = {name: value.tolist() for name, value in {**moments, **ends}.items()}
    return {**values, "mask": mask} if masked else values


def build_openvla_oft(
    folder: str | Path,
    sizes: Sizes | None = None,
    *,
    seed: int = 0,
    shard_bytes: int = 300_000,
    ddp: bool = True,
    datasets: tuple[str, ...] = ("libero_spatial_no_noops",),
    **config: Any,
) -> Path:
    """Writes a checkpoint folder; returns it. `ddp`: keys of the parts begin with `module.`."""
    folder, sizes = Path(folder), sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = empty(model_shapes(sizes))
    write_weights(folder, tensors, spread=oft_spread, seed=seed, shard_bytes=shard_bytes)
    prefix = "module." if ddp else ""
    for name, shapes in (("action_head", head_shapes), ("proprio_projector", state_shapes)):
        values = {prefix + k: v for k, v in part(shapes(sizes), seed + len(name)).items()}
        if values:
            torch.save(values, folder / f"{name}--{STEP}_checkpoint.pt")
    generator = torch.Generator().manual_seed(seed)
    build_tokenizer(folder / "tokenizer.json")
    data = {
        name: {
            "action": statistics(sizes.action_dim, generator, masked=(sizes.action_dim - 1,)),
            "proprio": statistics(sizes.state_dim or 8, generator),
            "num_transitions": 1000,
            "num_trajectories": 10,
        }
        for name in datasets
    }
    text = {"model_type": "llama", "pad_token_id": 32000, "vocab_size": sizes.vocabulary}
    if sizes.heads != 32:
        text["num_attention_heads"] = sizes.heads
    settings = {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "image_sizes": [sizes.image] * 2,
        "llm_backbone_id": "llama2-7b-pure",
        "n_action_bins": 256,
        "pad_to_multiple_of": 64,
        "pad_token_id": 0 if sizes.vocabulary < 32000 else 32000,
        "text_config": text,
        "timm_model_ids": TOWERS,
        "timm_override_act_layers": [None, None],
        "torch_dtype": "bfloat16",
        "use_fused_vision_backbone": True,
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        **config,
    }
    preprocessor = {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, sizes.image, sizes.image]] * 2,
        "interpolations": ["bicubic", "bicubic"],
        "means": [[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]],
        "stds": [[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]],
        "use_fused_vision_backbone": True,
    }
    files = {
        "config.json": settings,
        "preprocessor_config.json": preprocessor,
        "dataset_statistics.json": data,
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder
