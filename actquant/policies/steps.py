"""Steps of LeRobot's processors: those that a family knows, compared with a checkpoint's.

What a checkpoint does to observations and actions is in its `policy_preprocessor.json` and
`policy_postprocessor.json`. A file reproduces the steps that its family knows; any other step would
be lost without a word, so it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actquant.common.errors import CheckpointError


@dataclass(frozen=True)
class Step:
    """A step by the name that LeRobot registers.

    read: options whose values become part of the file; only: option -> the values that are
    supported; after: steps that must not come later; decides: whether actions change where
    LeRobot's own pipeline has the step and a checkpoint lacks it; repeatable: whether a second one
    changes nothing; meaning: of what `only` excludes.
    """

    name: str
    read: tuple[str, ...] = ()
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    decides: bool = False
    repeatable: bool = False
    meaning: str = ""

    def wrong_options(self, options: Mapping[str, Any]) -> list[str]:
        """Returns what is wrong with a checkpoint's options, one phrase each."""
        wrong = []
        for key, value in options.items():
            if key in self.only and value not in self.only[key]:
                reason = f" ({self.meaning})" if self.meaning else ""
                values = " or ".join(map(json.dumps, self.only[key]))
                given = f"{key} = {json.dumps(value)}{reason}"
                wrong.append(f"{self.name}: {given} is not supported, only {values}")
            elif key not in self.only and key not in self.read:
                wrong.append(f"{self.name}: the option {key} is not known")
        return wrong


RENAME = Step("rename_observations_processor", read=("rename_map",))
BATCH = Step("to_batch_processor", repeatable=True)
DEVICE = Step("device_processor", ("device",), {"float_dtype": (None, "float32")}, repeatable=True)
NORMALIZER = Step(
    "normalizer_processor",
    ("eps", "features", "norm_map"),
    {"normalize_observation_keys": (None,)},
    after=(RENAME.name,),
    decides=True,
)
UNNORMALIZER = replace(NORMALIZER, name="unnormalizer_processor", after=())
TOKENIZER = Step(
    "tokenizer_processor",
    ("tokenizer_name", "max_length"),
    {
        "task_key": ("task",),
        "padding_side": ("right",),
        "padding": ("longest", "max_length"),
        "truncation": (True,),
    },
    decides=True,
)
PADDED_TOKENIZER = replace(TOKENIZER, only={**TOKENIZER.only, "padding": ("max_length",)})
BEFORE: tuple[Step, ...] = (RENAME, BATCH, DEVICE, NORMALIZER)
"""What every preprocessor of LeRobot has."""
AFTER: tuple[Step, ...] = (UNNORMALIZER, DEVICE)
"""What every postprocessor of LeRobot has."""


def check_steps(file: Path, known: Sequence[Step], policy_type: str) -> list[str]:
    """Compares the steps of a processor's file with those that the policy's own pipeline has.

    known: in the order of LeRobot's own pipeline.

    Returns a remark for each step that it lacks and that changes no action.

    Raises CheckpointError naming all steps and options that are not known, are missing and change
    actions, or come twice or in an order that means something else.
    """
    entries = read_entries(file)
    names = [name_of(entry) for entry in entries]
    by_name = {step.name: step for step in known}
    wrong = [
        f"the step {name} is not known and would be lost; {policy_type} has {', '.join(by_name)}"
        for name in dict.fromkeys(names)
        if name not in by_name
    ]
    for entry, name in zip(entries, names, strict=True):
        if name in by_name:
            wrong += by_name[name].wrong_options(entry.get("config") or {})
    remarks, before = [], ""
    for step in known:
        if step.name not in names:
            lack = f"lacks the step {step.name}, which LeRobot's {policy_type} has"
            if step.decides:
                entry = json.dumps({"registry_name": step.name, "config": {}})
                wrong.append(f"{lack}, and actions differ without it: add {entry} after {before}")
            else:
                remarks.append(f"{file.name} {lack}; no action changes")
            continue
        before = step.name
        if names.count(step.name) > 1 and not step.repeatable:
            wrong.append(f"the step {step.name} is there {names.count(step.name)} times")
        late = [other for other in step.after if other in names[names.index(step.name) :]]
        wrong += [f"the step {step.name} comes before {other} and must not" for other in late]
    if wrong:
        raise CheckpointError(f"{file}: {'; '.join(wrong)}")
    return remarks


def read_entries(file: Path) -> list[dict[str, Any]]:
    """Reads the steps of a processor's file. Raises CheckpointError if there are none."""
    try:
        entries = [dict(entry) for entry in json.loads(file.read_text())["steps"]]
        if all(name_of(entry) for entry in entries):
            return entries
        raise ValueError("a step has no name")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{file} lists no steps of a processor: {error!r}") from error


def name_of(entry: Mapping[str, Any]) -> str:
    """Returns the registered name of a step, or that of its class; empty if it has neither."""
    return str(entry.get("registry_name") or entry.get("class") or "")
