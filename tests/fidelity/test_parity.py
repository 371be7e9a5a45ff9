import numpy as np
import pytest

from actquant.capture.policy import convert_f32
from actquant.common.errors import ParityError
from actquant.fidelity.distance import action_scale
from actquant.fidelity.parity import (
    ReferenceRunner,
    check_parity,
    golden_observations,
    measure_parity,
)


@pytest.fixture(scope="module")
def file(loaded, tmp_path_factory):
    return convert_f32(loaded, tmp_path_factory.mktemp("parity") / "model.gguf")


def test_a_float32_file_agrees_with_pytorch(file, loaded):
    report = check_parity(file, loaded, n=6, runner=ReferenceRunner.from_file(file))
    assert 0 < report.distance.mean <= report.distance.worst < 1e-5
    assert len(report.golden) == 6 and "ReferenceRunner" in str(report)
    entry = report.golden[1]
    assert set(entry) == {"seed", "prompt", "masked_cameras", "actions", "actions_reference"}
    assert len(entry["masked_cameras"]) == 1
    assert np.shape(entry["actions"]) == np.shape(entry["actions_reference"]) == (6, 7)


class Off(ReferenceRunner):
    error = 1e-2

    def act(self, observation, *, noise):
        return super().act(observation, noise=noise) + self.error


def test_a_difference_is_an_error_with_its_size(file, loaded):
    runner = Off.from_file(file)
    with pytest.raises(ParityError, match=r"worst chunk \d\.\d\de-0\d, .* \(limit 1e-04"):
        check_parity(file, loaded, n=2, runner=runner)
    report = measure_parity(file, loaded, n=2, runner=runner)
    assert report.distance.limit is None
    scale = action_scale(loaded.interface)
    expected = np.sqrt(np.mean((1e-2 / scale) ** 2))
    assert report.distance.worst == pytest.approx(expected, rel=1e-3)
    runner.error = float("nan")
    with pytest.raises(ParityError, match="NaN"):
        measure_parity(file, loaded, n=2, runner=runner)


def test_the_native_runtime_agrees_with_pytorch(file, loaded):
    report = check_parity(file, loaded, n=6)
    assert report.executor == "Runtime"


def test_golden_observations_are_reproducible(loaded):
    first, second = (golden_observations(loaded, n=3) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.seed == b.seed and np.array_equal(a.noise, b.noise)
