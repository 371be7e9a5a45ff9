import numpy as np
import pytest

import actquant.encoders.blocks as blocks_module
from actquant.common.errors import QuantizationError
from actquant.encoders.blocks import (
    IMPORTANCE_FLOOR,
    encode,
    encode_with_importance,
    make_importance,
)
from actquant.format.tensor_types import FORMATS


def make(rows: int = 8, columns: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
    fisher = np.exp(2 * rng.normal(size=weight.shape)).astype(np.float32) * 1e-9
    return weight, fisher


def test_importance_has_a_floor_relative_to_its_row():
    _, fisher = make()
    fisher[0, :10] = 0
    fisher[1] = 0
    found = make_importance(fisher)
    assert found.dtype == np.float32 and found.min() == np.float32(IMPORTANCE_FLOOR)
    np.testing.assert_array_equal(found[1], 1.0)
    np.testing.assert_allclose(found[2:].mean(axis=1), 1.0, rtol=1e-3)
    order = np.argsort(fisher[2])
    assert (np.diff(found[2][order]) >= 0).all()


def test_bad_weights_and_importance_are_named():
    weight, fisher = make()
    with pytest.raises(QuantizationError, match="blk.q: type IQ2_XXS needs importance"):
        encode("blk.q", weight, "IQ2_XXS")
    with pytest.raises(QuantizationError, match="blk.q: importance has shape"):
        encode("blk.q", weight, "Q4_K", make_importance(fisher)[:, :5])
    with pytest.raises(QuantizationError, match="positive"):
        encode("blk.q", weight, "Q4_K", np.zeros_like(weight))
    bad = fisher.copy()
    bad[0, 0] = np.nan
    with pytest.raises(QuantizationError, match="blk.q: the Fisher"):
        encode_with_importance("blk.q", weight, "Q4_K", bad)
    weight[3, 4] = np.inf
    with pytest.raises(QuantizationError, match="blk.q: the weight holds NaN"):
        encode("blk.q", weight, "F16")


def test_half_precision_needs_no_encoder_and_refuses_what_it_cannot_hold():
    weight, _ = make()
    found = encode("blk.q", weight, "F16")
    assert found.tensor.data.shape == (8, 600) and found.error < 1e-6
    np.testing.assert_array_equal(found.tensor.data.view(np.float16), weight.astype(np.float16))
    with pytest.raises(QuantizationError, match="cannot hold"):
        encode("blk.q", weight * 1e8, "F16")


# The 1-bit types are in no recipe, and ggml takes seconds to build their tables.
@pytest.mark.parametrize(
    "type_name", [n for n, f in FORMATS.items() if f.grid != "float" and not n.startswith("IQ1")]
)
def test_every_type_encodes_padded_rows_and_more_bits_lose_less(type_name: str):
    weight, fisher = make()
    entry = FORMATS[type_name]
    found = encode("w", weight, type_name, make_importance(fisher))
    assert found.tensor.shape == (8, 300)
    expected = 3.0 * 2 ** (-2 * entry.bits_per_weight)
    assert expected / 60 < found.error < 8 * expected


@pytest.mark.parametrize("type_name", ["IQ2_XXS", "IQ2_S", "IQ3_XXS", "Q3_K", "Q4_K"])
def test_importance_lowers_the_error_that_it_weighs(type_name: str):
    weight, fisher = make(columns=512)
    counts = make_importance(fisher)
    guided = encode("w", weight, type_name, counts)
    plain = encode("w", weight, type_name, np.ones_like(counts))
    import actquant_runtime

    decoded = actquant_runtime.dequantize(plain.tensor.data, type_name, 512)
    plain_error = (counts * (weight - decoded) ** 2).sum() / (counts * weight**2).sum()
    assert guided.error < plain_error


@pytest.mark.parametrize("rows_at_a_time", [1, 3])
@pytest.mark.parametrize("type_name", ["Q4_K", "IQ2_XXS", "BF16"])
def test_encoding_in_blocks_of_rows_is_encoding_whole(
    type_name: str, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
):
    weight, fisher = make(rows=7)
    counts = make_importance(fisher)
    whole = encode("w", weight, type_name, counts)
    heights = []

    def counted(name, part, *others):
        heights.append(len(part))
        return encode_rows(name, part, *others)

    encode_rows = blocks_module._encode_rows
    monkeypatch.setattr(blocks_module, "_encode_rows", counted)
    monkeypatch.setattr(blocks_module, "BLOCK_WEIGHTS", 300 * rows_at_a_time + 299)
    blocks = encode("w", weight, type_name, counts)
    assert sorted(heights) == {1: [1] * 7, 3: [1, 3, 3]}[rows_at_a_time]
    np.testing.assert_array_equal(blocks.tensor.data, whole.tensor.data)
    assert blocks.tensor.shape == whole.tensor.shape == (7, 300)
    assert blocks.error == pytest.approx(whole.error, rel=1e-12) and whole.error > 0


def test_a_fisher_guides_the_encoding_unless_it_is_zero():
    weight, fisher = make(columns=512)
    guided = encode_with_importance("w", weight, "Q4_K", fisher)
    np.testing.assert_array_equal(
        guided.tensor.data, encode("w", weight, "Q4_K", make_importance(fisher)).tensor.data
    )
    unguided = encode_with_importance("w", weight, "Q4_K", np.zeros_like(fisher))
    assert guided.guided and not unguided.guided
