"""One file a recipe; RECIPES is the table of them. A new one is a file and a line in it."""

from actquant.common.errors import BudgetError
from actquant.recipes.actquant import ACTQUANT
from actquant.recipes.awq import AWQ
from actquant.recipes.gptq import GPTQ
from actquant.recipes.imatrix import IMATRIX
from actquant.recipes.one_type import BF16, F16, F32, Q8_0
from actquant.recipes.paper import PAPER
from actquant.recipes.recipe import Recipe
from actquant.recipes.rtn import RTN

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Recipe", "find_recipe"]

RECIPES = {
    recipe.name: recipe
    for recipe in (ACTQUANT, PAPER, GPTQ, AWQ, IMATRIX, RTN, F32, F16, BF16, Q8_0)
}

DEFAULT_RECIPE = ACTQUANT.name


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of that name. Raises BudgetError with the valid names if there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise BudgetError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}") from None
