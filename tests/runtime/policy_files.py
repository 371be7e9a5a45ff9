"""Writes small policy files by hand, straight from docs/format.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from actquant.format.checksums import HEADER_KEY, TENSORS_KEY, seal

HEIGHT, WIDTH = 6, 12
TOKENS, TOKEN_WIDTH = 2, 8
MIN_PROMPT_LENGTH, PROMPT_LENGTH = 2, 6
STEPS = 4
CHUNK, ACTION_DIM, ACTION_PADDED = 3, 2, 4
STATE_DIM, STATE_PADDED = 3, 5
VOCABULARY = {"[UNK]": 0, "[BOS]": 1, "push": 2, "the": 3, "red": 4, "cube": 5, "\n": 6, "[PAD]": 7}


def tokenizer_json(vocabulary: dict[str, int] = VOCABULARY) -> str:
    model = models.BPE(vocabulary, [], unk_token="[UNK]", ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 1)]
    )
    return tokenizer.to_str()


EULER_STEP = (0.0, 0.0, 0.0, 0.0, 1.0, -1 / STEPS, 0.0, 0.0)
"""A step of the sampler: x - output / STEPS."""


def default_keys() -> dict[str, tuple[str, Any]]:
    return {
        "general.name": ("string", "tiny"),
        "actquant.format_version": ("uint32", 3),
        "actquant.policy.family": ("string", "test"),
        "actquant.policy.parameter_count": ("uint64", 1000),
        "actquant.driver": ("string", "sampling"),
        "actquant.sampler.timesteps": ("array", [1 - k / STEPS for k in range(STEPS)]),
        "actquant.sampler.coefficients": ("array", [*EULER_STEP] * STEPS),
        "actquant.noise.rows": ("uint32", CHUNK),
        "actquant.noise.dim": ("uint32", ACTION_PADDED),
        "actquant.cameras": ("array", ["observation.images.scene", "observation.images.wrist"]),
        "actquant.cameras.optional": ("uint32", 1),
        "actquant.image.height": ("uint32", HEIGHT),
        "actquant.image.width": ("uint32", WIDTH),
        "actquant.image.source_height": ("uint32", HEIGHT),
        "actquant.image.source_width": ("uint32", WIDTH),
        "actquant.image.scale": ("float32", 2.0),
        "actquant.image.offset": ("float32", -1.0),
        "actquant.observation.steps": ("uint32", 1),
        "actquant.prompt.template": ("string", "{task}"),
        "actquant.prompt.state_bins": ("uint32", 0),
        "actquant.tokenizer.json": ("string", tokenizer_json()),
        "actquant.tokenizer.min_length": ("uint32", MIN_PROMPT_LENGTH),
        "actquant.tokenizer.max_length": ("uint32", PROMPT_LENGTH),
        "actquant.tokenizer.pad_id": ("uint32", 7),
        "actquant.tokenizer.suffix": ("string", " \n"),
        "actquant.state.names": ("array", ["a_rad", "b_rad", "c_m"]),
        "actquant.state.mean": ("array", [0.1, -0.2, 0.3]),
        "actquant.state.std": ("array", [0.5, 1.5, 2.5]),
        "actquant.state.padded_dim": ("uint32", STATE_PADDED),
        "actquant.action.names": ("array", ["x_m", "y_m"]),
        "actquant.action.mean": ("array", [0.5, -0.5]),
        "actquant.action.std": ("array", [0.25, 4.0]),
        "actquant.action.padded_dim": ("uint32", ACTION_PADDED),
        "actquant.normalization.eps": ("float32", 1e-6),
        "actquant.action.chunk_length": ("uint32", CHUNK),
        "actquant.action.steps_per_chunk": ("uint32", CHUNK),
        "actquant.control_rate_hz": ("float32", 10.0),
        "actquant.provenance": ("string", json.dumps({"tool": "test"})),
        "actquant.allocation": ("string", "{}"),
        "actquant.golden": ("string", "[]"),
    }


EMBEDDING = f"f32[1,{TOKENS},{TOKEN_WIDTH}]"
PATCHES = "stride=[6,6] pad=[0,0] dil=[1,1] groups=1"
PROGRAMS = {
    "vision": f"""
