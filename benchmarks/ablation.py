"""What each part of the recipe `actquant` contributes: the action error without it.

    python benchmarks/ablation.py --bpw 2.5,3 --out ablation

The reference policy is compressed by `actquant` and by variants of it, each lacking one part;
nothing is simulated. `ablation/sweep.html` shows all of them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from actquant_runtime import dequantize
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import actquant.allocation.measured as measured
from actquant.allocation.budget import TensorSize
from actquant.allocation.forward_order import allocate_forward_order
from actquant.allocation.measured import types_of
from actquant.calibration.accumulators import ACCUMULATORS, GuidedMoments, SecondMoments
from actquant.calibration.statistics import Statistics
from actquant.cli import tables
from actquant.encoders.blocks import Encoded, encode_with_importance
from actquant.encoders.feedback import action_error
from actquant.recipes import RECIPES, Recipe
from actquant.recipes.actquant import ACTQUANT, curvature
from actquant.recipes.recipe import within_budget
from actquant.recipes.settings import CompressionSettings
from actquant.sweep.sweep import Sweep
from actquant.tuning.settings import TuningSettings

REFERENCE = Path(__file__).resolve().parents[1] / "exports" / "reference"


def without_feedback(
    name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None
) -> Encoded:
    """Encodes a weight by ggml with the action Jacobian as the importance."""
    assert statistics is not None
    found = curvature(name, statistics)
    importance = found.jacobian
    if found.rows is not None:
        importance = np.tile(importance.mean(axis=0), (len(weight), 1))
    return encode_with_importance(name, weight, type_name, importance)


def diagonal_errors(
    tensor: TensorSize, weight: np.ndarray, statistics: Statistics
) -> dict[str, float]:
    """Measures types as ggml encodes them, each weight's error by its own action Jacobian."""
    found = curvature(tensor.name, statistics)
    assert not found.sampled, "the reference policy's matrices are small"
    weight = weight if found.rows is None else weight[found.rows]
    errors = {}
    for entry in types_of(tensor):
        encoded = encode_with_importance(tensor.name, weight, entry.name, found.jacobian).tensor
        decoded = dequantize(encoded.data, entry.name, weight.shape[1])
        errors[entry.name] = action_error(weight, decoded, found.jacobian)
    return errors


class HalfGuidedMoments(GuidedMoments):
    """Guided second moments with s to the power of 1/2, between those and plain ones."""

    name = "half_guided_moments"

    def _weights(self, dz: Tensor) -> Tensor:
        return super()._weights(dz).sqrt()


@dataclass(frozen=True)
class OtherMoments(Statistics):
    """Statistics that give the second moments of one kind, whatever is asked for."""

    kind: str = ""

    def moments(self, tensor: str, statistic: str = "") -> list[np.ndarray]:
        return super().moments(tensor, self.kind)


def by_moments(name: str, kind: str, *, types_alone: bool = False) -> Recipe:
    """Returns the recipe without tuning by second moments of another kind; types_alone: for the
    choice of types, not for the feedback."""
    kinds = (GuidedMoments.name, kind) if types_alone else (kind,)

    def seeing_them(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            *others, found = arguments  # statistics come last
            return function(*others, OtherMoments(found.work, found.made_from, found.kept, kind))

        return run

    return replace(
        ACTQUANT,
        name=f"untuned-{name}",
        tuned=False,
        matrices={
            matrix: [k for n in names for k in (kinds if n == GuidedMoments.name else (n,))]
            for matrix, names in ACTQUANT.matrices.items()
        },
        encode=ACTQUANT.encode if types_alone else seeing_them(ACTQUANT.encode),
        errors=seeing_them(ACTQUANT.errors),
    )


ACCUMULATORS[HalfGuidedMoments.name] = HalfGuidedMoments
UNTUNED = replace(ACTQUANT, name="untuned", tuned=False)
MOMENTS = (
    by_moments("plain-moments", SecondMoments.name),
    by_moments("plain-types", SecondMoments.name, types_alone=True),
    by_moments("half-guided", HalfGuidedMoments.name),
)
VARIANTS = (
    UNTUNED,
    replace(ACTQUANT, name="untuned-without-feedback", tuned=False, encode=without_feedback),
    replace(
        ACTQUANT,
        name="untuned-forward-order",
        tuned=False,
        allocate=within_budget(allocate_forward_order),
        errors=None,
    ),
    replace(ACTQUANT, name="untuned-diagonal-errors", tuned=False, errors=diagonal_errors),
    replace(
        ACTQUANT,
        name="untuned-linear-only",
        tuned=False,
        matrices={"linear": ACTQUANT.matrices["linear"]},
    ),
    *MOMENTS,
)
LARGER_TYPES = replace(ACTQUANT, name="untuned-from-IQ2_XXS", tuned=False)


def run(out: Path, recipes: list[Recipe], bpws: list[float], settings: CompressionSettings) -> None:
    """Makes the files of these variants and prints their errors."""
    sweep = Sweep(
        checkpoint=REFERENCE / "checkpoint",
        dataset=REFERENCE / "calibration",
        out=out,
        recipes=[variant.name for variant in recipes],
        bpws=bpws,
        seeds=(0,),
        env=None,
        starts="0:50",
        settings=settings,
    )
    table = {variant.name: variant for variant in recipes}
    with mock.patch.dict(RECIPES, table), Progress(disable=True) as progress:
        Console(width=130).print(*tables.sweep(sweep.run(progress)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bpw", default="2.5,3")
    parser.add_argument("--frames", type=int, default=256, help="held out, for the action error")
    parser.add_argument("--calibrated-on", type=int, default=128, help="frames")
    parser.add_argument("--only", help="variants, with a comma between them; all by default")
    parser.add_argument("--tuned", action="store_true", help="the whole recipe as well")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    bpws = [float(bpw) for bpw in arguments.bpw.split(",")]
    settings = CompressionSettings(
        n_frames=arguments.calibrated_on,
        n_held_out=arguments.frames,
        tuning=TuningSettings(minutes=60),
    )
    chosen = [*VARIANTS, *([ACTQUANT] if arguments.tuned else [])]
    if arguments.only:
        wanted = arguments.only.split(",")
        run(arguments.out, [v for v in chosen if v.name in wanted], bpws, settings)
        return
    run(arguments.out, chosen, bpws, settings)
    with mock.patch.object(measured, "BASE", "IQ2_XXS"):
        run(arguments.out, [LARGER_TYPES], bpws, settings)


if __name__ == "__main__":
    main()
