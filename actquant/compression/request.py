"""What is asked of a compression, refused here where it cannot be granted: nothing is read, and
PyTorch is not imported."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from actquant.common.errors import BudgetError, DatasetError, ParityError
from actquant.common.outputs import MODEL, check_folder, check_output
from actquant.common.paths import require_folder
from actquant.format.golden import VERIFY
from actquant.recipes import RECIPES, Recipe, find_recipe

DEFAULT_BPW = 3.0


@dataclass(frozen=True)
class Goal:
    """How small the file shall be, said in one of three ways.

    bpw: 8 x file bytes / parameters at most; size_bytes: of the file at most; action_error: the
    smallest file that stays below it, in standard deviations of the actions.
    """

    bpw: float | None = None
    size_bytes: int | None = None
    action_error: float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in self._goals.values())

    @property
    def _goals(self) -> dict[str, float | None]:
        return {
            "bits per weight": self.bpw,
            "a size": self.size_bytes,
            "an action error": self.action_error,
        }

    def check(self) -> None:
        """Raises BudgetError for a goal that is given twice, or is not a positive number."""
        given = {goal: value for goal, value in self._goals.items() if value is not None}
        if len(given) > 1:
            raise BudgetError(f"give one of {', '.join(given)}: each of them is the budget")
        for goal, value in given.items():
            if not 0 < value < float("inf"):
                raise BudgetError(f"the budget must be {goal} above 0, not {value:g}")


def parse_size(text: str) -> int | None:
    """Returns the bytes of e.g. `900MB` (10^6) or `1.5GiB` (2^30); None for an empty text.

    Raises BudgetError for what is no size.
    """
    if not text:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise BudgetError(f"{text!r} is no size; write e.g. 900MB or 1.5GiB") from None


def default_verification(dataset: str | Path | None) -> str:
    """Returns which of VERIFY holds where none is asked for."""
    return "quick" if dataset is None else "full"


def check_request(
    recipe_name: str, dataset: str | Path | None, goal: Goal, verify: str | None
) -> Recipe:
    """Returns the recipe; raises BudgetError or ParityError for what no checkpoint could grant."""
    recipe = find_recipe(recipe_name)
    goal.check()
    if recipe.needs_dataset and dataset is None:
        others = ", ".join(r.name for r in RECIPES.values() if not r.needs_dataset)
        raise BudgetError(f"recipe {recipe.name} needs a dataset; without: {others}")
    if recipe.needs_budget and not goal:
        raise BudgetError(f"recipe {recipe.name} needs a budget in bits per weight")
    if not recipe.needs_budget and goal:
        raise BudgetError(
            f"recipe {recipe.name} gives every matrix the type {recipe.one_type}: leave the budget "
            "out, or choose a recipe that has one"
        )
    if goal.action_error is not None and dataset is None:
        raise BudgetError("an action error is measured on a dataset; give one")
    if verify is not None and verify not in VERIFY:
        raise ParityError(f"unknown verification {verify!r}; known: {', '.join(VERIFY)}")
    return recipe


def check_places(
    checkpoint: str | Path,
    dataset: str | Path | None,
    out: Path,
    work: str | Path | None,
    cache: str | Path | None,
    *,
    force: bool,
) -> None:
    """Raises UsageError, OutputError or DatasetError for places that cannot be read or written, or
    must not be (see `check_output`)."""
    if dataset is not None:
        require_folder(dataset, "the folder of a LeRobotDataset", DatasetError)
    inputs = [Path(given) for given in (checkpoint, dataset) if given is not None]
    check_output(out, MODEL, inputs, force=force)
    for folder in (work, cache):
        if folder is not None:
            check_folder(Path(folder), inputs)
