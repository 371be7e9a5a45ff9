import numpy as np
import pytest

from actquant.common.errors import ParityError
from actquant.fidelity.distance import chunk_distances, measure_distance


def test_a_distance_is_the_rms_in_standard_deviations_of_each_action():
    reference = np.zeros((2, 3, 2))
    actions = reference.copy()
    actions[0, :, 0], actions[1, 0, 1] = 0.2, 4.0
    scale = np.array([0.1, 2.0])
    expected = [np.sqrt(3 * 2.0**2 / 6), np.sqrt(2.0**2 / 6)]
    np.testing.assert_allclose(chunk_distances(actions, reference, scale), expected)
    found = measure_distance(actions, reference, scale, limit=1.5)
    assert (found.mean, found.worst) == pytest.approx((np.mean(expected), expected[0]))
    assert found.passed and "limit 2e+00" in str(found) and "over 2 inputs" in str(found)
    assert not measure_distance(actions, reference, scale, limit=1.4).passed
    assert measure_distance(actions, reference, scale).passed


def test_actions_that_are_not_finite_have_no_distance():
    actions = np.full((1, 2, 2), np.nan)
    with pytest.raises(ParityError, match="NaN"):
        measure_distance(actions, np.zeros((1, 2, 2)), np.ones(2))
