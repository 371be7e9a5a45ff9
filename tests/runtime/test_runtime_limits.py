"""The shortest and the longest prompts, and those beyond, against PyTorch."""

import warnings

import numpy as np
import pytest
import tokenizers
from actquant_runtime import ArgumentError, PromptCutWarning, Runtime
from policy_files import noise, observation, write_policy

from actquant.capture.policy import convert_f32
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.format.golden import golden_input

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def runtime(loaded, tmp_path_factory):
    return Runtime(convert_f32(loaded, tmp_path_factory.mktemp("limits") / "m.gguf"), threads=1)


@pytest.fixture(scope="module")
def limit(loaded) -> int:
    return loaded.interface.tokenizer_max_length


def prompt_of(loaded, tokens: int) -> str:
    """A task whose prompt has this many tokens before it is truncated."""
    face = loaded.interface
    tokenizer = tokenizers.Tokenizer.from_str(face.tokenizer_json)
    text = "put the red cup there " * tokens
    fitting = (text[:end] for end in range(1, len(text)) if text[end - 1] != " ")
    return next(t for t in fitting if len(tokenizer.encode(t + face.tokenizer_suffix)) == tokens)


@pytest.mark.parametrize("beyond", [-1, 0, 1, 9])
def test_the_chunk_is_pytorchs(runtime, loaded, limit, beyond):
    x = golden_input(loaded.interface, 1, prompt_of(loaded, limit + beyond), ())
    assert len(runtime.tokenize(x.observation)) == min(limit + beyond, limit)
    expected = loaded.family.act(loaded, x.observation, x.noise)
    with warnings.catch_warnings(record=True) as told:
        got = runtime.act(x.observation, noise=x.noise)
    assert runtime.lost_tokens == max(beyond, 0)
    assert [str(each.message).split(" than")[0] for each in told] == (
        [f"the policy takes {limit} tokens, {beyond} fewer"] if beyond > 0 else []
    )
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def test_what_is_cut_off_changes_nothing(runtime, loaded, limit):
    long = prompt_of(loaded, limit + 9)
    x = golden_input(loaded.interface, 1, long, ())
    longer = {**x.observation, "task": long + " and wait"}
    with pytest.warns(PromptCutWarning, match="and wait' has"):
        answer = runtime.act(longer, noise=x.noise)
    with pytest.warns(PromptCutWarning):
        np.testing.assert_array_equal(runtime.act(x.observation, noise=x.noise), answer)


def test_tokens_beyond_the_limit_are_refused_by_number(runtime, limit):
    inputs = {
        value["name"]: np.zeros([limit + 1 if d == "L" else d for d in value["shape"]])
        for value in runtime.describe()["stages"]["prefix"]["inputs"]
    }
    with pytest.raises(ArgumentError, match=f"prompts of {limit + 1} tokens.* 1 to {limit}"):
        runtime.run_stage("prefix", inputs)


def test_a_prompt_without_a_token_is_one_masked_token_of_padding(tmp_path):
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({"push": 0}, [], ignore_merges=True))
    keys = {
        "actquant.tokenizer.json": ("string", bare.to_str()),
        "actquant.tokenizer.min_length": ("uint32", 0),
        "actquant.tokenizer.suffix": ("string", ""),
    }
    path = write_policy(tmp_path / "bare.gguf", keys=keys)
    silent = {**observation(), "task": ""}
    runtime = Runtime(path, threads=1)
    assert len(runtime.tokenize(silent)) == 0
    expected = ReferenceRunner.from_file(path).act(silent, noise=noise())
    np.testing.assert_allclose(
        runtime.act(silent, noise=noise()), expected, rtol=2e-6, atol=TOLERANCE
    )
