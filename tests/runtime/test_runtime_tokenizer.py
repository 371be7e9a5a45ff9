"""The runtime's tokenizer against the library tokenizers, token for token."""

import json
import random
import unicodedata

import pytest
import tokenizer_files
from actquant_runtime import ModelFileError
from actquant_runtime._core import Tokenizer

CASES_PER_KIND = 3000

WORDS_TEXT = (
    "pick up the red cube place it in green bowl robot's isn't WE'LL I'm you'd they've 'S 'RE "
    "3.14 42 007 ½ ² Ⅻ ٣٤ 1,000,000 x=-1 a_b_c snake_case CamelCase https://a.b/c?d=e&f #tag @me "
    "café naïve Straße İstanbul ΑΣ ΣΑΣ ǅ ﬁ ſ K Å 把红色的方块放进碗里 ロボット 로봇 한국어 "
    "ضع المكعب الأحمر שלום ไทย हिन्दी поставь 🤖 👩🏽‍🚀 🇩🇪 e\u0301 a\u0323\u0307 \u0301 \ufeff"
    " \u200b \u00ad \u200d \u2028 \u0085 \u00a0 \u3000 \u1680 \ue000 \U000e0001 \uffff \x00 \x7f"
)
WORDS = WORDS_TEXT.split(" ")
SPACES = [" ", " ", " ", " ", "", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "▁"]
BROKEN = [
    "\ufffd",
    "<0x41>",
    "<0xFF",
    "Ġ",
    "ĠĠ",
    "Â",
    "\\n",
    "<",
    ">",
    "<|",
    "|>",
    "{}[]()",
    "''",
    "##",
]
SPECIAL_TEXT = (
    "<|endoftext|> <|im_start|> <|im_end|> <image> <row_1_col_1> <s> </s> <pad> <mask> <unk> <bos> "
    "<eos> <loc0003> <loc00 <|startoftext|> [UNK] RED red Red <|ENDOFTEXT|>"
)
SPECIAL = SPECIAL_TEXT.split(" ")
ADDED = [f"{word}{case}" for word in ("Tok", "the", "<S>", "tok", "<s>") for case in range(16)]


def assigned_in_unicode_3_2() -> list[str]:
    """Letters of which no library can have another, newer opinion."""
    old = unicodedata.ucd_3_2_0.category
    return [chr(c) for c in range(0x30000) if old(chr(c)) not in ("Cn", "Cs")]


OLD_CHARACTERS = assigned_in_unicode_3_2()


def random_text(generator: random.Random) -> str:
    def anything():
        return "".join(generator.choice(OLD_CHARACTERS) for _ in range(generator.randint(1, 4)))

    def part():
        kind = generator.random()
        if kind < 0.55:
            return generator.choice(WORDS)
        if kind < 0.65:
            return generator.choice(SPECIAL)
        if kind < 0.75:
            return generator.choice(ADDED)
        if kind < 0.85:
            return generator.choice(BROKEN)
        return anything()

    count = generator.randint(0, 9)
    return "".join(part() + generator.choice(SPACES) for _ in range(count))


def differences(reference, texts):
    """(text, wanted, got) where the runtime's tokens are not the library's."""
    ours = Tokenizer(reference.to_str())
    found = []
    for text in texts:
        for special in (True, False):
            wanted = reference.encode(text, add_special_tokens=special).ids
            got = ours.encode(text, add_special_tokens=special)
            if got != wanted:
                found.append((text, wanted, got))
    return found


@pytest.mark.parametrize("kind", tokenizer_files.KINDS)
def test_equals_the_library(kind):
    generator = random.Random(kind)
    texts = [random_text(generator) for _ in range(CASES_PER_KIND)]
    texts += ["", " ", "\n", *WORDS, *SPECIAL, *ADDED, *BROKEN, *tokenizer_files.CORPUS]
    assert differences(tokenizer_files.KINDS[kind](), texts)[:3] == []


