"""Files that no writer of ours makes: each is refused when it is opened, in one message that names
the culprit; none stops the process, fills the memory or takes long (docs/format.md, "Limits")."""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from actquant_runtime import ArgumentError, ModelFileError, Runtime
from actquant_runtime._core import Tokenizer
from native_build import newest_build
from policy_files import PROGRAMS, Packed, noise, observation, weights, write_policy

LONGEST_S = 20.0
"""Far above what any refusal takes here, and far below what these files took."""


def refusal(path: Path | str) -> str:
    begin = time.monotonic()
    with pytest.raises(ModelFileError) as caught:
        Runtime(path, threads=1)
    assert time.monotonic() - begin < LONGEST_S
    message = str(caught.value)
    assert len(message.encode()) <= 8192
    assert not any(c < " " for c in message.replace("\n  - ", ""))
    return message


def with_prefix(*lines: str, tensors=None, **more):
    """Arguments of a policy whose prefix ends with these lines on its state, %0 f32[1,5]; the last
    is what it gives."""
    last = lines[-1].split(" ", 1)[0]
    text = "\n".join(["%0 = input f32[1,5] name=state", *lines, f"output result {last}"])
    denoise = "%0 = input f32[1,3,4] name=x_t\n%1 = sqr f32[1,3,4] %0\noutput output %1"
    programs = {"prefix": text, "denoise": denoise}
    return {"programs": programs, "tensors": tensors or {}, **more}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


IMAGE = "%1 = reshape f32[1,1,1,5] %0"

