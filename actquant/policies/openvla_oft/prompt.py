"""The prompt, and the tokenizer that turns it into tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from actquant.common.errors import CheckpointError

TEMPLATE = "In: What action should the robot take to {task}?\nOut:"
TASK_STEPS = ("lower",)
MAX_LENGTH = 256
"""Tokens of a prompt; training saw about 20 to 40."""
MIN_LENGTH = 2
"""The images come after the first token."""
BEGIN, STOP, EMPTY = "<s>", "</s>", "▁"
"""Llama 2's tokens 1, 2 and 29871; the prompt begins with the first and ends with the last, each
chunk is followed by the second."""


@dataclass(frozen=True)
class Prompt:
    json: str
    """A `tokenizer.json` without padding and truncation."""
    pad_id: int
    stop_id: int
    empty_id: int

    @classmethod
    def read(cls, folder: Path, config: dict[str, Any]) -> Prompt:
        """Raises CheckpointError if the tokenizer is missing or is not one of Llama 2's kind."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json")
        try:
            content = json.loads(file.read_text())
            content["padding"] = content["truncation"] = None
            text = json.dumps(content, ensure_ascii=False)
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        ids = {token: tokenizer.token_to_id(token) for token in (BEGIN, STOP, EMPTY)}
        missing = [token for token, number in ids.items() if number is None]
        if missing:
            raise CheckpointError(f"{file} has no token {', '.join(map(repr, missing))}")
        if tokenizer.encode("a").ids[:1] != [ids[BEGIN]]:
            raise CheckpointError(f"{file} does not put {BEGIN} before a text")
        return cls(text, int(config.get("pad_token_id") or 0), ids[STOP], ids[EMPTY])

    def encode(self, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns tokens and mask [B, L]; shorter prompts are padded after their first token, since
        the last one has to be next to the actions."""
        tokenizer = tokenizers.Tokenizer.from_str(self.json)
        rows = []
        for task in tasks:
            ids = tokenizer.encode(TEMPLATE.replace("{task}", task.lower())).ids[:MAX_LENGTH]
            ends = ids[-1] == self.empty_id
            rows.append(ids if ends else [*ids[: MAX_LENGTH - 1], self.empty_id])
        length = max(len(row) for row in rows)
        tokens = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            rest = length - len(row) + 1
            tokens[index, 0], tokens[index, rest:] = row[0], torch.tensor(row[1:])
            mask[index, 0] = mask[index, rest:] = True
        return tokens, mask