%0 = input f32[1,3,{HEIGHT},{WIDTH}] name=image
%1 = conv2d f32[1,{TOKEN_WIDTH},1,{TOKENS}] %0 @patch.w @patch.b {PATCHES}
%2 = reshape f32[1,{TOKEN_WIDTH},{TOKENS}] %1 shape=[1,{TOKEN_WIDTH},{TOKENS}]
%3 = permute {EMBEDDING} %2 perm=[0,2,1]
output embedding %3
""",
    "prefix": f"""
%0 = input {EMBEDDING} name=image_embedding_0
%1 = input b8[1] name=image_mask_0
%2 = input {EMBEDDING} name=image_embedding_1
%3 = input b8[1] name=image_mask_1
%4 = input i64[1,L] name=tokens
%5 = input b8[1,L] name=token_mask
%6 = input f32[1,{STATE_PADDED}] name=state
%7 = embedding f32[1,L,{TOKEN_WIDTH}] @vocabulary %4
%8 = linear f32[1,{TOKEN_WIDTH}] %6 @state.w
%9 = reshape f32[1,1,{TOKEN_WIDTH}] %8 shape=[1,1,{TOKEN_WIDTH}]
%10 = concat f32[1,5+L,{TOKEN_WIDTH}] %0 %2 %7 %9 dim=1
%11 = host.reshape b8[1,1] %1 shape=[1,1]
%12 = host.expand b8[1,{TOKENS}] %11 shape=[1,{TOKENS}]
%13 = host.reshape b8[1,1] %3 shape=[1,1]
%14 = host.expand b8[1,{TOKENS}] %13 shape=[1,{TOKENS}]
%15 = host.le b8[1,1] %11 %11
%16 = host.concat b8[1,5+L] %12 %14 %5 %15 dim=1
output keys %10
output key_mask %16
""",
    "denoise": f"""
%0 = input f32[1,{CHUNK},{ACTION_PADDED}] name=x_t
%1 = input i64[1] name=step
%2 = input f32[1,5+L,{TOKEN_WIDTH}] name=keys
%3 = input b8[1,5+L] name=key_mask
%4 = linear f32[1,{CHUNK},{TOKEN_WIDTH}] %0 @q.w
%5 = reshape f32[1,{CHUNK},2,4] %4 shape=[1,{CHUNK},2,4]
%6 = permute f32[1,2,{CHUNK},4] %5 perm=[0,2,1,3]
%7 = linear f32[1,5+L,{TOKEN_WIDTH}] %2 @k.w @k.b
%8 = reshape f32[1,5+L,2,4] %7 shape=[1,5+L,2,4]
%9 = permute f32[1,2,5+L,4] %8 perm=[0,2,1,3]
%10 = host.reshape b8[1,1,1,5+L] %3 shape=[1,1,1,5+L]
%11 = sdpa f32[1,2,{CHUNK},4] %6 %9 %9 %10 scale=0.5 causal=0
%12 = permute f32[1,{CHUNK},2,4] %11 perm=[0,2,1,3]
%13 = reshape f32[1,{CHUNK},{TOKEN_WIDTH}] %12 shape=[1,{CHUNK},{TOKEN_WIDTH}]
%14 = linear f32[1,{CHUNK},{ACTION_PADDED}] %13 @out.w
%15 = embedding f32[1,1] @times %1
%16 = reshape f32[1,1,1] %15 shape=[1,1,1]
%17 = mul f32[1,{CHUNK},{ACTION_PADDED}] %14 %16
%18 = add f32[1,{CHUNK},{ACTION_PADDED}] %17 %0
output output %18
""",
}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return {
        "patch.w": 0.1 * normal(TOKEN_WIDTH, 3, 6, 6),
        "patch.b": normal(TOKEN_WIDTH),
        "vocabulary": normal(len(VOCABULARY), TOKEN_WIDTH),
        "state.w": normal(TOKEN_WIDTH, STATE_PADDED),
        "q.w": normal(TOKEN_WIDTH, ACTION_PADDED),
        "k.w": normal(TOKEN_WIDTH, TOKEN_WIDTH),
        "k.b": normal(TOKEN_WIDTH),
        "times": np.linspace(1, 0, STEPS, endpoint=False, dtype=np.float32)[:, None],
        "out.w": normal(ACTION_PADDED, TOKEN_WIDTH),
    }


ONE_SHOT: dict[str, tuple[str, Any] | None] = {
    "actquant.driver": ("string", "one_shot"),
    "actquant.sampler.timesteps": None,
    "actquant.sampler.coefficients": None,
    "actquant.noise.rows": ("uint32", 0),
    "actquant.noise.dim": ("uint32", 0),
}
ONE_SHOT_PREFIX = f"""
%0 = input {EMBEDDING} name=image_embedding_0
%1 = linear f32[1,2,4] %0 @out.w
%2 = slice f32[1,1,4] %1 dim=1 start=1 end=2
%3 = concat f32[1,3,4] %1 %2 dim=1
output actions %3
"""


class Packed:
    """A weight in a ggml type: its rows' bytes and its logical shape."""

    def __init__(self, data: np.ndarray, type_name: str, shape: Sequence[int]):
        self.data = data
        self.type = gguf.GGMLQuantizationType[type_name]
        self.shape = tuple(shape)