def test_the_vocabulary_of_a_pretrained_model_equals_the_library():
    """49,152 tokens and their merges, as SmolVLA's language model has them."""
    from pydoc_data.topics import topics

    from smollm2 import load_tokenizer

    generator = random.Random("SmolLM2")
    texts = [random_text(generator) for _ in range(CASES_PER_KIND)]
    texts += [*WORDS, *BROKEN, *topics.values(), *tokenizer_files.CORPUS]
    reference = load_tokenizer().backend_tokenizer
    assert reference.get_vocab_size() >= 49152  # transformers adds some
    assert differences(reference, texts)[:3] == []


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    "behavior", ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
)
def test_split_behaviors_equal_the_library(behavior, invert):
    generator = random.Random(behavior)
    texts = [random_text(generator) for _ in range(300)] + ["a,e,,i", ",,", "bbb", "aeb,,"]
    assert differences(tokenizer_files.splits(behavior, invert), texts)[:3] == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+|\d+|\W",
        r"\w+",
        r"\bthe\b|\Bo",
        r"^t|e$",
        r".+?e|.{2}",
        r"(?>a+|ab)c?|[^\w\s]",
        r"[^a-z]+?(?=[a-z])",
        r"\P{L}{2,}|\p{^L}",
        r"[\x41-\x{5A}\u00e9]+",
        r"(?i:ROB|K|S)+",
        r"a*",
        r"[\p{Lu}\p{Nd}-]+",
    ],
)
def test_regular_expressions_equal_the_library(pattern):
    generator = random.Random(pattern)
    texts = [random_text(generator) for _ in range(500)] + tokenizer_files.CORPUS[:7]
    assert differences(tokenizer_files.splits("isolated", False, pattern), texts)[:3] == []


def test_merges_may_be_strings():
    reference = tokenizer_files.gpt2()
    state = json.loads(reference.to_str())
    state["model"]["merges"] = ["#version: 0.2", *map(" ".join, state["model"]["merges"])]
    text = tokenizer_files.CORPUS[3]
    assert Tokenizer(json.dumps(state)).encode(text) == reference.encode(text).ids


def test_model_may_come_before_or_after_the_rest():
    reference = tokenizer_files.llama()
    state = json.loads(reference.to_str())
    turned = {key: state[key] for key in reversed(state)}
    turned["model"] = {key: state["model"][key] for key in reversed(state["model"])}
    text = tokenizer_files.CORPUS[1]
    assert Tokenizer(json.dumps(turned)).encode(text) == reference.encode(text).ids


def changed(**members) -> str:
    return json.dumps({**json.loads(tokenizer_files.gpt2().to_str()), **members})


def test_all_that_is_not_supported_is_named_at_once():
    replace = {"type": "Replace", "pattern": {"Regex": "(?<=a)b"}, "content": ""}
    text = changed(
        normalizer={"type": "Sequence", "normalizers": [{"type": "BertNormalizer"}, replace]},
        pre_tokenizer={"type": "UnicodeScripts"},
        post_processor={"type": "Magic"},
        model={"type": "Unigram", "vocab": {}},
    )
    with pytest.raises(ModelFileError) as refusal:
        Tokenizer(text)
    for part in (
        "normalizer 'BertNormalizer': it is not supported; supported are Lowercase, NFC, Prepend, "
        "Replace, Sequence and Strip",
        "'(?<=a)b': only the groups",
        "pre_tokenizer 'UnicodeScripts': it is not supported; supported are ByteLevel, Digits, "
        "Metaspace, Sequence, Split, Whitespace and WhitespaceSplit",
        "post_processor 'Magic'",
        "model 'Unigram'",
    ):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read"),
        ("[]", "the model"),
        (changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}), "'b', which"),
        (changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}), "no pair"),
        (changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}), "no pair"),
        (changed(model={"type": "BPE", "vocab": {"a": -1}, "merges": []}), "wrong kind"),
        (changed(model={"type": "BPE", "vocab": {"a": "b"}, "merges": []}), "wrong kind"),
        (changed(model={"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.5}), "dropout"),
        (changed(added_tokens=[{"id": 1}]), "added_tokens"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(text, reason):
    with pytest.raises(ModelFileError, match=reason):
        Tokenizer(text)


def test_a_long_text_is_no_problem():
    reference = tokenizer_files.qwen()
    text = "a" * 60_000 + " " * 60_000 + "b1" * 20_000
    assert Tokenizer(reference.to_str()).encode(text) == reference.encode(text).ids
