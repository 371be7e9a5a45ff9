import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import actquant
from actquant.allocation.uniform import allocate_uniform
from actquant.cli import app
from actquant.common.errors import BudgetError
from actquant.encoders.blocks import encode
from actquant.format.model_file import read_model
from actquant.format.tensor_types import FORMATS
from actquant.recipes import RECIPES, Recipe, find_recipe

PACKAGE = Path(actquant.__file__).parent
CHOOSERS = {"cli/demo_request.py"}
"""What compares recipes has to name them."""


def test_a_new_recipe_is_one_value_and_one_line_in_the_table(checkpoint, tmp_path, monkeypatch):
    encoded = []

    def halve(name, weight, type_name, statistics):
        encoded.append(name)
        return encode(name, weight / 2, type_name)

    recipe = Recipe(
        name="halved",
        summary="every weight halved, for a test",
        allocate=partial(allocate_uniform, type_name="Q4_0"),
        encode=halve,
        one_type="Q4_0",
    )
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    files = {}
    for name in ("halved", "q8_0"):
        files[name] = tmp_path / f"{name}.gguf"
        options = ["--control-rate-hz", "10", "--out", str(files[name]), "--recipe", name]
        result = CliRunner().invoke(app, ["compress", str(checkpoint), *options])
        assert result.exit_code == 0, result.output
    halved, whole = (read_model(files[name]) for name in ("halved", "q8_0"))
    assert halved.metadata.provenance["recipe"] == "halved"
    assert {entry["type"] for entry in halved.metadata.allocation.values()} == {"Q4_0"}
    assert sorted(encoded) == sorted(halved.metadata.allocation)
    short = {v: k for k, v in halved.metadata.provenance["tensor_names"].items()}
    for name in encoded:
        expected = whole.load(short[name]) / 2
        np.testing.assert_allclose(
            halved.load(short[name]), expected, atol=0.15 * np.abs(expected).max()
        )


def test_no_other_room_knows_a_recipes_name():
    recipes = {name for name in RECIPES if name.upper() not in FORMATS}  # types have these too
    named = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith("recipes/") or place in CHOOSERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            compared = isinstance(node, ast.Compare | ast.Dict | ast.Set | ast.Tuple)
            constants = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
            if compared and any(value in recipes for value in constants):
                named.append(f"{place}:{node.lineno}")
    assert named == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is(name):
    recipe = find_recipe(name)
    assert recipe.name == name and recipe.summary
    assert recipe.needs_budget == (recipe.one_type is None)
    assert recipe.float_type in (None, "F32", "F16", "BF16")
    assert (recipe.scores is None) or recipe.needs_dataset


def test_unknown_recipes_are_listed():
    with pytest.raises(BudgetError, match="paper, gptq, awq, imatrix, rtn, f32, f16, bf16, q8_0"):
        find_recipe("best")
