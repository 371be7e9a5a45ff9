"""A checkpoint's own pre- and postprocessor: loaded, checked, asked what they do."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import (
    batch_to_transition,
    policy_action_to_transition,
    transition_to_batch,
    transition_to_policy_action,
)
from torch import Tensor

from actquant.common.errors import CheckpointError, brief
from actquant.policies.steps import (
    POSTPROCESSOR,
    PREPROCESSOR,
    Step,
    check_steps,
    name_of,
    read_entries,
)

Statistics = dict[str, dict[str, Tensor]]
"""Feature -> name of the statistic (mean, std, min, max) -> values."""


@dataclass(frozen=True)
class Processors:
    """remarks: what they lack of LeRobot's own, where no action changes."""

    pre: Any
    post: Any
    remarks: list[str] = field(default_factory=list)


def load_processors(
    folder: Path,
    config: Any,
    tokenizer: str | None,
    steps: tuple[Sequence[Step], Sequence[Step]],
    statistics: Statistics,
) -> Processors:
    """Loads the policy's own pre- and postprocessor.

    tokenizer: its folder or the hub's name; steps: those that the family knows of each;
    statistics: those among the weights, from which a checkpoint of LeRobot before 0.4 gets its
    processors (LeRobot's own, made for its configuration).

    Raises CheckpointError for files that are missing or damaged, and see `check_steps`.
    """
    files = [folder / PREPROCESSOR, folder / POSTPROCESSOR]
    absent = [file.name for file in files if not file.is_file()]
    if len(absent) == 2 and statistics:
        return _from_statistics(folder, config, statistics)
    if absent:
        raise CheckpointError(_say_missing(folder, absent))
    remarks = []
    for file, known in zip(files, steps, strict=True):
        remarks += check_steps(file, known, config.type)
    if statistics:
        remarks.append("statistics among the weights are not used: the processors have their own")
    pre = _load(files[0], tokenizer, batch_to_transition, transition_to_batch)
    post = _load(files[1], None, policy_action_to_transition, transition_to_policy_action)
    return Processors(pre, post, remarks)


def _say_missing(folder: Path, absent: Sequence[str]) -> str:
    if len(absent) == 1:
        return f"{folder} has no {absent[0]}"
    return (
        f"{folder} has no {' and no '.join(absent)}, and no statistics among its weights "
        "(normalize_inputs.*) to make them of: save the policy with its processors, as LeRobot's "
        "training does"
    )


def _load(file: Path, tokenizer: str | None, to_transition: Any, to_output: Any) -> Any:
    present = {name_of(entry) for entry in read_entries(file)}
    overrides = {"device_processor": {"device": "cpu"}}
    if tokenizer is not None:
        overrides["tokenizer_processor"] = {"tokenizer_name": tokenizer}
    try:
        return PolicyProcessorPipeline.from_pretrained(
            str(file.parent),
            config_filename=file.name,
            local_files_only=True,
            overrides={name: value for name, value in overrides.items() if name in present},
            to_transition=to_transition,
            to_output=to_output,
        )
    except Exception as error:  # every step raises its own
        raise CheckpointError(f"{file} cannot be loaded: {brief(error)}") from error


def _from_statistics(folder: Path, config: Any, statistics: Statistics) -> Processors:
    try:
        pre, post = make_pre_post_processors(config, dataset_stats=statistics)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: its processors cannot be made of the statistics among its weights: "
            f"{brief(error)}"
        ) from error
    remark = (
        "saved by a LeRobot before 0.4: its processors are LeRobot's own, with the statistics "
        "among its weights"
    )
    return Processors(pre, post, [remark])


def tokenizer_source(folder: Path) -> str:
    """Returns where the preprocessor's tokenizer is: the folder, a folder beside, or the hub's
    name. Raises CheckpointError if it names none."""
    file = folder / PREPROCESSOR
    if not file.is_file():
        raise CheckpointError(_say_missing(folder, [PREPROCESSOR]))
    for entry in read_entries(file):
        if name_of(entry) == "tokenizer_processor":
            reference = (entry.get("config") or {}).get("tokenizer_name")
            if isinstance(reference, str):
                at_hand = (folder / "tokenizer.json").is_file()
                beside = (folder / reference).is_dir()
                return str(folder.resolve()) if at_hand and not beside else reference
    raise CheckpointError(f"{file} names no tokenizer")


def find_step(pipeline: Any, attribute: str) -> Any:
    return next((step for step in pipeline.steps if hasattr(step, attribute)), None)


def raw_keys(preprocessor: Any) -> dict[str, str]:
    """Returns policy key -> observation key, where the preprocessor renames."""
    step = find_step(preprocessor, "rename_map")
    return {new: old for old, new in step.rename_map.items()} if step else {}


def plain_tokenizer(tokenizer: Any) -> str:
    """Returns a fast tokenizer of transformers as a `tokenizer.json` without padding and
    truncation."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["padding"] = content["truncation"] = None
    return json.dumps(content, ensure_ascii=False)


@dataclass(frozen=True)
class Tokenizer:
    json: str
    max_length: int
    pad_id: int

    @classmethod
    def read(cls, preprocessor: Any, max_length: int) -> Tokenizer:
        """Returns the preprocessor's tokenizer (see `plain_tokenizer`)."""
        step = find_step(preprocessor, "input_tokenizer")
        if step is None or getattr(step.input_tokenizer, "backend_tokenizer", None) is None:
            raise CheckpointError("the preprocessor has no fast (tokenizer.json) tokenizer")
        pad_id = step.input_tokenizer.pad_token_id
        if step.max_length != max_length:
            logging.getLogger(__name__).warning(
                "the preprocessor's max_length %d is used, not config.json's %d",
                step.max_length,
                max_length,
            )
        return cls(
            plain_tokenizer(step.input_tokenizer), step.max_length, 0 if pad_id is None else pad_id
        )
