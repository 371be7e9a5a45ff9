"""Descriptions, golden inputs and the self-test."""

import json

import numpy as np
import pytest
from actquant_runtime import ArgumentError, ModelFileError, Runtime, golden_observation
from policy_files import write_policy


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(write_policy(tmp_path_factory.mktemp("policy") / "tiny.gguf"))


def test_description_is_typed(runtime):
    about = runtime.describe()
    assert about["name"] == "tiny" and about["driver"] == "sampling"
    assert about["cameras"] == ["observation.images.scene", "observation.images.wrist"]
    assert about["image"] == {
        "height": 6, "width": 12, "source_height": 6, "source_width": 12, "steps": [],
        "scale": 2.0, "offset": -1.0,
    }  # fmt: skip
    assert about["action"]["names"] == ["x_m", "y_m"]
    assert about["action"]["chunk_length"] == 3 and about["action"]["padded_dim"] == 4
    assert about["state"]["std"] == [0.5, 1.5, 2.5]
    assert about["provenance"] == {"tool": "test"} and about["golden"] == []
    assert about["prompt"] == {
        "template": "{task}", "task_steps": [], "state_bins": 0,
        "min_length": 2, "max_length": 6, "pad_id": 7, "suffix": " \n", "suffix_ids": [],
    }  # fmt: skip
    assert about["sampler"]["timesteps"] == [1.0, 0.75, 0.5, 0.25]
    assert about["sampler"]["coefficients"] == [[0, 0, 0, 0, 1, -0.25, 0, 0]] * 4
    assert about["noise_shape"] == [3, 4] and runtime.noise_shape == (3, 4)
    tensors = {tensor["name"]: tensor for tensor in about["tensors"]}
    assert tensors["q.w"] == {"name": "q.w", "type": "f32", "shape": [8, 4], "bytes": 128}
    assert about["stages"]["denoise"]["outputs"] == [
        {"name": "output", "dtype": "f32", "shape": [1, 3, 4]}
    ]
    assert about["stages"]["prefix"]["outputs"] == [
        {"name": "keys", "dtype": "f32", "shape": [1, "5+L", 8]},
        {"name": "key_mask", "dtype": "b8", "shape": [1, "5+L"]},
    ]


def test_golden_inputs_follow_the_specification(runtime):
    """The generator's first numbers, worked out by hand from the format's text."""

    def uniforms(seed):
        mask = (1 << 64) - 1
        while True:
            seed = (seed + 0x9E3779B97F4A7C15) & mask
            z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            yield ((z ^ (z >> 31)) >> 40) / 2**24

    seen, start = golden_observation(runtime.describe(), 7, "push")
    u = uniforms(7)
    for camera in ("observation.images.scene", "observation.images.wrist"):
        grid = [[[int(256 * next(u)) for _ in range(3)] for _ in range(6)] for _ in range(6)]
        for y in range(6):
            for x in range(12):
                assert seen[camera][y, x].tolist() == grid[6 * y // 6][6 * x // 12]
    state = np.array([m + s * (4 * next(u) - 2) for m, s in zip(
        runtime.describe()["state"]["mean"], runtime.describe()["state"]["std"], strict=True
    )])  # fmt: skip
    np.testing.assert_allclose(seen["observation.state"], state, rtol=1e-6)
    expected = [[sum(next(u) for _ in range(12)) - 6 for _ in range(4)] for _ in range(3)]
    np.testing.assert_allclose(start, expected, rtol=1e-6)


def test_masking_changes_nothing_else(runtime):
    whole, start = golden_observation(runtime.describe(), 3)
    masked, same_start = golden_observation(
        runtime.describe(), 3, masked_cameras=["observation.images.scene"]
    )
    assert "observation.images.scene" not in masked
    np.testing.assert_array_equal(start, same_start)
    for key in masked:
        np.testing.assert_array_equal(masked[key], whole[key])


def test_self_test_compares_stored_actions(tmp_path, runtime):
    case = {"seed": 5, "prompt": "push", "masked_cameras": ["observation.images.wrist"]}
    seen, start = golden_observation(runtime.describe(), 5, "push", case["masked_cameras"])
    case["actions"] = runtime.act(seen, noise=start).tolist()
    layout = runtime.describe()["action"]
    shift = 0.5 * np.array(layout["std"])
    case["actions_reference"] = (np.array(case["actions"]) + shift).tolist()
    golden = {"actquant.golden": ("string", json.dumps([case]))}
    report = Runtime(write_policy(tmp_path / "golden.gguf", keys=golden)).self_test()
    assert report["passed"] and report["inputs"] == 1 and report["worst"] < 1e-6
    for key in ("reference_mean", "reference_worst"):
        assert report[key] == pytest.approx(0.5, rel=1e-3)

    case["actions"] = case["actions_reference"]
    golden = {"actquant.golden": ("string", json.dumps([case]))}
    report = Runtime(write_policy(tmp_path / "off.gguf", keys=golden)).self_test()
    assert not report["passed"] and report["worst"] == pytest.approx(0.5, rel=1e-3)


def test_a_file_without_golden_values_or_with_damaged_ones_has_no_self_test(tmp_path, runtime):
    with pytest.raises(ModelFileError, match="no golden values"):
        runtime.self_test()
    golden = {"actquant.golden": ("string", json.dumps([{"seed": 5}]))}
    broken = Runtime(write_policy(tmp_path / "broken.gguf", keys=golden))
    with pytest.raises(ModelFileError, match="actquant.golden is damaged"):
        broken.self_test()


def test_stages_are_checked_when_run_alone(runtime):
    with pytest.raises(ArgumentError, match="there is no stage 'prefill'"):
        runtime.run_stage("prefill", {})
    with pytest.raises(ArgumentError, match="input image is not given"):
        runtime.run_stage("vision", {})
    with pytest.raises(ArgumentError, match="has no input 'picture'"):
        runtime.run_stage("vision", {"image": np.zeros((1, 3, 6, 12)), "picture": np.zeros(1)})
    with pytest.raises(ArgumentError, match=r"is f32\[1,3,6,6\], expected f32\[1,3,6,12\]"):
        runtime.run_stage("vision", {"image": np.zeros((1, 3, 6, 6))})


def test_broken_json_is_refused(tmp_path):
    keys = {"actquant.golden": ("string", "[")}
    with pytest.raises(ModelFileError, match="actquant.golden: it is no JSON"):
        Runtime(write_policy(tmp_path / "json.gguf", keys=keys))
