"""A made-up tokenizer of Gemma's kind, of any size: byte pairs, with bytes to fall back on."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from typing import Any

from transformers import GemmaTokenizer

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
SPACE = "▁"
LETTERS = SPACE + string.ascii_lowercase


def merges_of(symbols: str) -> Iterator[tuple[str, str]]:
    """Returns all pairs of symbols, then all triples from pairs, and so on; spaces in front."""
    words = list(symbols)
    while True:
        longer = [(word, symbol) for word, symbol in itertools.product(words, symbols[1:])]
        yield from longer
        words = [left + right for left, right in longer]


def gemma_tokenizer(size: int) -> Any:
    """Builds a tokenizer with `size` tokens that begins answers with `<bos>`, as PaliGemma's does.

    The first ids are those of Gemma's special tokens and bytes; then come the printable characters
    and as many merges of letters as fit. Raises ValueError if not even the characters fit.
    """
    characters = SPACE + string.printable.strip(" ")
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    if size < len(tokens):
        raise ValueError(f"a Gemma tokenizer has at least {len(tokens)} tokens, not {size}")
    merges = list(itertools.islice(merges_of(LETTERS), size - len(tokens)))
    tokens += [left + right for left, right in merges]
    make: Any = GemmaTokenizer
    return make(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        add_bos_token=True,
    )
