"""Two evaluations on the same starts: the paired difference, McNemar's test, and what it tells."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError
from actquant.common.statistics import mcnemar_exact, newcombe95
from actquant.evaluation.plan import SIGNIFICANCE, paired_episodes, smallest_difference
from actquant.evaluation.result import EvaluationResult

Verdict = Literal["A is better", "B is better", "cannot tell"]


class PairedDifference(BaseModel):
    """A − B on n paired starts; `difference95` is Newcombe's interval for paired proportions."""

    model_config = ConfigDict(extra="forbid")

    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    difference95: tuple[float, float]
    mcnemar_p: float


class JudgedDifference(PairedDifference):
    """A paired difference and what can be said of it, at p < 0.05 and with a power of 80 %.

    tells_from: the least difference that so many pairs would show, if the models differ on as many
    starts as here, None for too few pairs for any; pairs_needed: how many show a difference as
    large as the one found, None where one is shown already, or where none was found.
    """

    verdict: Verdict
    tells_from: float | None
    pairs_needed: int | None


class Comparison(BaseModel):
    """marks: those of both results; a_circumstances, b_circumstances: `Provenance.circumstances`
    of each."""

    model_config = ConfigDict(extra="forbid")

    a: str
    b: str
    marks: list[str] = []
    a_circumstances: list[str] = []
    b_circumstances: list[str] = []
    tasks: dict[str, JudgedDifference]
    overall: JudgedDifference


def paired_difference(a: list[bool], b: list[bool]) -> PairedDifference:
    """Compares the successes a and b of the same episodes, in the same order."""
    n = len(a)
    both = sum(x and y for x, y in zip(a, b, strict=True))
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    neither = n - both - only_a - only_b
    return PairedDifference(
        n=n,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        difference=(only_a - only_b) / n,
        difference95=newcombe95(both, only_a, only_b, neither),
        mcnemar_p=mcnemar_exact(only_a, only_b),
    )


def judge(pair: PairedDifference) -> JudgedDifference:
    """Says which is better, or that so many pairs cannot tell, and how many would."""
    found, discordance = abs(pair.difference), (pair.only_a + pair.only_b) / pair.n
    verdict: Verdict = "cannot tell"
    if pair.mcnemar_p < SIGNIFICANCE:
        verdict = "A is better" if pair.difference > 0 else "B is better"
    open_ = verdict == "cannot tell" and found > 0
    return JudgedDifference(
        **pair.model_dump(),
        verdict=verdict,
        tells_from=smallest_difference(pair.n, discordance),
        pairs_needed=paired_episodes(found, discordance) if open_ else None,
    )


Pairs = dict[tuple[str, int], tuple[bool, bool]]


def pair_up(a: EvaluationResult, b: EvaluationResult, a_name: str, b_name: str) -> Pairs:
    """Returns the successes of A and B by task and start.

    Raises EvaluationError if the two were not run in the same environment under the same
    conditions, or share no start.
    """
    conditions = [_conditions(result) for result in (a, b)]
    for key in dict.fromkeys(key for each in conditions for key in each):
        left, right = (each.get(key) for each in conditions)
        if left != right:
            raise EvaluationError(
                f"these evaluations cannot be paired: {key} is {left!r} in {a_name} "
                f"and {right!r} in {b_name}"
            )
    of_a = {(e.task, e.start): e.success for e in a.episodes}
    of_b = {(e.task, e.start): e.success for e in b.episodes}
    pairs = {key: (of_a[key], of_b[key]) for key in of_a if key in of_b}
    if not pairs:
        raise EvaluationError(f"{a_name} and {b_name} share no task and start")
    return pairs


def _conditions(result: EvaluationResult) -> dict[str, Any]:
    of = result.provenance
    keys = ("env", "marks", "seed", "grey_camera", "wrong_instruction", "perturb", "env_options")
    return {key: getattr(of, key) for key in keys} | dict(of.environment)


def difference_of(pairs: Pairs, task: str | None = None) -> PairedDifference:
    """Returns the difference on all pairs, or on those of a task."""
    chosen = [pair for key, pair in pairs.items() if task in (None, key[0])]
    return paired_difference([a for a, _ in chosen], [b for _, b in chosen])


def overall_difference(a_path: Path, b_path: Path) -> PairedDifference:
    """Returns the difference on all starts that two results share; raises as `pair_up`."""
    a, b = EvaluationResult.load(a_path), EvaluationResult.load(b_path)
    return difference_of(pair_up(a, b, str(a_path), str(b_path)))


def compare(a_path: Path, b_path: Path) -> Comparison:
    """Pairs episodes by task and start; episodes that do not count in one result pair with none.

    Raises as `pair_up`.
    """
    a, b = EvaluationResult.load(a_path), EvaluationResult.load(b_path)
    return compare_results(a, b, str(a_path), str(b_path))


def compare_results(
    a: EvaluationResult, b: EvaluationResult, a_name: str, b_name: str
) -> Comparison:
    """Compares two results; raises as `pair_up`."""
    pairs = pair_up(a, b, a_name, b_name)
    return Comparison(
        a=a_name,
        b=b_name,
        marks=a.provenance.marks,
        a_circumstances=a.provenance.circumstances,
        b_circumstances=b.provenance.circumstances,
        tasks={
            task: judge(difference_of(pairs, task)) for task in dict.fromkeys(t for t, _ in pairs)
        },
        overall=judge(difference_of(pairs)),
    )
