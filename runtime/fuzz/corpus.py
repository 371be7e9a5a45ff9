"""Writes the fuzzers' corpus, from what the tests use: small whole files of every kind.

corpus.py [--out DIR], to be run again when the file format changes.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/runtime")]

import policy_files  # noqa: E402
import tokenizer_files  # noqa: E402
from actquant_runtime import quantize  # noqa: E402
from actquant_runtime._core import Tokenizer  # noqa: E402
from openpi_client.msgpack_numpy import packb  # noqa: E402

LARGEST_TOKENIZER = 12_000
"""Bytes of JSON; larger ones are shortened by their merges."""


def one_operator(*lines: str) -> dict:
    """A policy whose prefix is these lines on its state."""
    last = lines[-1].split(" ", 1)[0]
    text = "\n".join(["%0 = input f32[1,5] name=state", *lines, f"output result {last}"])
    denoise = "%0 = input f32[1,3,4] name=x_t\n%1 = sqr f32[1,3,4] %0\noutput output %1"
    return {"programs": {"prefix": text, "denoise": denoise}}


OPERATORS = {
    "pools": [
        "%1 = reshape f32[1,1,1,5] %0",
        "%2 = max_pool2d f32[1,1,1,3] %1 kernel=[1,2] stride=[1,2] pad=[0,1]",
        "%3 = avg_pool2d f32[1,1,1,2] %2 kernel=[1,2] stride=[1,1]",
    ],
    "convolutions": [
        "%1 = reshape f32[1,1,5] %0",
        "%2 = conv1d f32[1,8,2] %1 @c.w @patch.b stride=2 pad=0 dil=1",
        "%3 = conv_transpose1d f32[1,8,4] %2 @t.w stride=2 pad=0 output_pad=0",
    ],
    "norms": [
        "%1 = rms_norm f32[1,5] %0 @five eps=1e-5",
        "%2 = layer_norm f32[1,5] %1 @five @five eps=1e-5 w=1 b=1",
        "%3 = reshape f32[1,5,1] %2",
        "%4 = group_norm f32[1,5,1] %3 groups=5 eps=1e-5 w=0 b=0",
        "%5 = softmax f32[1,5,1] %4 dim=1",
    ],
    "layout": [
        "%1 = slice f32[1,4] %0 dim=1 start=0 end=4",
        "%2 = slice f32[1,2] %1 dim=1 start=0 step=2",
        "%3 = pad f32[1,4] %2 pads=[0,0,1,1] value=2",
        "%4 = concat f32[2,4] %1 %3 dim=0",
        "%5 = reshape f32[2,2,2] %4",
        "%6 = permute f32[2,2,2] %5 perm=[2,0,1]",
        "%7 = expand f32[3,2,2,2] %6",
        "%8 = mean f32[3,2,2] %7 dims=[1] keep=0",
        "%9 = clamp f32[3,2,2] %8 min=-1 max=1",
    ],
    "attention": [
        "%1 = slice f32[1,4] %0 dim=1 start=0 end=4",
        "%2 = reshape f32[1,2,1,2] %1",
        "%3 = rope f32[1,2,1,2] %2 @positions @frequencies",
        "%4 = permute f32[1,1,2,2] %3 perm=[0,2,1,3]",
        "%5 = sdpa f32[1,1,2,2] %4 %4 %4 scale=1 causal=1",
        "%6 = matmul f32[1,1,2,2] %5 %4",
        "%7 = glu f32[1,1,2,2] %6 %5 act=gelu approx=tanh",
        "%8 = gelu f32[1,1,2,2] %7 approx=none",
    ],
    "host": [
        "%1 = host.cumsum f32[1,5] %0 dim=1",
        "%2 = host.full f32[1,5] shape=[1,5] value=2",
        "%3 = host.lt b8[1,5] %1 %2",
        "%4 = host.select f32[1,5] %3 %1 %2",
        "%5 = host.max f32[1,1] %4 dims=[1] keep=1",
        "%6 = host.add f32[1,5] %5 %4",
        "%7 = silu f32[1,5] %6",
    ],
}
IMAGE_STEPS = [
    "resize height=8 width=16 filter=bicubic antialias=0 round=1",
    "resize_pad height=9 width=16 filter=lanczos antialias=1 round=2 anchor=center value=0,1,2",
    "center_crop height=8 width=14",
    "crop_resize fraction=0.9 height=6 width=12",
]
BLOCKS = {"Q8_0": 32, "Q4_K": 256, "Q2_K": 256, "IQ2_S": 256, "F16": 1, "BF16": 1}
TENSORS = {
    "c.w": np.ones((8, 1, 3), np.float32),
    "t.w": np.ones((8, 8, 2), np.float32),
    "five": np.ones(5, np.float32),
    "positions": np.arange(2, dtype=np.int64),
    "frequencies": np.ones(1, np.float32),
}


def write_policies(folder: Path) -> None:
    policy_files.write_policy(folder / "sampling.gguf")
    policy_files.write_one_shot(folder / "one_shot.gguf")
    decode = "%0 = input f32[1,3,4] name=x\n%1 = tanh f32[1,3,4] %0\noutput actions %1"
    fresh = [0.9, -0.1, 2.0, 0.5, 0.5, 0.0, 0.1, 0.1] * policy_files.STEPS
    policy_files.write_policy(
        folder / "decode.gguf",
        programs={"decode": decode},
        keys={"actquant.sampler.coefficients": ("array", fresh)},
    )
    state = one_operator("%1 = mean f32[1,5] %0 dims=[0] keep=1")
    state["programs"]["prefix"] = state["programs"]["prefix"].replace("f32[1,5] n", "f32[2,5] n")
    keys = {
        "actquant.observation.steps": ("uint32", 2),
        "actquant.prompt.template": ("string", "{task}, State: {state};"),
        "actquant.prompt.state_bins": ("uint32", 8),
        "actquant.prompt.task_steps": ("array", ["strip", "lower", "underscores_to_spaces"]),
        "actquant.image.steps": ("array", IMAGE_STEPS),
        "actquant.state.clip": ("float32", 2.0),
    }
    policy_files.write_policy(folder / "steps.gguf", keys=keys, **state)
    for name, lines in OPERATORS.items():
        policy_files.write_policy(folder / f"{name}.gguf", tensors=TENSORS, **one_operator(*lines))
    for type_name, block in BLOCKS.items():
        weight = padded_weight(type_name, policy_files.TOKEN_WIDTH, block)
        policy_files.write_policy(folder / f"{type_name.lower()}.gguf", tensors={"k.w": weight})


def padded_weight(type_name: str, width: int, block: int) -> policy_files.Packed:
    """A weight [width, width], its rows padded with zeros to whole blocks."""
    values = np.zeros((width, max(width, block)), np.float32)
    values[:, :width] = np.random.default_rng(0).normal(size=(width, width))
    return policy_files.Packed(quantize(values, type_name), type_name, (width, width))


def shortened(text: str) -> str:
    """The same tokenizer with fewer merges and tokens."""
    tokenizer = json.loads(text)
    model = tokenizer["model"]
    while len(json.dumps(tokenizer)) > LARGEST_TOKENIZER and model["merges"]:
        del model["merges"][-max(1, len(model["merges"]) // 8) :]
        kept = {"".join(m) for m in model["merges"]} | {part for m in model["merges"] for part in m}
        model["vocab"] = {t: i for t, i in model["vocab"].items() if t in kept or len(t) <= 6}
    return json.dumps(tokenizer)


def write_tokenizers(folder: Path) -> None:
    for name, make in tokenizer_files.KINDS.items():
        text = shortened(make().to_str())
        Tokenizer(text)
        (folder / f"{name}.json").write_bytes(text.encode() + b"\0push the caf\xc3\xa9's 12 cubes")


def write_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    for kind in ("png", "jpeg"):
        Image.fromarray(pixels).save(folder / f"colours.{kind}")
        Image.fromarray(pixels).convert("L").save(folder / f"grey.{kind}")
    Image.fromarray(pixels).convert("P").save(folder / "palette.png")
    Image.fromarray(np.tile(pixels, (4, 4, 1))).save(folder / "progressive.jpeg", progressive=True)
    for name, array in {
        "floats": np.ones((3, 4), np.float32),
        "doubles": np.ones((2, 2)),
        "single": np.float32(1),
    }.items():
        stream = io.BytesIO()
        np.save(stream, array)
        (folder / f"{name}.npy").write_bytes(stream.getvalue())


def write_observations(folder: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(16):
        (folder / f"{number}").write_bytes(random.integers(0, 256, 200, np.uint8).tobytes())
    right = [[1, 1, 2, 0, 1, 0, 0, 1], np.float32(0.5).tobytes(), [1, 97, 0, 0, 0, 65]]
    (folder / "right").write_bytes(b"".join(map(bytes, right)))


def write_messages(folder: Path) -> None:
    """For a policy of two observation steps, two cameras, a state of 3 and actions of 2."""
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    state = np.array([0.5, -1.0, 2.0], np.float32)
    seen = {
        "observation.images.scene": picture,
        "observation.images.wrist": picture,
        "observation.state": state,
        "task": "push the cube",
    }
    ahead = {"seed": 1, "executed": 1, "delay": 1, "execution_horizon": 2}
    whole = {"whole": True, "noise": np.zeros((3, 4)), "previous": np.zeros((2, 2), ">f2")}
    messages = {
        "plain": seen,
        "ahead": seen | {"actquant": ahead | {"max_guidance": 2.0, "schedule": "exp"}},
        "anew": seen | {"actquant": {"reset": True}},
        "whole": {
            "scene": np.stack([picture, picture]),
            "state": np.stack([state, state]),
            "prompt": "push",
            "actquant": whole,
        },
        "lists": {"observation/images/wrist": picture, "state": [1, -2.5, True], "task": ""},
    }
    for name, message in messages.items():
        (folder / name).write_bytes(packb(message))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "corpus")
    folder = parser.parse_args().out
    writers = {
        "policy": write_policies,
        "tokenizer": write_tokenizers,
        "image": write_images,
        "act": write_observations,
        "message": write_messages,
    }
    for target, write in writers.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        write(folder / target)


if __name__ == "__main__":
    main()
