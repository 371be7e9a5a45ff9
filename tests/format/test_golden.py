"""Golden inputs are defined by docs/format.md, so that a reader in any language can make them."""

from dataclasses import replace

import numpy as np
import pytest

from actquant.format.golden import golden_input, golden_inputs
from actquant.format.schema import PolicyInterface, Sampler

INTERFACE = PolicyInterface(
    driver="sampling",
    sampler=Sampler.euler(2),
    cameras=("observation.images.a", "observation.images.b"),
    optional_cameras=1,
    image_height=12,
    image_width=9,
    image_source_height=14,
    image_source_width=10,
    image_steps=("resize_pad height=12 width=9 filter=bilinear antialias=0 round=0",),
    image_scale=2.0,
    image_offset=-1.0,
    tokenizer_json="{}",
    tokenizer_max_length=8,
    tokenizer_pad_id=0,
    tokenizer_suffix="\n",
    state_names=("x", "y"),
    action_names=("x",),
    state_padded_dim=4,
    action_padded_dim=3,
    state_mean=(10.0, -1.0),
    state_std=(1.0, 0.5),
    action_mean=(0.0,),
    action_std=(1.0,),
    normalization_eps=1e-8,
    chunk_length=2,
    steps_per_chunk=2,
    control_rate_hz=10.0,
    noise_rows=2,
    noise_dim=3,
)


class SplitMix64:
    """Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), written
    again from docs/format.md to hold the runtime's generator to it."""

    MASK = (1 << 64) - 1

    def __init__(self, seed: int) -> None:
        self.state = seed & self.MASK

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & self.MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & self.MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """In [0, 1), a multiple of 2⁻²⁴."""
        return (self.next() >> 40) / (1 << 24)


def test_splitmix64_is_the_published_sequence():
    random = SplitMix64(1234567)
    assert [random.next() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_order_and_meaning_of_what_is_drawn():
    x = golden_input(INTERFACE, 7, "go")
    random = SplitMix64(7)
    for camera in INTERFACE.cameras:
        grid = np.array([int(256 * random.uniform()) for _ in range(108)]).reshape(6, 6, 3)
        image = x.observation[camera]
        assert image.shape == (14, 10, 3) and image.dtype == np.uint8
        assert np.array_equal(image[13, 9], grid[5, 5])
        assert np.array_equal(image[3, 4], grid[1, 2])
    state = [10 + 1 * (4 * random.uniform() - 2), -1 + 0.5 * (4 * random.uniform() - 2)]
    np.testing.assert_allclose(x.observation["observation.state"], state, rtol=1e-6)
    first = sum(random.uniform() for _ in range(12)) - 6
    assert x.noise.shape == (2, 3) and x.noise.dtype == np.float32
    assert x.noise[0, 0] == pytest.approx(first, rel=1e-6)


def test_a_masked_camera_is_left_out_and_changes_nothing_else():
    whole = golden_input(INTERFACE, 3, "go")
    masked = golden_input(INTERFACE, 3, "go", ("observation.images.a",))
    assert "observation.images.a" not in masked.observation
    assert np.array_equal(masked.noise, whole.noise)
    assert np.array_equal(
        masked.observation["observation.images.b"], whole.observation["observation.images.b"]
    )


def test_several_observation_steps_are_drawn_oldest_first():
    x = golden_input(replace(INTERFACE, observation_steps=2), 7, "go", ("observation.images.a",))
    random = SplitMix64(7)
    grids, states = [], []
    for _ in range(2):
        for _ in INTERFACE.cameras:
            grids.append([int(256 * random.uniform()) for _ in range(108)])
        states.append([10 + 4 * random.uniform() - 2, -1 + 0.5 * (4 * random.uniform() - 2)])
    assert set(x.observation) == {"observation.images.b", "observation.state", "task"}
    images = x.observation["observation.images.b"]
    assert images.shape == (2, 14, 10, 3)
    for image, cells in zip(images, (grids[1], grids[3]), strict=True):
        assert np.array_equal(image[13, 9], np.array(cells).reshape(6, 6, 3)[5, 5])
    np.testing.assert_allclose(x.observation["observation.state"], states, rtol=1e-6)


def test_the_noise_has_the_shape_that_the_sampler_takes():
    row = (0.0, 0.0, 0.0, 0.0, 1.0, -0.5, 1.0, 0.0)
    sampler = Sampler((1.0, 0.5), (row, row))
    x = golden_input(replace(INTERFACE, sampler=sampler), 3, "go")
    assert x.noise.shape == (3, 2, 3)
    assert np.array_equal(x.noise[0], golden_input(INTERFACE, 3, "go").noise)
    x = golden_input(replace(INTERFACE, sampler=None, driver="one_shot"), 3, "go")
    assert x.noise.shape == (0,)


def test_a_policy_without_state_has_none_in_its_observation():
    x = golden_input(replace(INTERFACE, state_names=(), state_mean=(), state_std=()), 3, "go")
    assert "observation.state" not in x.observation


def test_a_list_covers_prompts_and_masks():
    inputs = golden_inputs(INTERFACE, ("a", "b"), n=7)
    assert {x.prompt for x in inputs} == {"a", "b"}
    assert {x.masked_cameras for x in inputs} == {
        (),
        ("observation.images.a",),
        ("observation.images.b",),
    }
    assert len({x.seed for x in inputs}) == 7
    one = replace(INTERFACE, optional_cameras=0)
    assert all(not x.masked_cameras for x in golden_inputs(one, ("a",), n=7))
