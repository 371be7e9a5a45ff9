"""What docs/format.md says, read out of its tables."""

import re
from functools import cache
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs/format.md").read_text()


@cache
def tables(heading: str) -> list[list[list[str]]]:
    """The tables of a section, each its rows of cells without the head."""
    section = PAGE.split(f"\n{heading}\n", 1)[1]
    section = re.split(r"^#{2,3} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    found, rows = [], []
    for line in [*section.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found.append(rows[2:])
            rows = []
    assert found, f"docs/format.md has no table under {heading}"
    return found


def names(cell: str) -> list[str]:
    """The words of a cell that are set as code."""
    return re.findall(r"`([^`]+)`", cell)


def keys() -> dict[str, tuple[str, bool]]:
    """Key of the file -> (type, whether it may be absent)."""
    found = {}
    for cell, kind, _ in tables("## Keys")[0]:
        full = ""
        for name in names(cell):
            full = name if not name.startswith(".") else full.rpartition(".")[0] + name
            found[full] = (re.sub(r"\[.*\]", "[]", kind), "†" in cell)
    return found


def operators(heading: str) -> dict[str, list[str]]:
    """Operator -> its required attributes. heading: of the section."""
    found = {}
    for signature, attributes, _ in tables(heading)[0]:
        (name,) = re.findall(r"^`(\w+)\(.*\)`$", signature)
        required = re.sub(r"\([^)]*\)", "", attributes.strip("`"))
        assert name not in found, f"{name} is documented twice under {heading}"
        found[name] = [word.partition("=")[0] for word in required.split()]
    return found


def json_keys(number: int) -> dict[str, str]:
    """Key -> meaning; number: 0 for provenance, 1 for allocation, 2 for golden."""
    return {name: text for cell, text in tables("### JSON")[number] for name in names(cell)}
