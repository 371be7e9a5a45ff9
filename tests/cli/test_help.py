"""`--help` shows all that the code says of an option, and long lists of options in groups."""

from collections import Counter
from typing import Any

import pytest
from typer.core import TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from actquant.cli import app

GROUP: Any = get_command(app)
COMMANDS = GROUP.commands
MOST_IN_A_GROUP = 10


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_nothing_is_taken_for_a_style(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "2000"}).output
    assert "Usage:" in shown
    words = " ".join(shown.split())
    for parameter in COMMANDS[name].params:
        told = " ".join((parameter.help or "").replace("\\[", "[").split())
        assert told in words, f"{parameter.name}: {told!r} is not in {shown}"


@pytest.mark.parametrize("name", ["compress", "deploy", "serve"])
def test_long_lists_of_options_are_grouped(name: str) -> None:
    options = [each for each in COMMANDS[name].params if isinstance(each, TyperOption)]
    groups = Counter(option.rich_help_panel or "Options" for option in options)
    assert len(groups) > 2 and max(groups.values()) <= MOST_IN_A_GROUP, groups