PROGRAM_CASES = {
    "product of sizes overflows": (
        with_prefix("%1 = expand f32[4294967296,4294967296] %0"), "%1", "more than 268435456"),
    "size is negative": (with_prefix("%1 = reshape f32[-1,-5] %0"), "%1", "empty dimension"),
    "size is 0": (with_prefix("%1 = reshape f32[0,5] %0"), "%1", "empty dimension"),
    "value is huge": (with_prefix("%1 = expand f32[1000000,1000] %0"), "%1", "more than 268435456"),
    "many dimensions": (
        with_prefix("%1 = reshape f32[1,1,1,1,1,1,1,1,5] %0"), "%1", "9 dimensions"),
    "rank above 4": (with_prefix("%1 = host.expand f32[2,2,2,2,2] @const",
                                 "%2 = mean f32[1] %1 dims=[0,1,2,3,4] keep=0",
                                 tensors={"const": normal(1)}), "%2", "rank above 4"),
    "reshape by count": (with_prefix("%1 = reshape f32[2,3] %0"), "%1", "the operand is [1,5]"),
    "permute declares another shape": (
        with_prefix("%1 = reshape f32[1,1,5] %0", "%2 = permute f32[1,1,5] %1 perm=[0,2,1]"),
        "%2", "the result is [1,5,1]"),
    "mean declares another shape": (
        with_prefix("%1 = mean f32[1] %0 dims=[1] keep=1"), "%1", "the operand is [1,5]"),
    "stride wraps as an int": (
        with_prefix(IMAGE, "%2 = conv2d f32[1,1,1,1] %1 @k stride=[4294967297,1] pad=[0,0] "
                    "dil=[1,1]", tensors={"k": normal(1, 1, 1, 5)}), "%2", "stride=[4294967297,1]"),
    "stride is 0": (
        with_prefix(IMAGE, "%2 = conv2d f32[1,1,1,1] %1 @k stride=[0,0] pad=[0,0] dil=[1,1]",
                    tensors={"k": normal(1, 1, 1, 5)}), "%2", "stride=[0,0]"),
    "padding wraps as an int": (
        with_prefix(IMAGE, "%2 = conv2d f32[1,1,1,1] %1 @k stride=[1,1] pad=[0,4294967296] "
                    "dil=[1,1]", tensors={"k": normal(1, 1, 1, 5)}), "%2", "pad=[0,4294967296]"),
    "groups is 0": (
        with_prefix(IMAGE, "%2 = conv2d f32[1,1,1,1] %1 @k stride=[1,1] pad=[0,0] dil=[1,1] "
                    "groups=0", tensors={"k": normal(1, 1, 1, 5)}), "%2", "groups=0"),
    "groups of a normalisation is 0": (
        with_prefix(IMAGE, "%2 = group_norm f32[1,1,1,5] %1 groups=0 eps=1e-5 w=0 b=0"),
        "%2", "groups=0"),
    "windows are larger than memory": (
        with_prefix(IMAGE, "%2 = conv2d f32[1,1,60001,60005] %1 @k stride=[1,1] pad=[30000,30000] "
                    "dil=[1,1]", tensors={"k": normal(1, 1, 1, 1)}), "%2", "more than 268435456"),
    "pool has no stride": (
        with_prefix(IMAGE, "%2 = max_pool2d f32[1,1,1,5] %1 kernel=[1,1] stride=[0,0] pad=[0,0]"),
        "%2", "do not fit"),
    "pads overflow": (
        with_prefix("%1 = pad f32[1,5] %0 pads=[0,0,9223372036854775807,0] value=0"),
        "%1", "pads=[0,0,9223372036854775807,0]"),
    "slice's step overflows": (
        with_prefix("%1 = slice f32[1,2] %0 dim=1 start=0 step=9223372036854775807"),
        "%1", "is [1,1]"),
    "eps is negative": (with_prefix("%1 = rms_norm f32[1,5] %0 eps=-1"), "%1", "eps=-1"),
    "eps is infinite": (with_prefix("%1 = layer_norm f32[1,5] %0 eps=inf w=0 b=0"),
                        "%1", "eps=inf"),
    "eps is 0": (with_prefix("%1 = rms_norm f32[1,5] %0 eps=0"), "%1", "eps=0"),
    "a number is NaN": (with_prefix("%1 = affine f32[1,5] %0 a=nan b=0"), "%1", "a=nan"),
    "clamp is turned round": (with_prefix("%1 = clamp f32[1,5] %0 min=1 max=0"), "%1", "min=1"),
    "weight is of integers": (
        with_prefix("%1 = linear f32[1,2] %0 @w", tensors={"w": np.ones((2, 5), np.int32)}),
        "%1", "the weight holds integers"),
    "table is of integers": (
        with_prefix("%1 = embedding f32[1,2] @w @ids",
                    tensors={"w": np.ones((3, 2), np.int64), "ids": np.zeros(1, np.int64)}),
        "%1", "the table holds integers"),
    "an index is outside its table": (
        with_prefix("%1 = embedding f32[1,2] @w @ids",
                    tensors={"w": normal(3, 2), "ids": np.array([3], np.int64)}),
        "@ids", "the index 3"),
    "mask's batch is not q's": (
        with_prefix("%1 = reshape f32[1,1,5,1] %0",
                    "%2 = host.expand b8[7,1,5,5] @m",
                    "%3 = sdpa f32[1,1,5,1] %1 %1 %1 %2 scale=1 causal=0",
                    tensors={"m": np.ones(1, np.bool_)}), "%3", "the mask is [7,1,5,5]"),
    "heads that do not divide": (
        with_prefix("%1 = reshape f32[1,5,1,1] %0",
                    "%2 = slice f32[1,2,1,1] %1 dim=1 start=0 end=2",
                    "%3 = sdpa f32[1,5,1,1] %1 %2 %2 scale=1 causal=0"), "%3", "q is [1,5,1,1]"),
    "attribute comes twice": (
        with_prefix("%1 = affine f32[1,5] %0 a=1 a=2 b=0"), "%1", "the attribute a comes twice"),
    "host values are huge": (
        with_prefix(*[f"%{k} = host.full f32[16384,16384] shape=[16384,16384] value=0"
                      for k in range(1, 4)]), "%1", "more than 67108864"),
    "100,000 operators": (
        with_prefix(*[f"%{k} = sqr f32[1,5] %{k - 1}" for k in range(1, 100_001)]),
        "prefix", "more than 16384 lines"),
    "a chain of 5,000 operators": (
        with_prefix(*[f"%{k} = sqr f32[1,5] %{k - 1}" for k in range(1, 5001)]),
        "%4097", "more than 4096 operators"),
    "a concatenation of 2,000": (
        with_prefix("%1 = concat f32[1,10000] " + "%0 " * 2000 + "dim=1"), "line 2", "1024 words"),
    "50,000 unknown operators": (
        with_prefix(*[f"%{k} = warp f32[1,5] %0" for k in range(1, 10_000)]),
        "%1 = warp", "… and 9983 more"),
    "a word of a megabyte": (
        with_prefix("%1 = sqr f32[1,5] %0 x=" + "a" * (1 << 20), "%2 = warp f32[1,5] %0"),
        "prefix", "%2 = warp"),
    "escape sequences in an operator": (
        with_prefix("%1 = \x1b[31mred\x1b[0m f32[1,5] %0"), r"\x1b[31mred", "no such operator"),
    "constants are huge": (
        with_prefix("%1 = pad f32[1,70000005] %0 pads=[0,0,0,70000000] value=1"),
        "%1", "constants have more than 67108864"),
    "causal masks are huge": (
        with_prefix("%1 = expand f32[1,1,9000,5] %0", "%2 = sdpa f32[1,1,9000,5] %1 %1 %1 scale=1 "
                    "causal=1"), "%2", "constants have more than 67108864"),
    "prefix gives what the driver gives": (
        {"programs": {"prefix": PROGRAMS["prefix"] + "output step %5"}}, "prefix", "output step"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROGRAM_CASES)
def test_programs(tmp_path, case):
    arguments, culprit, reason = PROGRAM_CASES[case]
    message = refusal(write_policy(tmp_path / "p.gguf", **arguments))
    assert culprit in message and reason in message


NAN, INFINITE = float("nan"), float("inf")
KEY_CASES = [
    ({"actquant.control_rate_hz": ("float32", NAN)}, "actquant.control_rate_hz is nan"),
    ({"actquant.control_rate_hz": ("float32", -1.0)}, "actquant.control_rate_hz is -1"),
    ({"actquant.control_rate_hz": ("float32", 0.0)}, "actquant.control_rate_hz is 0"),
    ({"actquant.control_rate_hz": ("float32", INFINITE)}, "actquant.control_rate_hz is inf"),
    ({"actquant.normalization.eps": ("float32", NAN)}, "actquant.normalization.eps is nan"),
    ({"actquant.normalization.eps": ("float32", -1.0)}, "actquant.normalization.eps is -1"),
    ({"actquant.action.mean": ("array", [0.5, INFINITE])}, "actquant.action: the statistics of"),
    ({"actquant.state.std": ("array", [1.0, 1.0, INFINITE])}, "actquant.state: the statistics of"),
    ({"actquant.state.clip": ("float32", INFINITE)}, "actquant.state.clip"),
    ({"actquant.sampler.timesteps": ("array", [1.0, NAN, 0.5, 0.2])}, "sampler.timesteps are not"),
    ({"actquant.sampler.coefficients": ("array", [1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0] * 4)},
     "the clip of step 0 is negative"),
    ({"actquant.sampler.timesteps": ("array", [0.5] * 5000),
      "actquant.sampler.coefficients": ("array", [0.0] * 40000)}, "timesteps is 5000, expected 0"),
    ({"actquant.image.scale": ("float32", NAN)}, "actquant.image.scale is nan"),
    ({"actquant.image.offset": ("float32", INFINITE)}, "actquant.image.offset is inf"),
    ({"actquant.observation.steps": ("uint32", 1_000_000)}, "observation.steps is 1000000"),
    ({"actquant.image.source_height": ("uint32", 1 << 31)}, "source_height is 2147483648"),
    ({"actquant.image.source_height": ("uint32", 16384),
      "actquant.image.source_width": ("uint32", 16384)}, "source_height times width is above"),
    ({"actquant.image.steps": ("array", ["resize height=99999 width=1 filter=bilinear antialias=0 "
                                         "round=0"])}, "height=99999"),
    ({"actquant.action.chunk_length": ("uint32", 1 << 31)}, "chunk_length is 2147483648"),
    ({"actquant.noise.rows": ("uint32", 1 << 31)}, "actquant.noise.rows is 2147483648"),
    ({"actquant.state.padded_dim": ("uint32", 1 << 31)}, "actquant.state.padded_dim is 2147483648"),
    ({"actquant.prompt.state_bins": ("uint32", 1 << 31)}, "state_bins is 2147483648"),
    ({"actquant.tokenizer.pad_id": ("uint32", 8)}, "the index 8"),
    ({"actquant.tokenizer.pad_id": ("uint32", 1 << 31)}, "pad_id is 2147483648"),
    ({"actquant.cameras": ("array", ["a"] * 5000)}, "actquant.cameras"),
    ({"actquant.cameras": ("array", ["observation.images.a", "observation.images.a"])}, "twice"),
    ({"actquant.action.names": ("array", ["\x1b]0;owned\x07", "y"])}, r"'\x1b]0;owned\x07'"),
    ({"general.name": ("string", "a\u202eb")}, r"or with control characters, 'a\u202eb'"),
    ({"actquant.state.names": ("array", ["a" * 10_000, "b", "c"])}, "a name of more than 255"),
    ({"actquant.provenance": ("string", "[" * 100_000)}, "actquant.provenance: its values are"),
    ({"actquant.provenance": ("string", "{")}, "actquant.provenance: it is no JSON"),
    ({"actquant.provenance": ("string", "\ufeff{}")}, "actquant.provenance cannot be read"),
    ({"actquant.golden": ("string", "[" + "9" * 5000 + "]")}, "actquant.golden: it is no JSON"),
    ({"actquant.golden": ("string", "[" * 65 + "]" * 65)}, "nested more than 64 deep"),
    ({"actquant.stages": ("array", ["vision", "prefix", "denoise", "denoise"])}, "twice"),
    ({"actquant.stages": ("array", ["x"] * 10_000)}, "the number of actquant.stages is 10000"),
    ({"actquant.prompt.template": ("string", "{task}\0")}, "'actquant.prompt.template' is no UTF"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "reason"), KEY_CASES, ids=[reason for _, reason in KEY_CASES])
def test_keys(tmp_path, keys, reason):
    assert reason in refusal(write_policy(tmp_path / "p.gguf", keys=keys))


def test_a_table_of_steps_that_is_too_short(tmp_path):
    tensors = {"times": np.ones((3, 1), np.float32)}
    message = refusal(write_policy(tmp_path / "p.gguf", tensors=tensors))
    assert "denoise" in message and "the index 3" in message


@pytest.mark.parametrize("type_name", ["F64", "I16"])
def test_types_that_nothing_computes_with(tmp_path, type_name):
    dtype = {"F64": np.float64, "I16": np.int16}[type_name]
    tensors = {"k.w": np.ones((8, 8), dtype)}
    message = refusal(write_policy(tmp_path / "p.gguf", tensors=tensors))
    assert f"the tensor k.w has the type {type_name.lower()}" in message


def test_a_row_is_no_column(tmp_path):
    """[8, 1] stored where [1, 8] is meant has as many elements; blocks of it lie otherwise."""
    shapes = "\n".join(f"{name} [{','.join(map(str, w.shape))}]" for name, w in weights().items())
    column = Packed(np.zeros((1, 34), np.uint8), "Q8_0", (32, 1))
    path = write_policy(tmp_path / "p.gguf", tensors={"w": column}, shapes=shapes + "\nw [32,1]")
    assert "the tensor w is stored as [1,1,1,32], which does not fit its shape [32,1]" in refusal(
        path
    )


def test_unit_dimensions_that_were_left_out_are_back_in_their_places(tmp_path):
    column, row = normal(4, 1), normal(1, 4)
    lines = ["%1 = slice f32[1,1] %0 dim=1 start=1 end=2", "%2 = linear f32[1,4] %1 @column",
             "%3 = linear f32[1,1] %2 @row"]  # fmt: skip
    shapes = [f"{name} [{','.join(map(str, w.shape))}]" for name, w in weights().items()]
    arguments = with_prefix(*lines, tensors={"column": column.reshape(4), "row": row.reshape(4)})
    shapes += ["column [4,1]", "row [1,4]"]
    path = write_policy(tmp_path / "p.gguf", **arguments, shapes="\n".join(shapes))
    state = np.arange(5, dtype=np.float32)[None]
    result = Runtime(path, threads=1).run_stage("prefix", {"state": state})["result"]
    np.testing.assert_allclose(result, state[:, 1:2] @ column.T @ row.T, rtol=1e-5)


def test_clamping_a_weight_of_the_file_leaves_it_alone(tmp_path):
    """ggml clamps in place, and the file is mapped to be read only."""
    arguments = with_prefix("%1 = clamp f32[4] @w min=-0.5 max=0.5", "%2 = add f32[4] %1 @w",
                            tensors={"w": normal(4)})  # fmt: skip
    runtime = Runtime(write_policy(tmp_path / "p.gguf", **arguments), threads=1)
    result = runtime.run_stage("prefix", {"state": np.zeros((1, 5), np.float32)})["result"]
    np.testing.assert_allclose(result, np.clip(normal(4), -0.5, 0.5) + normal(4), rtol=1e-6)


class Header:
    """A GGUF written byte by byte, so that it can be wrong."""

    def __init__(self, tensors: int = 0, keys: int = 0, version: int = 3) -> None:
        self.data = b"GGUF" + struct.pack("<IQQ", version, tensors, keys)

    def text(self, text: bytes) -> "Header":
        self.data += struct.pack("<Q", len(text)) + text
        return self

    def key(self, name: bytes, kind: int, value: bytes) -> "Header":
        self.text(name).data += struct.pack("<I", kind) + value
        return self

    def tensor(self, name: bytes, extents: list[int], kind: int = 0, offset: int = 0) -> "Header":
        self.text(name).data += struct.pack("<I", len(extents))
        self.data += struct.pack(f"<{len(extents)}QIQ", *extents, kind, offset)
        return self


U32, ARRAY, STRING = 4, 9, 8
HEADERS = {
    "extents at the edge of int64": (
        Header(1).tensor(b"w", [1 << 31, 1 << 31, 2]), "dimension 1 of the tensor 'w'"),
    "product wraps to 0": (Header(1).tensor(b"w", [1 << 32, 1 << 32]), "dimension 1 of the tensor"),
    "an extent of 0": (Header(1).tensor(b"w", [4, 0]), "dimension 1 of the tensor 'w' is 0"),
    "an extent above int64": (Header(1).tensor(b"w", [(1 << 64) - 1]), "dimension 0"),
    "five dimensions": (Header(1).tensor(b"w", [1] * 5), "has 5 dimensions"),
    "no dimension": (Header(1).tensor(b"w", []), "has 0 dimensions"),
    "a type beyond ggml's": (Header(1).tensor(b"w", [4], 999), "has the type 999"),
    "a removed type": (Header(1).tensor(b"w", [32], 4), "has the type 4"),
    "no whole block": (Header(1).tensor(b"w", [33], 8), "33 elements, no multiple of 32"),
    "an offset elsewhere": (Header(1).tensor(b"w", [4], 0, 32), "begins at 32, expected 0"),
    "an offset that overflows": (
        Header(2).tensor(b"v", [1 << 39], 0).tensor(b"w", [4], 0, (1 << 64) - 32),
        "'v' ends behind"),
    "data behind the file": (Header(1).tensor(b"w", [1 << 30]), "'w' ends behind the file"),
    "a name of 64 bytes": (Header(1).tensor(b"w" * 64, [4]), "has 64 bytes, expected 1 to 63"),
    "no name": (Header(1).tensor(b"", [4]), "has 0 bytes"),
    "a name with NUL": (Header(1).tensor(b"a\0b", [4]), "contains NUL"),
    "2^60 tensors": (Header(1 << 60), "the number of tensors is 1152921504606846976"),
    "2^60 keys": (Header(0, 1 << 60), "the number of keys is 1152921504606846976"),
    "an alignment of 1": (
        Header(0, 1).key(b"general.alignment", U32, struct.pack("<I", 1)), "general.alignment"),
    "an alignment of 2^31": (
        Header(0, 1).key(b"general.alignment", U32, struct.pack("<I", 1 << 31)), "alignment"),
    "an alignment as a text": (
        Header(0, 1).key(b"general.alignment", STRING, struct.pack("<Q", 0)), "not a"),
    "an array of 2^60": (
        Header(0, 1).key(b"k", ARRAY, struct.pack("<IQ", U32, 1 << 60)), "of the key 'k' is"),
    "an array of arrays": (
        Header(0, 1).key(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1)), "the type 9"),
    "a text of 2^63 bytes": (
        Header(0, 1).key(b"k", STRING, struct.pack("<Q", 1 << 63)), "the header ends behind"),
    "a key of 300 bytes": (Header(0, 1).key(b"k" * 300, U32, b"1234"), "has 300 bytes"),
    "another version": (Header(version=2), "its GGUF version is 2"),
    "an escape sequence in a name": (
        Header(1).tensor(b"\x1b[2J", [0]), r"the tensor '\x1b[2J' is 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers(tmp_path, case):
    header, reason = HEADERS[case]
    path = tmp_path / "p.gguf"
    path.write_bytes(header.data)
    if case == "an alignment as a text":
        assert "general.architecture" in refusal(path) or "general.alignment" in refusal(path)
        return
    assert reason in refusal(path)


def test_every_field_of_a_header_may_be_anything(tmp_path):
    """Each 8 bytes of the header become numbers that are hard on arithmetic."""
    path = write_policy(tmp_path / "p.gguf")
    whole = path.read_bytes()
    end = whole.index(b"actquant.graph.vision")
    tensors = whole.rindex(b"patch.w")
    random = np.random.default_rng(0)
    places = [*range(8, 40, 4), *random.integers(40, end, 60), *range(tensors, tensors + 200, 4)]
    for place in places:
        for value in (0, 1, 1 << 31, 1 << 63, (1 << 64) - 1):
            path.write_bytes(whole[:place] + struct.pack("<Q", value) + whole[place + 8 :])
            try:
                Runtime(path, threads=1)
            except ModelFileError:
                continue


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}


def tokenizer(**members) -> str:
    return json.dumps({"model": BPE, **members})


def split_by(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}


def nested(kind: str, member: str, depth: int) -> str:
    inner = "null"
    for _ in range(depth):
        inner = f'{{"type":"{kind}","{member}":[{inner}]}}'
    return inner


TOKENIZERS = {
    "deep JSON": ("[" * 1_000_000, "nested more than 64 deep"),
    "deep normalizers": (
        tokenizer()[:-1] + f', "normalizer": {nested("Sequence", "normalizers", 10_000)}}}',
        "nested more than 64 deep"),
    "deep groups": (tokenizer(pre_tokenizer=split_by("(" * 8000 + "a" + ")" * 8000)),
                    "groups are nested more than 64 deep"),
    "many alternatives": (tokenizer(pre_tokenizer=split_by("|".join("a" * 8000))),
                          "more than 4096 instructions"),
    "a long pattern": (tokenizer(pre_tokenizer=split_by("a" * 100_000)), "more than 16384 char"),
    "repeated repetitions": (tokenizer(pre_tokenizer=split_by("(?:(?:a{1000}){1000}){1000}")),
                             "more than 4096 instructions"),
    "100,000 added tokens": (
        tokenizer(added_tokens=[{"content": f"t{k}", "id": k} for k in range(100_000)]),
        "100000 added tokens"),
    "an id above 2^30": (
        json.dumps({"model": {**BPE, "vocab": {"a": (1 << 31) - 1}}}), "an id above 1073741824"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(tmp_path, case):
    text, reason = TOKENIZERS[case]
    with pytest.raises(ModelFileError, match=reason):
        Tokenizer(text)
    path = write_policy(tmp_path / "p.gguf", keys={"actquant.tokenizer.json": ("string", text)})
    assert "actquant.tokenizer.json" in refusal(path)


GROWING = {
    "replacing": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60}},
    "prepending": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "a" * 10_000}] * 60}},
    "spelling bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}] * 60}},
    "repeating": {"post_processor": {"type": "Sequence", "processors": [
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 2,
         "special_tokens": {}}] * 60}},
}  # fmt: skip


