"""The same instructions in other words."""

from __future__ import annotations

import numpy as np

from .scene import OBJECTS, SHAPES
from .tasks import Start

#: Of each kind of task, for each level: another verb, another order, other names of things as well.
#: They are short: words that a policy was not trained on may take a token a letter.
_TEMPLATES: dict[str, tuple[tuple[str, ...], ...]] = {
    "pick": (
        ("lift the {object}", "grab the {object}", "take the {object}"),
        ("pick the {object} up", "the {object}: pick it up", "up with the {object}"),
        ("lift the {object}", "grab the {object}", "the {object}: pick it up"),
    ),
    "place": (
        ("lay the {object} in the {side} tray", "drop the {object} in the {side} tray"),
        ("in the {side} tray put the {object}", "put the {object} in the tray on the {side}"),
        ("put the {object} in the {side} box", "in the {side} box put the {object}"),
    ),
    "push": (
        ("move the {object} to the {side} zone", "slide the {object} to the {side} zone"),
        ("to the {side} zone push the {object}", "push the {object} to the zone on the {side}"),
        ("push the {object} to the {side} field", "the {object} to the {side} field"),
    ),
    "stack": (
        ("put the {object} on the {support}", "set the {object} on the {support}"),
        ("on the {support} stack the {object}", "on the {support} put the {object}"),
        ("set the {object} on the {support}", "pile the {object} on the {support}"),
    ),
}
_OTHER_NAMES = {"cube": "block", "cylinder": "can"}


def paraphrase(start: Start, level: int, rng: np.random.Generator) -> str:
    """Returns what a start asks for in other words, in lowercase; level: 1 to 3."""
    choices = _TEMPLATES[start.task.kind][level - 1]
    what = OBJECTS[start.target]
    if start.task.name == "pick_side":
        what = f"{start.side} {SHAPES[start.target // 3]}"
    support = "" if start.support is None else OBJECTS[start.support]
    if level == len(_TEMPLATES[start.task.kind]):
        what, support = _otherwise(what), _otherwise(support)
    return choices[int(rng.integers(len(choices)))].format(
        object=what, side=start.side, support=support
    )


def _otherwise(name: str) -> str:
    return " ".join(_OTHER_NAMES.get(word, word) for word in name.split())
