"""The prompt as the policy's tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from actquant_runtime._core import ModelFileError

_TASK_STEPS = {
    "strip": str.strip,
    "lower": str.lower,
    "underscores_to_spaces": lambda task: task.replace("_", " "),
    "newlines_to_spaces": lambda task: task.replace("\n", " "),
}


class PromptTokenizer:
    """Renders the prompt and applies the file's tokenizer, with its suffixes and truncation.

    `prompt`: that of `Runtime.describe()`.
    """

    def __init__(self, tokenizer_json: str, prompt: Mapping[str, Any]):
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelFileError(f"actquant.tokenizer.json cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._prompt = prompt
        self._tokenizer.enable_truncation(prompt["max_length"])

    def __call__(self, task: str, state: NDArray[np.float32]) -> NDArray[np.int64]:
        """Token ids, not padded. `state` [S] is normalised."""
        suffix, suffix_ids = self._prompt["suffix"], self._prompt["suffix_ids"]
        text = self._render(task, state)
        if not text.endswith(suffix):
            text += suffix
        ids = self._tokenizer.encode(text).ids
        if suffix_ids and ids[-len(suffix_ids) :] != suffix_ids:
            ids = [*ids[: self._prompt["max_length"] - len(suffix_ids)], *suffix_ids]
        return np.array(ids, np.int64)

    def _render(self, task: str, state: NDArray[np.float32]) -> str:
        for step in self._prompt["task_steps"]:
            task = _TASK_STEPS[step](task)
        bins = self._prompt["state_bins"]
        edges = -1 + 2 * np.arange(bins) / max(bins, 1)
        indices = (edges[None] <= np.asarray(state, np.float64)[:, None]).sum(1) - 1
        text = " ".join(map(str, indices)) if bins else ""
        return self._prompt["template"].replace("{state}", text).replace("{task}", task)
