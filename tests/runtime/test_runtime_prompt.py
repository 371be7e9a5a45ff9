"""Prompts against Python's own strings, numpy.digitize and the library tokenizers."""

import random
from importlib import import_module

import numpy as np
import pytest
import tokenizer_files
from actquant_runtime import ModelFileError
from actquant_runtime._core import PromptSpec, Tokenizer, prompt_tokens, render_prompt

STEPS = {
    "strip": str.strip,
    "lower": str.lower,
    "underscores_to_spaces": lambda text: text.replace("_", " "),
    "newlines_to_spaces": lambda text: text.replace("\n", " "),
}
PARTS_TEXT = (
    "pick_up the RED cube\n|  |\t|\x1c|\x1f|\x85|\xa0|\u2003|\u3000|\u200b|ΑΣ|ΟΔΟΣ ΣΑΣ|Α\u0301Σ.Σ|"
    "Σ'Σ|İI\u0307|ǅ ẞ ﬁ Ω K|ΑΣ\u00ad|{state}|{task}|{}|🤖|ʰΣ|aʰΣ|𐐀|ᾼΣ|_|\n\n"
)
PARTS = PARTS_TEXT.split("|")


def spec(**changes) -> PromptSpec:
    fields = dict(
        template="{task}",
        task_steps=[],
        state_bins=0,
        suffix="",
        suffix_ids=[],
        min_length=0,
        max_length=100,
        pad_id=0,
    )
    return PromptSpec(**{**fields, **changes})


@pytest.mark.parametrize("step", STEPS)
def test_task_steps_are_pythons(step):
    generator = random.Random(step)
    for _ in range(2000):
        task = "".join(generator.choices(PARTS, k=generator.randint(0, 5)))
        assert render_prompt(spec(task_steps=[step]), task, []) == STEPS[step](task), repr(task)


def test_lower_is_pythons_on_every_character():
    for code in [*range(0xD800), *range(0xE000, 0x20000)]:
        text = f"A{chr(code)}Σ{chr(code)}"
        assert render_prompt(spec(task_steps=["lower"]), text, []) == text.lower(), hex(code)


def test_steps_are_applied_in_order():
    steps = ["underscores_to_spaces", "strip", "lower"]
    assert render_prompt(spec(task_steps=steps), "_Pick_Up_", []) == "pick up"
    assert render_prompt(spec(task_steps=steps[::-1]), "_Pick_Up_", []) == " pick up "


@pytest.mark.parametrize("bins", [256, 100, 7, 1])
def test_state_bins_are_numpys(bins):
    generator = np.random.default_rng(bins)
    edges = np.linspace(-1, 1, bins + 1)[:-1]
    near = np.nextafter(edges.astype(np.float32), np.float32(2))
    states = [
        generator.uniform(-1.2, 1.2, 500).astype(np.float32),
        edges.astype(np.float32),
        near,
        np.nextafter(edges.astype(np.float32), np.float32(-2)),
        np.float32([-1, 1, 0, -0.0, 5, -5]),
    ]
    for state in states:
        wanted = " ".join(map(str, np.digitize(state, bins=edges) - 1))
        prompt = spec(template="State: {state};", state_bins=bins)
        assert render_prompt(prompt, "", list(map(float, state))) == f"State: {wanted};"


def test_pi05_prompt_is_lerobots():
    processor = import_module("lerobot.policies.pi05.processor_pi05")
    torch = import_module("torch")
    TransitionKey = processor.TransitionKey

    state = torch.rand(1, 8, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    task = "  put_the cube\nin the BOWL "
    step = processor.Pi05PrepareStateTokenizerProcessorStep()
    result = step(
        {
            TransitionKey.OBSERVATION: {"observation.state": state},
            TransitionKey.COMPLEMENTARY_DATA: {"task": [task]},
        }
    )
    prompt = spec(
        template="Task: {task}, State: {state};\nAction: ",
        task_steps=["strip", "underscores_to_spaces", "newlines_to_spaces"],
        state_bins=256,
    )
    wanted = result[TransitionKey.COMPLEMENTARY_DATA]["task"][0]
    assert render_prompt(prompt, task, state[0].tolist()) == wanted


def test_what_is_filled_in_is_not_filled_in_again():
    prompt = spec(template="{task}|{state}|{task}", state_bins=4)
    assert render_prompt(prompt, "{state}{task}", [0.0]) == "{state}{task}|2|{state}{task}"


def test_suffix_is_not_doubled():
    assert render_prompt(spec(suffix="\n"), "push", []) == "push\n"
    assert render_prompt(spec(suffix="\n"), "push\n", []) == "push\n"
    assert render_prompt(spec(suffix=""), "push", []) == "push"


@pytest.mark.parametrize("kind", ["bart", "gemma", "smollm2"])
@pytest.mark.parametrize("length", [3, 8, 60])
def test_truncation_and_padding_are_the_librarys(kind, length):
    reference = tokenizer_files.KINDS[kind]()
    ours = Tokenizer(reference.to_str())
    reference.enable_truncation(length)
    reference.enable_padding(length=length, pad_id=7)
    fixed = spec(min_length=length, max_length=length, pad_id=7)
    for task in [*tokenizer_files.CORPUS[:7], "", "a"]:
        ids, count = prompt_tokens(fixed, ours, task, [])
        encoding = reference.encode(task)
        assert ids == encoding.ids
        assert count == sum(encoding.attention_mask)


def test_suffix_ids_survive_truncation_and_are_not_doubled():
    reference = tokenizer_files.llama()
    ours = Tokenizer(reference.to_str())
    plain = reference.encode("push the cube").ids
    assert prompt_tokens(spec(suffix_ids=[300]), ours, "push the cube", [])[0] == [*plain, 300]
    assert prompt_tokens(spec(suffix_ids=plain[-2:]), ours, "push the cube", [])[0] == plain
    short = spec(suffix_ids=[300, 301], max_length=5)
    assert prompt_tokens(short, ours, "push the cube", []) == ([*plain[:3], 300, 301], 5)


def test_an_empty_prompt_has_one_token_of_padding():
    ours = Tokenizer(tokenizer_files.gpt2().to_str())
    assert prompt_tokens(spec(pad_id=5), ours, "", []) == ([5], 0)
    assert prompt_tokens(spec(pad_id=5, min_length=3), ours, "", []) == ([5, 5, 5], 0)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ModelFileError) as refusal:
        spec(template="{state}", task_steps=["strip", "title", "casefold"])
    for part in ("'title'", "'casefold'", "strip and underscores_to_spaces", "state_bins is 0"):
        assert part in str(refusal.value)
    ours = Tokenizer(tokenizer_files.bart().to_str())
    with pytest.raises(ModelFileError, match="max_length is 1, less than the 2 tokens"):
        prompt_tokens(spec(max_length=1), ours, "push", [])
