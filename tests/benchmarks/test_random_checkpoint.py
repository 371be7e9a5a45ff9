"""Checkpoints written without a model in memory are read by safetensors, LeRobot and us."""

import json
import runpy
from pathlib import Path

import pytest
import random_checkpoint
import torch
from gemma_tokenizer import gemma_tokenizer
from random_checkpoint import on_meta, save_processors, write_weights
from safetensors import safe_open
from safetensors.torch import load_file
from smolvlm_folder import TEXT, byte_level_tokenizer, write_smolvlm_folder
from tiny_pi import VOCABULARY, build_tiny_pi, tiny_backbone
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from actquant.policies import load_policy

TENSORS = {
    "a.weight": torch.empty(300, 200, dtype=torch.bfloat16, device="meta"),
    "norm.weight": torch.empty(500, device="meta"),
    "steps": torch.empty((), dtype=torch.int64, device="meta"),
}


def test_one_file_holds_every_tensor_with_its_spread(tmp_path: Path):
    assert write_weights(tmp_path, TENSORS) == [tmp_path / "model.safetensors"]
    got = load_file(tmp_path / "model.safetensors")
    assert {k: (x.shape, x.dtype) for k, x in got.items()} == {
        k: (x.shape, x.dtype) for k, x in TENSORS.items()
    }
    assert got["a.weight"].float().std().item() == pytest.approx(200**-0.5, rel=0.02)
    assert got["norm.weight"].mean().item() == pytest.approx(1, abs=0.02)
    assert got["steps"] == 0
    assert not list(tmp_path.glob("*.part"))


def test_shards_have_an_index(tmp_path: Path):
    files = write_weights(tmp_path, TENSORS, shard_bytes=121_000)
    assert [file.name for file in files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == TENSORS.keys()
    assert index["metadata"]["total_size"] == 300 * 200 * 2 + 500 * 4 + 8
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="pt") as stored:
            assert stored.get_tensor(name).shape == TENSORS[name].shape


def test_a_policy_on_the_meta_device_becomes_a_checkpoint(tmp_path: Path):
    """The same keys and types as LeRobot's own `save_pretrained`, and it loads."""
    config = load_config(build_tiny_pi(tmp_path / "theirs", "pi05", dtype="bfloat16"))
    config.device = "meta"
    ours = tmp_path / "ours"
    ours.mkdir()
    with tiny_backbone("pi05") as module:
        policy = on_meta(lambda: module.PI05Policy(config))
        write_weights(ours, policy.state_dict())
        config.device = "cpu"
        config._save_pretrained(ours)
        tokenizer = gemma_tokenizer(VOCABULARY)
        tokenizer.save_pretrained(ours / "words")
        save_processors(ours, config, tokenizer, "words")
        loaded = load_policy(ours)
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    got = load_file(ours / "model.safetensors")
    assert {k: (x.shape, x.dtype) for k, x in got.items()} == {
        k: (x.shape, x.dtype) for k, x in theirs.items()
    }
    assert loaded.interface.tokenizer_json is not None
    assert all(torch.isfinite(x).all() for x in loaded.policy.parameters())


def load_config(folder: Path):
    from lerobot.configs.policies import PreTrainedConfig

    return PreTrainedConfig.from_pretrained(str(folder))


def test_a_tokenizer_of_any_size_has_its_size_and_begins_with_bos():
    for size in (VOCABULARY, 2000):
        tokenizer = gemma_tokenizer(size)
        assert len(tokenizer) == size
        ids = tokenizer("put é")["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == "put é"
    with pytest.raises(ValueError, match="at least"):
        gemma_tokenizer(100)


def test_the_builder_of_a_real_policy_builds_what_loads(tmp_path: Path):
    """With a tiny backbone in place of the real one; the tokenizer has its real size."""
    script = Path(random_checkpoint.__file__).with_name("build_policy.py")
    build = runpy.run_path(str(script))["BUILDERS"]["pi05"]
    with tiny_backbone("pi05", image=224):
        build(tmp_path, "bf16")
        loaded = load_policy(tmp_path)
    tokenizer = Tokenizer.from_str(loaded.interface.tokenizer_json)
    assert tokenizer.get_vocab_size() == 257152
    assert loaded.interface.image_height == 224
    stored = load_file(tmp_path / "model.safetensors")
    assert {x.dtype for x in stored.values()} == {torch.bfloat16, torch.float32}


def test_a_smolvlm_folder_has_the_tokenizer_that_its_configuration_says(tmp_path: Path):
    folder = write_smolvlm_folder(tmp_path / "vlm")
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == config.text_config.vocab_size == TEXT["vocab_size"]
    assert tokenizer.convert_tokens_to_ids("<image>") == config.image_token_id
    assert tokenizer.pad_token_id == config.text_config.pad_token_id
    ids = tokenizer("put é")["input_ids"]
    assert tokenizer.decode(ids) == "put é"
    with pytest.raises(ValueError, match="at least"):
        byte_level_tokenizer(100)
