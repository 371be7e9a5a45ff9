"""Tokenizers in the formats of the models that policies use, trained on a few lines."""

import json
from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "pick up the red cube and place it in the green bowl",
    "Task: open the top_drawer, State: 127 -1 255 3 88;\nAction: ",
    "What action should the robot take to put the soup in the basket?",
    "push the T-shaped block; it's 12.5 cm to the left, we'll see, isn't it?",
    "把红色的方块放进碗里 ضع المكعب الأحمر في الوعاء поставь куб",
    "café naïve Ünïcödé déjà vu straße İstanbul ΑΣ",
    "robot robots robotic grasp grasping grasped lower lowering    spaces\t\ttabs\n\nlines",
] * 4


def _trained(tokenizer: Tokenizer, size: int = 700, **options) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _byte_level(pre_tokenizer, specials=("<|endoftext|>",), **options) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(
        tokenizer,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def gpt2() -> Tokenizer:
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def smollm2() -> Tokenizer:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>"]
    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer = _byte_level(pre_tokenizers.Sequence([digits, level]), specials)
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False)])
    tokenizer.add_tokens([AddedToken("<row_1_col_1>", normalized=False)])
    return tokenizer


QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
CL100K_POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
    r"[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _with_regex(pattern: str) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(pre_tokenizers.Sequence([split, level]), specials)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def qwen() -> Tokenizer:
    return _with_regex(QWEN)


def llama3() -> Tokenizer:
    tokenizer = _with_regex(LLAMA3)
    tokenizer.model.ignore_merges = True
    begin = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
            ),
        ]
    )
    return tokenizer


def possessive() -> Tokenizer:
    return _with_regex(CL100K_POSSESSIVE)


def o200k() -> Tokenizer:
    return _with_regex(O200K)


def bart() -> Tokenizer:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = _byte_level(level, specials)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ids, add_prefix_space=False)
    return tokenizer


def prefixed_byte_level() -> Tokenizer:
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def clip() -> Tokenizer:
    unknown = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(unk_token=unknown, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Split(Regex(words), behavior="removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    _trained(
        tokenizer,
        special_tokens=["<|startoftext|>", unknown],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in (unknown, "<|startoftext|>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ids, add_prefix_space=False)
    return tokenizer


def _sentence_piece(normalizer, pre_tokenizer, specials, **options) -> Tokenizer:
    """Its bytes are tokens of the model, and not looked for in the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    spelt_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    _trained(tokenizer, 900, special_tokens=[*specials, *spelt_bytes], limit_alphabet=60)
    state = json.loads(tokenizer.to_str())
    state["model"].update(byte_fallback=True, fuse_unk=True, **options)
    state["added_tokens"] = state["added_tokens"][: len(specials)]
    return Tokenizer.from_str(json.dumps(state))


def _with_begin(tokenizer: Tokenizer, token: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))]
    )
    return tokenizer


GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>"]


def gemma() -> Tokenizer:
    """With an ignored word boundary: the text is one word, as the spaces are gone before."""
    tokenizer = _sentence_piece(
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", behavior="merged_with_previous"),
        GEMMA_SPECIALS,
    )
    tokenizer.add_special_tokens([AddedToken(f"<loc{k:04d}>", normalized=False) for k in range(9)])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "▁▁", "\t")])
    return _with_begin(tokenizer, "<bos>")


def gemma_without_pre_tokenizer() -> Tokenizer:
    tokenizer = _sentence_piece(
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        GEMMA_SPECIALS,
        ignore_merges=True,
    )
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    return _with_begin(Tokenizer.from_str(json.dumps(state)), "<bos>")


LLAMA_SPECIALS = ["<unk>", "<s>", "</s>"]


def llama() -> Tokenizer:
    """Added tokens are looked for in the normalised text, as in older files."""
    tokenizer = _sentence_piece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        LLAMA_SPECIALS,
    )
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    for token in state["added_tokens"]:
        token["normalized"] = token["content"] != "</s>"
    return _with_begin(Tokenizer.from_str(json.dumps(state)), "<s>")


def _llama_with_metaspace(scheme: str, split: bool) -> Tokenizer:
    metaspace = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    return _with_begin(_sentence_piece(None, metaspace, LLAMA_SPECIALS), "<s>")


def llama_with_metaspace() -> Tokenizer:
    return _llama_with_metaspace("first", split=False)


def llama_with_split_metaspace() -> Tokenizer:
    return _llama_with_metaspace("always", split=True)


def unknown_characters(fuse: bool) -> Tokenizer:
    """Without a fallback to bytes, with a prefix for all characters of a word but the first."""
    prefix = {"continuing_subword_prefix": "##"}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=fuse, **prefix))
    tokenizer.normalizer = normalizers.Strip(left=True, right=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _trained(tokenizer, 300, special_tokens=["[UNK]"], limit_alphabet=40, **prefix)


def without_unknown() -> Tokenizer:
    """Characters that are no token vanish."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _trained(tokenizer, 300, limit_alphabet=40)


def every_added_token() -> Tokenizer:
    """Every flag of an added token, on a vocabulary that folds case."""
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.normalizer = normalizers.Lowercase()
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    tokens = [
        AddedToken(f"{word}{case}", **{f: bool(case >> k & 1) for k, f in enumerate(flags)})
        for word in ("Tok", "the", "<S>")
        for case in range(16)
    ]
    tokenizer.add_tokens(tokens)
    tokenizer.add_special_tokens([AddedToken("RED", single_word=True, normalized=True)])
    return tokenizer


def splits(behavior: str, invert: bool, pattern: str = r"[aeiou]+|,") -> Tokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=invert)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _byte_level(pre_tokenizers.Sequence([split, level]))


def digit_groups() -> Tokenizer:
    digits = pre_tokenizers.Digits(individual_digits=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _byte_level(pre_tokenizers.Sequence([digits, level]))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": gpt2,
    "smollm2": smollm2,
    "qwen": qwen,
    "llama3": llama3,
    "possessive": possessive,
    "o200k": o200k,
    "bart": bart,
    "prefixed_byte_level": prefixed_byte_level,
    "clip": clip,
    "gemma": gemma,
    "gemma_without_pre_tokenizer": gemma_without_pre_tokenizer,
    "llama": llama,
    "llama_with_metaspace": llama_with_metaspace,
    "llama_with_split_metaspace": llama_with_split_metaspace,
    "fused_unknown": lambda: unknown_characters(True),
    "separate_unknown": lambda: unknown_characters(False),
    "without_unknown": without_unknown,
    "every_added_token": every_added_token,
    "digit_groups": digit_groups,
}
