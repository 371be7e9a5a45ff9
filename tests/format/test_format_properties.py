"""Properties of types, padding and files that hold for whatever numbers hypothesis thinks of."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actquant.common.errors import ModelFileError, QuantizationError
from actquant.format.container import PlannedTensor, file_bytes, write_gguf
from actquant.format.tensor_types import FILE_ALIGNMENT, FORMATS, menu, resolve, row_bytes
from actquant.format.tensor_types import file_bytes as stored_bytes

COLUMNS = st.integers(1, 5000)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz.0123456789", min_size=1, max_size=63)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(COLUMNS, st.sampled_from(sorted(FORMATS)))
def test_a_row_is_padded_by_less_than_a_block(columns: int, name: str) -> None:
    entry = FORMATS[name]
    blocks, rest = divmod(row_bytes(columns, name), entry.type_size)
    assert rest == 0 and (blocks - 1) * entry.block_size < columns <= blocks * entry.block_size


@given(COLUMNS, st.sampled_from(sorted(FORMATS)))
def test_what_stands_in_for_a_type_is_never_larger(columns: int, name: str) -> None:
    found = resolve(FORMATS[name], columns)
    assert row_bytes(columns, found.name) <= row_bytes(columns, name)


@given(st.integers(1, 300), COLUMNS, st.sampled_from(sorted(FORMATS)))
def test_tensors_end_at_multiples_of_the_alignment(rows: int, columns: int, name: str) -> None:
    size, data = stored_bytes(rows, columns, name), rows * row_bytes(columns, name)
    assert size % FILE_ALIGNMENT == 0 and 0 <= size - data < FILE_ALIGNMENT


@given(st.sampled_from(sorted(FORMATS)), st.sampled_from(sorted(FORMATS)))
def test_a_menu_goes_from_base_to_maximum_and_ever_upwards(base: str, maximum: str) -> None:
    low, high = FORMATS[base].bits_per_weight, FORMATS[maximum].bits_per_weight
    if low > high or (low == high and base != maximum):
        with pytest.raises(QuantizationError):
            menu(base, maximum, importance=True)
        return
    found = menu(base, maximum, importance=True)
    bits = [entry.bits_per_weight for entry in found]
    assert (found[0].name, found[-1].name) == (base, maximum)
    assert bits == sorted(set(bits))


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[tuple[str, str, object]], dict[str, np.ndarray]]:
    """Keys and tensors of a small file."""
    keys: list[tuple[str, str, object]] = [
        (f"actquant.{k}", kind, value)
        for k, (kind, value) in enumerate(
            draw(
                st.lists(
                    st.one_of(
                        st.tuples(st.just("str"), TEXTS),
                        st.tuples(st.just("u32"), st.integers(0, 2**32 - 1)),
                        st.tuples(st.just("str[]"), st.lists(TEXTS, max_size=3)),
                        st.tuples(st.just("f32[]"), st.lists(st.floats(width=32), max_size=3)),
                    ),
                    max_size=5,
                )
            )
        )
    ]
    tensors = {
        name: np.arange(draw(st.integers(1, 100)), dtype=np.float32)
        for name in draw(st.lists(NAMES, max_size=4, unique=True))
    }
    return keys, tensors


def planned(tensors: dict[str, np.ndarray]) -> dict[str, PlannedTensor]:
    return {
        name: PlannedTensor(array.shape, array.dtype, lambda array=array: array)
        for name, array in tensors.items()
    }


@settings(max_examples=40, deadline=None)
@given(contents())
def test_a_file_is_as_long_as_was_said_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, content: tuple
) -> None:
    import gguf

    keys, tensors = content
    path = tmp_path_factory.mktemp("gguf") / "file.gguf"
    write_gguf(path, "actquant", keys, planned(tensors))
    assert path.stat().st_size == file_bytes("actquant", keys, planned(tensors))
    reader = gguf.GGUFReader(path)
    for key, kind, value in keys:
        field = reader.get_field(key)
        if isinstance(value, list) and not value:
            assert field is None
            continue
        assert field is not None
        expected = np.float32(value).tolist() if kind == "f32[]" else value
        np.testing.assert_equal(field.contents(), expected)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert set(tensors) <= set(found)
    for name, array in tensors.items():
        assert found[name].data_offset % FILE_ALIGNMENT == 0
        np.testing.assert_array_equal(found[name].data, array)


@given(TEXTS, TEXTS)
def test_a_text_with_nul_is_refused(before: str, after: str) -> None:
    text = f"{before}\0{after}"
    for kind, value in (("str", text), ("str[]", ["a", text])):
        with pytest.raises(ModelFileError, match="actquant.x has a NUL character"):
            write_gguf(Path("never"), "actquant", [("actquant.x", kind, value)], {})
    assert not Path("never").exists()
