"""The prompt as the policy's tokens."""

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from actquant_runtime._core import ModelFileError


class PromptTokenizer:
    """The file's tokenizer, with its suffix, truncation and padding to a fixed length."""

    def __init__(self, tokenizer_json: str, max_length: int, pad_id: int, suffix: str):
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelFileError(f"actquant.tokenizer.json cannot be read: {error}") from error
        self._suffix = suffix
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(direction="right", pad_id=pad_id, length=max_length)

    def __call__(self, prompt: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Token ids [max_length] and their mask [max_length], 1 for a token, 0 for padding."""
        if not prompt.endswith(self._suffix):
            prompt += self._suffix
        encoding = self._tokenizer.encode(prompt)
        return np.array(encoding.ids, np.int64), np.array(encoding.attention_mask, np.uint8)
