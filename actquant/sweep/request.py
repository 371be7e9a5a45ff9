"""What a sweep is asked for, refused here where it cannot be granted: nothing is read, and PyTorch
is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actquant.common.errors import BudgetError, CheckpointError, DatasetError
from actquant.common.outputs import (
    EVALUATION,
    MADE,
    MODEL,
    PAGE,
    SWEEP,
    check_folder,
    check_output,
)
from actquant.common.paths import require_folder
from actquant.common.renames import Renames
from actquant.compression.request import Goal
from actquant.environments.base import require_suite
from actquant.evaluation.starts import parse_starts
from actquant.recipes import find_recipe

REFERENCE = "f16"
"""What all files are compared with, and made first."""


@dataclass(frozen=True)
class Trial:
    """One file of a sweep."""

    recipe: str
    bpw: float | None
    seed: int

    @property
    def name(self) -> str:
        size = "" if self.bpw is None else f"-{self.bpw:g}bpw"
        return f"{self.recipe}{size}" + (f"-seed{self.seed}" if self.seed else "")


@dataclass(frozen=True)
class SweepRequest:
    """checkpoint, dataset: as of `compress`; out: folder of everything; env, starts: as of
    `evaluate`, without env no simulation is run; renames: names in the dataset and in the
    environment -> the policy's."""

    checkpoint: Path
    dataset: Path
    out: Path
    recipes: Sequence[str]
    bpws: Sequence[float]
    seeds: Sequence[int]
    env: str | None
    starts: str
    renames: Renames = field(default_factory=dict)

    def trials(self) -> list[Trial]:
        """Returns every file of the sweep, REFERENCE first; recipes without a budget once."""
        found = [Trial(REFERENCE, None, 0)]
        for name in self.recipes:
            recipe = find_recipe(name)
            budgets = self.bpws if recipe.needs_budget else [None]
            seeds = self.seeds if recipe.needs_dataset else self.seeds[:1]
            found += [Trial(name, bpw, seed) for bpw in budgets for seed in seeds]
        return list(dict.fromkeys(found))

    def check(self, *, force: bool = False) -> None:
        """Raises an ActquantError for what no checkpoint could grant, and for outputs that must not
        be written (see `check_output`)."""
        for bpw in self.bpws:
            Goal(bpw).check()
        names = [trial.name for trial in self.trials()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BudgetError(f"two budgets would give the same name to {', '.join(twice)}")
        parse_starts(self.starts)
        if self.env is not None:
            require_suite(self.env)
        require_folder(self.checkpoint, "a checkpoint folder", CheckpointError)
        require_folder(self.dataset, "the folder of a LeRobotDataset", DatasetError)
        inputs = [self.checkpoint, self.dataset]
        check_folder(self.out, inputs)
        if self.out.is_dir():
            products = {"sweep.json": SWEEP, "sweep.html": PAGE}
            for name in names:
                products |= {f"{name}.gguf": MODEL, f"{name}.json": EVALUATION}
                products[f"{name}.made.json"] = MADE
            for name, product in products.items():
                check_output(self.out / name, product, inputs, force=force)
