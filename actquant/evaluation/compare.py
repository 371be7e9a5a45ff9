"""Two evaluations on the same starts: the paired difference and McNemar's test."""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError
from actquant.common.statistics import mcnemar_exact
from actquant.evaluation.evaluate import EvaluationResult


class PairedDifference(BaseModel):
    """A − B on n paired starts; `difference95` is the Wald interval for paired proportions."""

    model_config = ConfigDict(extra="forbid")

    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    difference95: tuple[float, float]
    mcnemar_p: float


class Comparison(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: str
    b: str
    tasks: dict[str, PairedDifference]
    overall: PairedDifference


def paired_difference(a: list[bool], b: list[bool]) -> PairedDifference:
    """Compares the successes a and b of the same episodes, in the same order."""
    n = len(a)
    both = sum(x and y for x, y in zip(a, b, strict=True))
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    difference = (only_a - only_b) / n
    half = 1.96 * math.sqrt(max(0.0, (only_a + only_b) / n - difference**2) / n)
    return PairedDifference(
        n=n,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=n - both - only_a - only_b,
        difference=difference,
        difference95=(max(-1.0, difference - half), min(1.0, difference + half)),
        mcnemar_p=mcnemar_exact(only_a, only_b),
    )


def compare(a_path: Path, b_path: Path) -> Comparison:
    """Pairs episodes by task and start.

    Raises EvaluationError if the two were not run in the same environment under the same
    conditions, or share no start.
    """
    a, b = EvaluationResult.load(a_path), EvaluationResult.load(b_path)
    for key in ("env", "seed", "grey_camera", "wrong_instruction"):
        left, right = getattr(a.provenance, key), getattr(b.provenance, key)
        if left != right:
            raise EvaluationError(
                f"these evaluations cannot be paired: {key} is {left!r} in {a_path} "
                f"and {right!r} in {b_path}"
            )
    of_a = {(e.task, e.start): e.success for e in a.episodes}
    of_b = {(e.task, e.start): e.success for e in b.episodes}
    pairs = [key for key in of_a if key in of_b]
    if not pairs:
        raise EvaluationError(f"{a_path} and {b_path} share no task and start")
    tasks = list(dict.fromkeys(task for task, _ in pairs))

    def difference(keys: list[tuple[str, int]]) -> PairedDifference:
        return paired_difference([of_a[key] for key in keys], [of_b[key] for key in keys])

    return Comparison(
        a=str(a_path),
        b=str(b_path),
        tasks={task: difference([key for key in pairs if key[0] == task]) for task in tasks},
        overall=difference(pairs),
    )
