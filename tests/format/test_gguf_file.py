import gguf
import numpy as np
import pytest
import xxhash

from actquant.common.errors import ModelFileError
from actquant.evaluation.bench import resident_bytes
from actquant.format.checksums import HEADER_KEY, stored_tensor_checksums
from actquant.format.container import PlannedTensor, file_bytes, replace_keys, write_gguf

KEYS = [("general.name", "str", "x"), ("a.list", "u32[]", [1, 2]), ("a.number", "f32", 0.5)]


def tensor(array: np.ndarray) -> PlannedTensor:
    return PlannedTensor(array.shape, array.dtype, lambda: array)


def offset(path) -> int:
    return gguf.GGUFReader(path).data_offset


def stored(path) -> list[int]:
    return stored_tensor_checksums(gguf.GGUFReader(path))


def assert_sealed(path) -> None:
    """The checksum is that of xxHash's own library, over the header with 8 bytes of 0 in it."""
    reader = gguf.GGUFReader(path)
    header = path.read_bytes()[: reader.data_offset]
    value = reader.fields[HEADER_KEY].contents()
    key = HEADER_KEY.encode()
    place = header.index(len(key).to_bytes(8, "little") + key) + 8 + len(key) + 4
    assert header[place : place + 8] == value.to_bytes(8, "little")
    assert value == xxhash.xxh3_64_intdigest(header[:place] + bytes(8) + header[place + 8 :])


def test_what_is_announced_is_what_is_written(tmp_path):
    arrays = {f"t{i}": np.arange(i + 3, dtype=np.float32) for i in range(5)}
    planned = {name: tensor(array) for name, array in arrays.items()}
    path = write_gguf(tmp_path / "m.gguf", "test", KEYS, planned)
    assert path.stat().st_size == file_bytes("test", KEYS, planned)
    reader = gguf.GGUFReader(path)
    assert {t.name: t.data.tolist() for t in reader.tensors} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert reader.fields["a.list"].contents() == [1, 2]
    assert_sealed(path)
    checksums = [xxhash.xxh3_64_intdigest(a.tobytes()) for a in arrays.values()]
    assert stored_tensor_checksums(reader) == checksums


def test_data_that_is_not_as_announced_leaves_nothing(tmp_path):
    wrong = PlannedTensor((4,), np.dtype(np.float32), lambda: np.zeros(3, np.float32))
    with pytest.raises(
        ModelFileError, match=r"t: the data is float32\[3\], announced was float32\[4\]"
    ):
        write_gguf(tmp_path / "m.gguf", "test", KEYS, {"t": wrong})
    assert not list(tmp_path.iterdir())


def test_tensors_are_made_one_at_a_time(tmp_path):
    size, most, before = 1 << 25, 0, resident_bytes()

    def make() -> np.ndarray:
        nonlocal most
        array = np.ones(size, np.uint8)
        most = max(most, resident_bytes())
        return array

    planned = {
        f"t{i}": PlannedTensor((size,), np.dtype(np.int8), lambda: make().view(np.int8))
        for i in range(12)
    }
    write_gguf(tmp_path / "m.gguf", "test", [], planned)
    assert most - before < 3 * size


@pytest.mark.parametrize(("text", "in_place"), [("y", True), ("longer" * 20, False)])
def test_keys_are_replaced_and_the_data_stays(tmp_path, text, in_place):
    array = np.random.default_rng(0).integers(0, 127, 100_000).astype(np.int8)
    planned = {"t": tensor(array), "u": tensor(array[:7])}
    path = write_gguf(tmp_path / "m.gguf", "test", KEYS, planned)
    inode, keys = path.stat().st_ino, [("general.name", "str", text), *KEYS[1:]]
    replace_keys(path, "test", keys, planned, stored(path), offset(path))
    reader = gguf.GGUFReader(path)
    assert (path.stat().st_ino == inode) == in_place
    assert reader.fields["general.name"].contents() == text
    assert np.array_equal(reader.tensors[0].data, array)
    assert np.array_equal(reader.tensors[1].data, array[:7])
    assert_sealed(path)
    assert path.stat().st_size == file_bytes("test", keys, planned)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
