from importlib import import_module

import pytest

from actquant.common.errors import QuantizationError
from actquant.format.tensor_types import (
    FORMATS,
    file_bytes,
    get_format,
    menu,
    resolve,
    tensor_bytes,
)


def test_table_agrees_with_the_encoders_of_the_runtime():
    runtime = import_module("actquant_runtime")
    offered = runtime.types()
    quantized = {n: f for n, f in FORMATS.items() if f.grid != "float"}
    missing = set(quantized) - set(offered)
    assert not missing
    for name, entry in quantized.items():
        theirs = offered[name]
        assert theirs["block_size"] == entry.block_size, name
        assert theirs["type_size"] == entry.type_size, name
        assert theirs["bits_per_weight"] == pytest.approx(entry.bits_per_weight), name
        assert bool(theirs["needs_importance"]) == entry.needs_importance, name


def test_bits_are_those_of_the_method():
    expected = {
        "IQ1_S": 1.5625, "IQ1_M": 1.75, "IQ2_XXS": 2.0625, "IQ2_XS": 2.3125, "IQ2_S": 2.5625,
        "Q2_K": 2.625, "IQ3_XXS": 3.0625, "IQ3_S": 3.4375, "Q3_K": 3.4375, "IQ4_XS": 4.25,
        "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5,
    }  # fmt: skip
    assert {name: FORMATS[name].bits_per_weight for name in expected} == expected


def test_rows_are_padded_to_the_block():
    assert tensor_bytes(3, 256, "Q4_K") == 3 * 144
    assert tensor_bytes(3, 257, "Q4_K") == 3 * 288
    assert tensor_bytes(3, 33, "Q8_0") == 3 * 68
    assert tensor_bytes(3, 33, "F16") == 3 * 66
    assert file_bytes(1, 33, "Q8_0") == 96


def test_short_rows_fall_back_to_small_blocks_only_where_that_is_cheaper():
    assert resolve(FORMATS["IQ2_XXS"], 64).name == "IQ4_NL"
    assert resolve(FORMATS["IQ2_XXS"], 720).name == "IQ2_XXS"
    assert resolve(FORMATS["Q5_K"], 720).name == "Q5_0"
    assert resolve(FORMATS["Q6_K"], 256).name == "Q6_K"
    for entry in FORMATS.values():
        if entry.fallback:
            assert get_format(entry.fallback).block_size == 32


def test_menu_keeps_one_type_per_bits_and_respects_importance():
    names = [e.name for e in menu("IQ2_XXS", "Q8_0", importance=True)]
    assert "IQ3_S" in names and "Q3_K" not in names
    assert len({FORMATS[n].bits_per_weight for n in names}) == len(names)
    plain = menu("Q2_K", "Q8_0", importance=False, grid="linear")
    assert [e.name for e in plain] == ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]
    assert "Q3_K" in [e.name for e in menu("Q3_K", "Q6_K", importance=True)]
    with pytest.raises(QuantizationError, match="IQ2_XXS"):
        menu("IQ2_XXS", "Q8_0", importance=False)
    with pytest.raises(QuantizationError, match="more bits"):
        menu("Q8_0", "Q2_K", importance=True)
    with pytest.raises(QuantizationError, match="known: IQ1_S"):
        get_format("Q9_Z")
