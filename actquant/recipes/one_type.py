"""Recipes that give every tensor one type: no budget, no data."""

from functools import partial

from actquant.allocation.uniform import allocate_uniform
from actquant.recipes.recipe import Recipe


def make_recipe(type_name: str) -> Recipe:
    """Returns the recipe of a type, named like the type in lower case."""
    return Recipe(
        name=type_name.lower(),
        summary=f"every matrix in {type_name}",
        allocate=partial(allocate_uniform, type_name=type_name),
        one_type=type_name,
    )


F32, F16, BF16, Q8_0 = map(make_recipe, ("F32", "F16", "BF16", "Q8_0"))