@pytest.mark.parametrize("case", GROWING)
def test_texts_do_not_grow_without_bound(case):
    with pytest.raises(ModelFileError, match="more than 262144"):
        Tokenizer(tokenizer(**GROWING[case])).encode("aäa")


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|aa)+b", "(?:a+a+)+b", "(?=(a+)+b)c", "(?:(?=a+)a+)+b", "(?>(?:a+)+b)"],
)  # fmt: skip
@pytest.mark.parametrize("length", [40, 5000])
def test_backtracking_is_bounded(pattern, length):
    built = Tokenizer(tokenizer(pre_tokenizer=split_by(pattern)))
    begin = time.monotonic()
    try:
        assert built.encode("a" * length) == [0] * length
    except ModelFileError as error:
        assert length > 40 and "steps for a text" in str(error)
    assert time.monotonic() - begin < LONGEST_S
    assert built.encode("aab") == [0, 0, 1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"observation.state": np.full(3, np.nan, np.float32)}, "observation.state"),
        ({"observation.state": np.full(3, 3e38, np.float32)}, None),
        ({"observation.images.scene": np.zeros((0, 0, 3), np.uint8)}, "is empty"),
        ({"observation.images.scene": np.zeros((20000, 1, 3), np.uint8)}, "larger than"),
        ({"task": "a" * 300_000}, "the task has 300000 bytes"),
        ({"task": "\ud800"}, None),
        ({"task": "a\0b"}, None),
    ],
)
def test_odd_observations(tmp_path, changed, reason):
    runtime = Runtime(write_policy(tmp_path / "p.gguf"), threads=1)
    try:
        actions = runtime.act({**observation(), **changed}, noise=noise())
    except (ArgumentError, ModelFileError, RuntimeError, ValueError, TypeError) as error:
        assert reason is None or reason in str(error)
    else:
        assert reason is None and np.isfinite(actions).all()
    assert np.isfinite(runtime.act(observation(), noise=noise())).all()


def test_a_path_is_not_cut_at_nul(tmp_path):
    path = write_policy(tmp_path / "p.gguf")
    assert r"contains NUL" in refusal(f"{path}\0.old")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no regular file" in refusal(tmp_path / "pipe.gguf")


def test_what_is_wrong_is_told_through_the_c_interface_alike(tmp_path):
    """In a process of its own: what stops one would stop it."""
    library = newest_build("runtime/library/libactquant.so")
    paths = []
    for number, (arguments, culprit, _) in enumerate(PROGRAM_CASES.values()):
        path = write_policy(tmp_path / f"{number}.gguf", **arguments)
        paths.append([str(path), culprit])
    for number, (header, _) in enumerate(HEADERS.values()):
        (tmp_path / f"h{number}.gguf").write_bytes(header.data)
        paths.append([str(tmp_path / f"h{number}.gguf"), ""])
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("open_files.py"), library],
        input=json.dumps(paths), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == {"refused": len(paths)}