def write_policy(
    path: Path,
    *,
    tensors: Mapping[str, np.ndarray | Packed] | None = None,
    programs: Mapping[str, str | None] | None = None,
    keys: Mapping[str, tuple[str, Any] | None] | None = None,
    shapes: str | None = None,
    architecture: str = "actquant",
) -> Path:
    """A whole, valid policy but for what the arguments change; a key or program of None is
    left out."""
    all_tensors = {**weights(), **(tensors or {})}
    all_programs = {k: v for k, v in {**PROGRAMS, **(programs or {})}.items() if v is not None}
    writer = gguf.GGUFWriter(path, architecture)
    all_keys: dict[str, tuple[str, Any] | None] = {**default_keys()}
    all_keys["actquant.stages"] = ("array", list(all_programs))
    for stage, text in all_programs.items():
        all_keys[f"actquant.graph.{stage}"] = ("string", text.strip())
    lines = []
    for name, value in all_tensors.items():
        lines.append(f"{name} [{','.join(map(str, value.shape))}]")
        if isinstance(value, Packed):
            writer.add_tensor(name, value.data, raw_dtype=value.type)
        else:
            stored = value.astype(np.int8) if value.dtype == np.bool_ else value
            writer.add_tensor(name, np.ascontiguousarray(stored.reshape(stored.shape or (1,))))
    all_keys["actquant.shapes"] = ("string", shapes if shapes is not None else "\n".join(lines))
    all_keys[HEADER_KEY] = ("uint64", 0)
    all_keys |= keys or {}
    for key, entry in all_keys.items():
        if entry is not None and entry[1] != []:  # empty lists are not written
            kind, content = entry
            if kind == "string":  # `add_string` leaves out an empty one
                writer.add_key_value(key, content, gguf.GGUFValueType.STRING)
            else:
                getattr(writer, f"add_{kind}")(key, content)
    none = [0] * len(all_tensors)
    u64 = gguf.GGUFValueType.UINT64
    writer.add_key_value(TENSORS_KEY, none, gguf.GGUFValueType.ARRAY, sub_type=u64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if all_keys[HEADER_KEY] is not None:
        seal(path)
    return path


def write_one_shot(
    path: Path,
    prefix: str = ONE_SHOT_PREFIX,
    keys: Mapping[str, tuple[str, Any] | None] | None = None,
) -> Path:
    """A policy whose prefix gives the chunk."""
    programs = {"prefix": prefix, "denoise": None}
    return write_policy(path, programs=programs, keys={**ONE_SHOT, **(keys or {})})


def observation(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "observation.images.scene": random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        "observation.images.wrist": random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        "observation.state": random.normal(size=STATE_DIM).astype(np.float32),
        "task": "push the red cube",
    }


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(CHUNK, ACTION_PADDED)).astype(np.float32)
