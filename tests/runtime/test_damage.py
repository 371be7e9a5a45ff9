"""A damaged file is refused; one that changes while it is open is noticed, and nobody dies."""

import os
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
import xxhash
from actquant_runtime import ModelFileError, Runtime, checksum
from policy_files import write_policy

from actquant.common.errors import ModelFileError as ReadError
from actquant.format.model_file import read_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "whole.gguf")


def refusal(path) -> str:
    with pytest.raises(ModelFileError) as caught:
        Runtime(path)
    return str(caught.value)


def act(runtime: Runtime) -> np.ndarray:
    image = np.zeros((6, 12, 3), np.uint8)
    images = {"observation.images.scene": image, "observation.images.wrist": image}
    state = np.zeros(3, np.float32)
    return runtime.act({**images, "observation.state": state, "task": "push"}, seed=0)


@pytest.mark.parametrize("size", [0, 1, 16, 17, 240, 241, 5000])
def test_checksums_are_those_of_xxhash(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert checksum(data) == xxhash.xxh3_64_intdigest(data.tobytes())


def test_every_changed_bit_among_the_weights_is_noticed_and_its_tensor_named(tmp_path, whole):
    data = whole.read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "damaged.gguf"
    for tensor in gguf.GGUFReader(whole).tensors:
        changed = bytearray(data)
        place = tensor.data_offset + random.integers(tensor.n_bytes)
        changed[place] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        message = refusal(path)
        assert "is damaged" in message and f"\n  - {tensor.name}" in message
        assert message.count("\n") == 1
        with pytest.raises(ReadError, match=f"tensor {tensor.name} does not have the checksum"):
            read_model(path).load(tensor.name)


def test_every_changed_byte_of_the_keys_is_noticed(tmp_path, whole):
    data = whole.read_bytes()
    end = gguf.GGUFReader(whole).data_offset
    path = tmp_path / "damaged.gguf"
    random = np.random.default_rng(1)
    for place in random.choice(end, 150, replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        assert refusal(path)
        with pytest.raises(ReadError):
            read_model(path)


def test_a_file_without_checksums_is_refused(tmp_path):
    from actquant.format import checksums

    reader = gguf.GGUFReader(write_policy(tmp_path / "policy.gguf"), "r+")
    name = next(p for p in reader.fields[checksums.HEADER_KEY].parts if len(p) > 8)
    name[-1] = ord("s")
    reader.data.flush()
    message = refusal(tmp_path / "policy.gguf")
    assert f"the key {checksums.HEADER_KEY} (u64) is missing" in message


def test_a_file_that_is_written_to_while_it_is_open(tmp_path, whole):
    path = shutil.copy(whole, tmp_path / "policy.gguf")
    os.utime(path, (1, 1))
    runtime = Runtime(path)
    act(runtime)
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x7f\x00\x01\x02")
    for _ in range(2):
        with pytest.raises(ModelFileError, match="was written to while it was open"):
            act(runtime)


def test_a_file_that_is_replaced_by_renaming_is_still_the_old_one(tmp_path, whole):
    path = shutil.copy(whole, tmp_path / "policy.gguf")
    runtime = Runtime(path)
    before = act(runtime)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"something else")
    other.replace(path)
    assert np.array_equal(act(runtime), before)


TRUNCATED = """
import os, sys
import numpy as np
from actquant_runtime import ModelFileError, Runtime
sys.path.insert(0, sys.argv[2])
from test_damage import act

runtimes = [Runtime(sys.argv[1]) for _ in range(3)]
os.truncate(sys.argv[1], 4096)
for runtime in runtimes:
    try:
        act(runtime)
    except ModelFileError as error:
        assert "was truncated while it was open" in str(error), error
    else:
        raise SystemExit("a chunk from a file that is gone")
print("alive")
"""


def test_a_file_that_is_truncated_while_it_is_open_ends_no_process(tmp_path):
    large = {"k.w": np.ones((8, 8), np.float32), "unread": np.ones((1 << 20,), np.float32)}
    path = write_policy(tmp_path / "policy.gguf", tensors=large)
    command = [sys.executable, "-c", TRUNCATED, str(path), os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_other_bus_errors_still_end_the_process(tmp_path, whole):
    code = """
import mmap, sys
from actquant_runtime import Runtime
runtime = Runtime(sys.argv[1])
with open(sys.argv[2], "w+b") as file:
    file.truncate(8192)
    pages = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    pages[5000]
"""
    command = [sys.executable, "-c", code, str(whole), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -7  # SIGBUS
