"""Image steps against torch, torchvision, Pillow, LeRobot and TensorFlow's formula."""

from importlib import import_module

import numpy as np
import pytest
from actquant_runtime import ModelFileError
from actquant_runtime._core import preprocess_image
from PIL import Image

from actquant.format.image_steps import apply_image_steps

torch = import_module("torch")
transforms = import_module("torchvision.transforms")

SIZES = [
    ((480, 640), (224, 224)),
    ((96, 96), (224, 224)),
    ((37, 53), (64, 31)),
    ((224, 224), (223, 225)),
    ((100, 100), (100, 100)),
    ((5, 300), (11, 7)),
    ((1, 1), (8, 9)),
]
PILLOW = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
LEVEL = 1 / 255


def picture(height, width, seed=0):
    """Smooth shades with hard edges and noise, so that filters overshoot."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shade = 127 + 120 * np.sin(x / 9)[..., None] * np.cos(y / 7)[..., None]
    shade = np.where(((x // 13 + y // 17) % 3 == 0)[..., None], 255 - shade, shade)
    noise = generator.integers(-60, 60, (height, width, 3))
    return np.clip(shade + noise, 0, 255).astype(np.uint8)


def tensor_of(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def run(image, size, *steps):
    return preprocess_image(image, list(steps), *size, 1.0, 0.0)


def resize_step(size, filter, antialias, round):
    return (
        f"resize height={size[0]} width={size[1]} filter={filter} antialias={antialias} "
        f"round={round}"
    )


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_resize_is_torchs(source, target, filter, antialias):
    image = picture(*source)
    wanted = torch.nn.functional.interpolate(
        tensor_of(image), target, mode=filter, align_corners=False, antialias=bool(antialias)
    )[0]
    got = run(image, target, resize_step(target, filter, antialias, 0))
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("filter", list(PILLOW))
def test_rounding_in_each_pass_is_pillows(source, target, filter):
    image = picture(*source)
    wanted = np.asarray(Image.fromarray(image).resize(target[::-1], PILLOW[filter]))
    got = run(image, target, resize_step(target, filter, 1, 2)).transpose(1, 2, 0)
    assert np.abs(got - wanted / 255).max() <= LEVEL * 1.001
    assert (np.round(got * 255) == wanted).mean() > 0.99


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("filter", list(PILLOW))
def test_rounding_at_the_end_is_of_pillows_f32_result(source, target, filter):
    image = picture(*source)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(target[::-1], PILLOW[filter]))
        for plane in image.transpose(2, 0, 1)
    ]
    unrounded = run(image, target, resize_step(target, filter, 1, 0))
    np.testing.assert_allclose(unrounded * 255, planes, atol=5e-3)
    rounded = run(image, target, resize_step(target, filter, 1, 1))
    wanted = np.clip(np.round(planes), 0, 255) / 255
    assert np.abs(rounded - wanted).max() <= LEVEL * 1.001
    assert (np.abs(rounded - wanted) < 1e-6).mean() > 0.99


def test_resize_pad_leaves_at_least_one_row_of_an_image():
    step = pad_step((11, 7), "center", 255)
    image = picture(5, 300)
    wanted = apply_image_steps(image, [step])
    got = run(image, (11, 7), step)
    np.testing.assert_allclose(got * 255, wanted, atol=5e-3)
    is_padding = (got == 1).all(axis=(0, 2))
    assert is_padding.tolist() == [True] * 5 + [False] + [True] * 5


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_pad_is_what_smolvla_and_xvla_do(source, target):
    vla_utils = import_module("lerobot.policies.common.vla_utils")
    image = picture(*source)
    ratio = max(source[1] / target[1], source[0] / target[0])
    if int(source[0] / ratio) == 0:
        pytest.skip("nothing is left of the image")
    wanted = vla_utils.resize_with_pad(tensor_of(image), *target, pad_value=0.0)[0]
    got = run(image, target, pad_step(target, "end", 0))
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_pad_is_what_pi0_does(source, target):
    vla_utils = import_module("lerobot.policies.common.vla_utils")
    image = picture(*source)
    ratio = max(source[1] / target[1], source[0] / target[0])
    if int(source[0] / ratio) == 0:
        pytest.skip("nothing is left of the image")
    batch = tensor_of(image).permute(0, 2, 3, 1)
    wanted = vla_utils.resize_with_pad_torch(batch, *target)[0].permute(2, 0, 1)
    got = run(image, target, pad_step(target, "center", 0))
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def pad_step(size, anchor, value):
    return (
        f"resize_pad height={size[0]} width={size[1]} filter=bilinear antialias=0 round=0 "
        f"anchor={anchor} value={value}"
    )


def test_padding_has_the_value_given():
    got = run(picture(4, 8), (8, 8), pad_step((8, 8), "center", 51))
    assert np.allclose(got[:, :2], 0.2) and np.allclose(got[:, 6:], 0.2)


def test_padding_may_have_a_value_for_each_channel():
    got = run(picture(4, 8), (8, 8), pad_step((8, 8), "end", "51,102.5,0"))
    np.testing.assert_allclose(got[:, :4].reshape(3, -1).T, [[0.2, 102.5 / 255, 0]] * 32, rtol=1e-6)
    image = run(picture(4, 8), (4, 8), pad_step((4, 8), "end", 0))
    np.testing.assert_array_equal(got[:, 4:], image)


@pytest.mark.parametrize("value", ["1,2", "1,2,3,4", "1,2,3,", "", "1,,3", "1,2,256", "[1,2,3]"])
def test_padding_of_another_number_of_channels_is_refused(value):
    with pytest.raises(ModelFileError, match="value="):
        run(picture(4, 8), (8, 8), pad_step((8, 8), "end", value))


@pytest.mark.parametrize("crop", [(84, 84), (83, 85), (96, 96), (1, 2)])
def test_resize_and_center_crop_are_torchvisions(crop):
    image = picture(240, 320)
    pipeline = transforms.Compose(
        [transforms.Resize((96, 96), antialias=True), transforms.CenterCrop(crop)]
    )
    wanted = pipeline(tensor_of(image))[0]
    steps = [
        resize_step((96, 96), "bilinear", 1, 0),
        f"center_crop height={crop[0]} width={crop[1]}",
    ]
    np.testing.assert_allclose(run(image, crop, *steps), wanted, atol=2e-5)


def crop_and_resize(image, fraction, size):
    """tf.image.crop_and_resize of the centre box, from its documentation: a normalised coordinate y
    is y * (height - 1) in the image; height points from y1 to y2, corners included; bilinear."""
    side = np.sqrt(fraction)
    first, last = (1 - side) / 2, (1 + side) / 2
    result = image.astype(np.float64)
    for axis in (0, 1):
        length = image.shape[axis] - 1
        position = np.linspace(first, last, size[axis]) * length
        if size[axis] == 1:
            position = np.array([0.5 * (first + last) * length])
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, length)
        weight = np.expand_dims(position - low, tuple(k for k in range(3) if k != axis))
        result = np.take(result, low, axis) * (1 - weight) + np.take(result, high, axis) * weight
    return result


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("fraction", [0.9, 0.5, 1.0])
def test_crop_resize_is_tensorflows(source, target, fraction):
    image = picture(*source)
    wanted = crop_and_resize(image, fraction, target).transpose(2, 0, 1) / 255
    step = f"crop_resize fraction={fraction} height={target[0]} width={target[1]}"
    np.testing.assert_allclose(run(image, target, step), wanted, atol=1e-3)


def test_scale_and_offset_come_last():
    image = picture(20, 30)
    step = resize_step((10, 10), "bilinear", 1, 0)
    plain = preprocess_image(image, [step], 10, 10, 1.0, 0.0)
    scaled = preprocess_image(image, [step], 10, 10, 2.0, -1.0)
    np.testing.assert_allclose(scaled, 2 * plain - 1, atol=1e-6)


def test_an_unknown_step_is_refused_with_the_valid_ones():
    with pytest.raises(ModelFileError, match="center_crop, crop_resize, resize and resize_pad"):
        run(picture(4, 4), (4, 4), "rotate angle=3")
