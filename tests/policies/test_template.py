"""The template of docs/adding-a-policy.md says everything that a family must say."""

import importlib.util
from pathlib import Path

from actquant.policies import supported_policies

TEMPLATE = Path(__file__).parents[2] / "docs" / "policy_template.py"


def test_the_template_is_a_whole_family_that_is_not_registered():
    before = supported_policies()
    spec = importlib.util.spec_from_file_location("policy_template", TEMPLATE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    family = module.Family()
    assert family.policy_type and family.policy_type not in before
    assert not family.__abstractmethods__
    assert family.group_of("model.vision.layers.3.fc.weight") == ("vision", "vision.3")
    assert supported_policies() == before
