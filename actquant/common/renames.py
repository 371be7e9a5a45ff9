"""Names of cameras and vectors that differ between a policy and what it is shown.

Renames map the name in a dataset or an environment to the policy's; to nothing where it is to be
left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import product

Renames = Mapping[str, str]


def rename_keys[Value](values: Mapping[str, Value], renames: Renames) -> dict[str, Value]:
    """Returns values under the policy's names."""
    named = {renames.get(key, key): value for key, value in values.items()}
    named.pop("", None)
    return named


def wrong_renames(renames: Renames, given: Iterable[str], owner: str) -> list[str]:
    """Returns what is wrong with renames, one phrase each.

    given: the names that `owner` ("the dataset") has.
    """
    names = list(given)
    wrong = [
        f"--rename {old}={new}: {owner} has no {old}; it has {', '.join(names)}"
        for old, new in renames.items()
        if old not in names
    ]
    kept = [name for name in names if name not in renames]
    targets = [new for new in renames.values() if new]
    return wrong + [
        f"--rename {old}={new}: {owner} then has two of that name"
        for old, new in renames.items()
        if old in names and new and (new in kept or targets.count(new) > 1)
    ]


def propose(given: Sequence[str], wanted: Sequence[str]) -> str:
    """Returns options that give the wanted names to those of `given` that sound most like them."""
    pairs = sorted(product(given, wanted), key=lambda pair: -likeness(*pair))
    chosen: dict[str, str] = {}
    for old, new in pairs:
        if old not in chosen and new not in chosen.values():
            chosen[old] = new
    order = sorted(chosen.items(), key=lambda pair: wanted.index(pair[1]))
    return " ".join(f"--rename {old}={new}" for old, new in order)


def camera_mismatch(given: Sequence[str], wanted: Sequence[str], owner: str) -> str:
    """Returns what to do where both sides have cameras that the other has not; empty otherwise."""
    strange = [name for name in given if name not in wanted]
    lacking = [name for name in wanted if name not in given]
    if not (strange and lacking):
        return ""
    return (
        f"the policy looks through {', '.join(wanted)}, {owner} has {', '.join(given)}: say which "
        f"is which, such as {propose(strange, lacking)}; --rename {strange[0]}= leaves one out"
    )


def likeness(old: str, new: str) -> float:
    """Returns how alike the last parts of two names are, from 0 to 1."""
    return SequenceMatcher(None, old.rpartition(".")[2], new.rpartition(".")[2]).ratio()
