"""What the demo makes and where, and what stands in its way; PyTorch is not imported."""

from pathlib import Path

from actquant.common.errors import CheckpointError
from actquant.common.outputs import DEMO, EVALUATION, FILM, MODEL, check_folder, check_output
from actquant.compression.request import Goal
from actquant.recipes import find_recipe

REFERENCE = Path(__file__).resolve().parents[2] / "exports" / "reference"
CHECKPOINT, DATASET = REFERENCE / "checkpoint", REFERENCE / "calibration"
RECIPES = ("f16", "actquant", "paper", "rtn")
REPORT, FILM_FILE = "report.json", "side-by-side.gif"


def file_name(recipe: str, bpw: float) -> str:
    """Returns what the files of a recipe are called, without their endings."""
    return f"{recipe}-{bpw:g}bpw" if find_recipe(recipe).needs_budget else recipe


def check_demo(out: Path, bpw: float, *, force: bool) -> None:
    """Raises BudgetError, CheckpointError if the reference policy is not beside the package, and
    what `check_output` raises."""
    Goal(bpw).check()
    if not (CHECKPOINT / "config.json").is_file():
        raise CheckpointError(
            f"there is no reference policy at {CHECKPOINT}; run the demo from a clone of the "
            "repository"
        )
    inputs = [CHECKPOINT, DATASET]
    check_folder(out, inputs)
    if not out.is_dir():
        return
    products = {REPORT: DEMO, FILM_FILE: FILM}
    for recipe in RECIPES:
        name = file_name(recipe, bpw)
        products |= {f"{name}.gguf": MODEL, f"{name}.json": EVALUATION}
    for name, product in products.items():
        check_output(out / name, product, inputs, force=force)
