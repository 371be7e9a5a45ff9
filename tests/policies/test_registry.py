"""Families are found by name, and imported only then."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from actquant.policies.registry import (
    FAMILIES,
    MODEL_TYPES,
    find_family,
    policy_type,
    supported_policies,
)

ROOT = Path(__file__).parents[2]
SOURCES = {".py", ".pyi", ".cpp", ".h", ".c"}


def families_named_in(text: str) -> set[str]:
    """Names of families, however they are spelled. `act` is also a verb and an activation: there
    only capitals and what is compared with the word count."""
    found = set()
    for name in {*supported_policies(), *MODEL_TYPES} - {"act"}:
        spelled = name.replace("_", "[-_ ]?").replace("xvla", "x-?vla")
        spelled = re.sub(r"pi0(5?)", r"(?:pi|π)_?0(?:\\.?\1)", spelled)
        if re.search(rf"(?<![a-z0-9]){spelled}(?![a-z0-9])", text, re.IGNORECASE):
            found.add(name)
    if re.search(r"""(==|!=|\bin) *["']act["']|(?<![A-Z_])ACT(?![A-Z_])""", text):
        found.add("act")
    return found


@pytest.mark.parametrize("name", supported_policies())
def test_the_table_leads_to_the_family_of_that_name(name):
    family = find_family(name)
    assert family.policy_type == name and not family.__abstractmethods__


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"type": "smolvla"}, "smolvla"),
        ({"model_type": "openvla"}, "openvla_oft"),
        ({"type": "teleport"}, None),
        ({"type": "teleport", "model_type": "openvla"}, None),
        ({"model_type": "llama"}, None),
        ({}, None),
    ],
)
def test_a_configuration_names_its_family(config, name):
    assert policy_type(config) == name


def test_no_family_is_imported_before_it_is_asked_for():
    code = (
        "import sys, actquant.policies as p; p.supported_policies();"
        "print(*(m for m in sys.modules if m.startswith(('actquant.policies.', 'lerobot'))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {f"actquant.policies.{place.partition(':')[0]}" for place in FAMILIES.values()}
    imported = set(found.stdout.split())
    assert "actquant.policies.registry" in imported
    assert not imported & modules and not any(name.startswith("lerobot") for name in imported)


def test_nothing_elsewhere_knows_a_models_name():
    families = ROOT / "actquant" / "policies"
    named = {
        str(file.relative_to(ROOT)): names
        for folder in ("actquant", "runtime")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in SOURCES and not file.is_relative_to(families)
        if (names := families_named_in(file.read_text()))
    }
    assert named == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("if family == 'act':", {"act"}),
        ("an ACT policy", {"act"}),
        ('runtime.act(x), attrs["act"], ACTION', set()),
        ("// as SmolVLA does", {"smolvla"}),
        ("is_pi05", {"pi05"}),
        ("π0.5 and pi_0", {"pi05", "pi0"}),
        (
            "multi-task DiT, OpenVLA-OFT, X-VLA",
            {"multi_task_dit", "openvla", "openvla_oft", "xvla"},
        ),
    ],
)
def test_names_are_found_however_they_are_spelled(text, names):
    assert families_named_in(text) == names
