"""Every family's policy computed by Vulkan: as PyTorch answers, and as the processor does."""

from pathlib import Path

import numpy as np
import pytest
from actquant_runtime import Runtime
from tiny_families import BUILDERS, build_tiny, loading

from actquant.capture.policy import convert_f32
from actquant.compression.pipeline import compress
from actquant.fidelity.distance import action_scale, measure_distance
from actquant.fidelity.parity import PROMPTS, chunks_of, measure_parity
from actquant.format.golden import golden_inputs
from actquant.policies import LoadedPolicy, load_policy


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(family, tmp_path_factory.mktemp(family) / "tiny")


@pytest.fixture(scope="module")
def loaded(family: str, checkpoint: Path) -> LoadedPolicy:
    with loading(family):
        return load_policy(checkpoint, control_rate_hz=10)


def on_device(file: Path) -> Runtime:
    runtime = Runtime(file, device="vulkan")
    about = runtime.describe()
    assert about["device"] == "vulkan0"
    assert about["operators_on_cpu"] == []
    return runtime


def test_f32_weights_are_the_policy(loaded: LoadedPolicy, tmp_path: Path):
    file = convert_f32(loaded, tmp_path / "policy.gguf")
    report = measure_parity(file, loaded, n=4, runner=on_device(file))
    assert report.distance.worst < 1e-5, str(report)


@pytest.mark.parametrize("recipe", ["f16", "q8_0"])
def test_other_weights_act_as_on_the_processor(
    family: str, checkpoint: Path, loaded: LoadedPolicy, tmp_path: Path, recipe: str
):
    file = tmp_path / "policy.gguf"
    with loading(family):
        compress(checkpoint, file, recipe=recipe, control_rate_hz=10)
    runtime = on_device(file)
    tested = runtime.self_test()
    assert tested["passed"] and tested["inputs"] > 0, tested
    inputs = golden_inputs(loaded.interface, PROMPTS, n=3, first_seed=1_000)
    found, expected = chunks_of(runtime, inputs), chunks_of(Runtime(file), inputs)
    distance = measure_distance(found, expected, action_scale(loaded.interface))
    assert distance.worst < tested["limit"], str(distance)
    assert not np.array_equal(found, expected)  # the device did compute
