"""Families are found by name, and imported only then."""

import subprocess
import sys

import pytest

from actquant.policies.registry import FAMILIES, find_family, policy_type, supported_policies


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
