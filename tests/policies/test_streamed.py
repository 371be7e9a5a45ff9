"""Every family, with its weights on disk and in memory: the same answers, the same programs."""

import json

import numpy as np
import pytest
from tiny_families import BUILDERS, build_tiny, loading

from actquant.capture.policy import capture_policy
from actquant.format.golden import golden_input
from actquant.policies import load_policy, supported_policies
from actquant.policies.base import LoadedPolicy


def test_every_family_has_a_tiny_checkpoint():
    assert sorted(BUILDERS) == supported_policies()


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def pair(request, tmp_path_factory) -> tuple[LoadedPolicy, LoadedPolicy]:
    folder = tmp_path_factory.mktemp("policy") / request.param
    build_tiny(request.param, folder)
    with loading(request.param):
        in_memory, streamed = (
            load_policy(folder, control_rate_hz=10, streamed=streamed) for streamed in (False, True)
        )
    return in_memory, streamed


def test_answers_are_the_same(pair):
    in_memory, streamed = pair
    assert in_memory.streamed is None
    given = golden_input(in_memory.interface, 3, "push the red block")
    expected = in_memory.family.act(in_memory, given.observation, given.noise)
    assert expected.std() > 0
    found = streamed.family.act(streamed, given.observation, given.noise)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_programs_are_the_same_and_weights_stay_on_disk(pair):
    in_memory, streamed = pair
    expected, found = capture_policy(in_memory), capture_policy(streamed)
    assert list(found.params) == list(expected.params)
    assert found.metadata.parameter_count == expected.metadata.parameter_count
    assert found.dropped == expected.dropped
    for name, graph in found.stages.items():
        assert json.dumps(graph.histogram()) == json.dumps(expected.stages[name].histogram())
    for name in list(found.params)[::7]:
        assert np.array_equal(found.params[name], expected.params[name]), name
    if streamed.streamed is not None:
        before = streamed.streamed.bytes
        assert before == sum(4 * p.numel() for p in in_memory.policy.parameters())


def test_no_pattern_is_left_unfused(pair):
    for loaded in pair:
        assert capture_policy(loaded).report.warnings == []
