"""The half-precision scales in ggml's blocks, by which a whole block becomes larger or smaller.

Offsets are those of the block structures in ggml-common.h.
"""

import numpy as np

from actquant.common.errors import QuantizationError
from actquant.format.encoding import EncodedTensor
from actquant.format.tensor_types import get_format

SCALE_BYTES = {
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
    **dict.fromkeys(("IQ4_XS", "IQ4_NL", "Q4_0", "Q5_0", "Q8_0"), (0,)),
    **dict.fromkeys(("Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
"""Type -> where in a block its scales begin: all that its values are proportional to."""
IQ1_M_SCALES = 48
"""Where IQ1_M has four words of 16 bits, whose upper nibbles are the scale."""


def scale_blocks(encoded: EncodedTensor, factors: np.ndarray) -> EncodedTensor:
    """Multiplies every block by a factor: [rows, blocks of a row].

    What the file then holds is rounded to half precision.

    Raises QuantizationError if the type has no scale, or one would be infinite.
    """
    entry = get_format(encoded.type)
    blocks = encoded.data.reshape(*factors.shape, entry.type_size).copy()
    with np.errstate(over="ignore"):
        if entry.name == "IQ1_M":
            words = blocks[..., IQ1_M_SCALES : IQ1_M_SCALES + 8].view(np.uint16)
            shifts = np.arange(0, 16, 4, dtype=np.uint16)
            bits = np.bitwise_or.reduce(words >> 12 << shifts, axis=-1).astype(np.uint16)
            scaled = _half(bits.view(np.float16) * factors, encoded.type).view(np.uint16)
            nibbles = scaled[..., None] >> shifts & 15
            words[:] = words & 0x0FFF | nibbles << 12
        elif entry.name in SCALE_BYTES:
            for start in SCALE_BYTES[entry.name]:
                scales = blocks[..., start : start + 2].view(np.float16)
                scales[:] = _half(scales * factors[..., None], encoded.type)
        else:
            raise QuantizationError(f"blocks of {encoded.type} have no scale")
    return EncodedTensor(encoded.type, blocks.reshape(encoded.data.shape), encoded.shape)


def _half(values: np.ndarray, type_name: str) -> np.ndarray:
    rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise QuantizationError(f"a scale of {type_name} does not fit into half precision")
    return rounded
