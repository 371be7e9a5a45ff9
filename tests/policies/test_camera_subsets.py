"""Which cameras may be absent from an observation, in the runtime and in PyTorch."""

from itertools import combinations

import numpy as np
import pytest
from actquant_runtime import ArgumentError, Runtime
from tiny_families import build_tiny, loading
from tiny_pi import build_tiny_pi05
from tiny_policies import build_tiny_smolvla

from actquant.capture.policy import convert_f32
from actquant.common.errors import CheckpointError
from actquant.format.golden import golden_input
from actquant.policies import load_policy

CAMERAS = tuple(f"observation.images.{name}" for name in ("scene", "side", "wrist"))
SUBSETS = [seen for count in (1, 2, 3) for seen in combinations(CAMERAS, count)]
BUILDERS = {"pi05": build_tiny_pi05, "smolvla": build_tiny_smolvla}
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=BUILDERS)
def pair(request, tmp_path_factory):
    """A policy of three cameras that may miss some, and its file in the runtime."""
    folder = tmp_path_factory.mktemp(request.param)
    BUILDERS[request.param](folder / "tiny", cameras=CAMERAS)
    with loading(request.param):
        loaded = load_policy(folder / "tiny", control_rate_hz=10)
    return loaded, Runtime(str(convert_f32(loaded, folder / "policy.gguf")))


def test_every_subset_of_the_cameras_is_answered_as_by_pytorch(pair):
    loaded, runtime = pair
    assert len(SUBSETS) == 7 and loaded.interface.optional_cameras == 2
    answers = []
    for seen in SUBSETS:
        masked = [camera for camera in CAMERAS if camera not in seen]
        given = golden_input(loaded.interface, 5, "put the cup on the tray", masked)
        assert given.observation.keys() & set(CAMERAS) == set(seen)
        expected = loaded.family.act(loaded, given.observation, given.noise)
        got = runtime.act(given.observation, noise=given.noise)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0, err_msg=str(seen))
        answers.append(expected)
    for one, other in combinations(answers, 2):
        assert np.abs(one - other).max() > 10 * TOLERANCE


def test_without_any_camera_there_is_no_answer(pair):
    loaded, runtime = pair
    given = golden_input(loaded.interface, 5, "put the cup on the tray", CAMERAS)
    with pytest.raises(CheckpointError, match=f"lacks {', '.join(CAMERAS)}; 2 of the policy's"):
        loaded.family.act(loaded, given.observation, given.noise)
    with pytest.raises(ArgumentError, match="of which 2 may be absent"):
        runtime.act(given.observation, noise=given.noise)


@pytest.mark.parametrize("family", ["act", "diffusion", "evo1", "multi_task_dit", "openvla_oft"])
def test_a_camera_that_a_policy_cannot_miss_is_named(family, tmp_path):
    build_tiny(family, tmp_path / "tiny")
    loaded = load_policy(tmp_path / "tiny", control_rate_hz=10)
    face = loaded.interface
    assert face.optional_cameras == 0
    runtime = Runtime(str(convert_f32(loaded, tmp_path / "policy.gguf")))
    given = golden_input(face, 5, "put the cup on the tray", face.cameras[:1])
    with pytest.raises(CheckpointError, match=rf"lacks? {face.cameras[0]}"):
        loaded.family.act(loaded, given.observation, given.noise)
    with pytest.raises(ArgumentError, match=rf"{face.cameras[0]}.* of which 0 may be absent"):
        runtime.act(given.observation, noise=given.noise)
