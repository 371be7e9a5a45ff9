"""Which room may import which: dependencies point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "common": set(),
    "weights": {"common"},
    "program": {"common", "weights"},
    "format": {"common", "weights", "program"},
    "policies": {"common", "weights", "format"},
    "capture": {"common", "weights", "program", "format", "policies"},
    "calibration": {"common", "policies"},
    "allocation": {"common", "format"},
    "encoders": {"common", "format"},
    "tuning": {"common", "format", "policies", "calibration"},
    "recipes": {
        *("common", "format", "policies", "calibration", "allocation", "encoders", "tuning"),
    },
    "fidelity": {"common", "program", "format", "policies", "calibration"},
    "compression": {
        *("common", "program", "format", "policies", "capture", "calibration", "allocation"),
        *("encoders", "tuning", "recipes", "fidelity"),
    },
    "control": {"common", "policies"},
    "environments": {"common", "control"},
    "evaluation": {"common", "format", "control", "environments"},
    "hub": {"common", "format", "fidelity", "control", "evaluation"},
    "deploy": {"common", "control"},
    "serve": {"common"},
    "ros": {"common", "control", "deploy", "serve"},
    "sweep": {
        *("common", "format", "policies", "calibration", "recipes", "compression", "environments"),
        *("control", "evaluation"),
    },
    "cli": {
        *("common", "format", "policies", "calibration", "recipes", "fidelity", "compression"),
        *("control", "environments", "evaluation", "hub", "deploy", "serve", "ros", "tuning"),
        "sweep",
    },
}
"""Room of `actquant/` -> rooms it may import, at the top of a module or inside a function."""
WITHOUT_TORCH = (
    *("common", "format", "allocation", "encoders", "recipes", "control", "environments"),
    *("evaluation", "hub", "deploy", "serve", "ros", "cli"),
)
WITH_TORCH = {"actquant.format.image_steps", "actquant.cli.demo"}
"""Modules of these rooms that are imported when a command that compresses asks for them."""


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(path: Path) -> set[str]:
    parts = (name.split(".") for name in imported(path))
    return {p[1] for p in parts if p[0] == "actquant" and len(p) > 1} & set(MAY_IMPORT)


def test_the_table_names_every_room_and_has_no_cycle():
    rooms = {path.parent.name for path in (ROOT / "actquant").glob("*/__init__.py")}
    assert rooms == set(MAY_IMPORT)
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        ready = [r for r, low in MAY_IMPORT.items() if r not in order and low <= set(order)]
        assert ready, f"a cycle among {set(MAY_IMPORT) - set(order)}"
        order += ready
    assert order[0] == "common" and order[-1] == "cli"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_those_below_it(room):
    found = {
        path.relative_to(ROOT).as_posix(): rooms - MAY_IMPORT[room] - {room}
        for path in sorted((ROOT / "actquant" / room).rglob("*.py"))
        if (rooms := rooms_of(path)) - MAY_IMPORT[room] - {room}
    }
    assert found == {}


@pytest.mark.parametrize("folder", ["sim_envs", "robot", "motion", "runtime", "exports"])
def test_what_lies_beside_actquant_imports_nothing_of_it(folder):
    """But for the reference policy's own scripts, which are no part of the plugin, and the client
    of served policies."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "reference" not in path.parts
        and any(
            name.split(".")[0] == "actquant" and not name.startswith("actquant.serve.client")
            for name in imported(path)
        )
    }
    assert found == set()


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_a_room_that_a_robot_needs_does_not_load_torch(room):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "actquant" / room).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    wanted = ", ".join(module for module in modules if module not in WITH_TORCH)
    code = f"import sys, {wanted}; print(*(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "lerobot", "safetensors"} & set(done.stdout.split())
