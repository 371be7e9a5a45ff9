import numpy as np
import pytest
from actquant_runtime import dequantize, quantize

from actquant.common.errors import QuantizationError
from actquant.encoders.blocks import encode
from actquant.format.encoding import EncodedTensor
from actquant.format.tensor_types import FORMATS
from actquant.tuning.block_scales import scale_blocks

BLOCK_TYPES = [entry.name for entry in FORMATS.values() if entry.grid != "float"]


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_every_weight_of_a_block_is_multiplied_by_its_factor(type_name: str):
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.05, (5, 600)).astype(np.float32)
    encoded = encode("blk", weight, type_name, np.ones_like(weight)).tensor
    block = FORMATS[type_name].block_size
    factors = rng.uniform(0.8, 1.25, (5, -(-600 // block))).astype(np.float32)
    scaled = scale_blocks(encoded, factors)
    before = dequantize(encoded.data, type_name, 600)
    after = dequantize(scaled.data, type_name, 600)
    expected = before * np.repeat(factors, block, axis=1)[:, :600]
    np.testing.assert_allclose(after, expected, rtol=2e-3, atol=2e-3 * np.abs(before).max())
    assert np.abs(after - before).max() > 0.05 * np.abs(before).max()
    assert np.array_equal(scale_blocks(encoded, np.ones_like(factors)).data, encoded.data)


def test_what_cannot_be_scaled_is_refused():
    weight = np.full((1, 32), 60000.0, np.float32)
    encoded = EncodedTensor("Q8_0", quantize(weight, "Q8_0"), weight.shape)
    with pytest.raises(QuantizationError, match="Q8_0 does not fit into half precision"):
        scale_blocks(encoded, np.full((1, 1), 1000, np.float32))
    plain = EncodedTensor("F32", weight.view(np.uint8), weight.shape)
    with pytest.raises(QuantizationError, match="F32 have no scale"):
        scale_blocks(plain, np.ones((1, 32), np.float32))
