"""The quantization formats: one table, read by allocation, encoder, reports and tests alike.

A ggml type packs `block_size` consecutive weights of a row into `type_size` bytes, so its bits per
weight are 8 x type_size / block_size. Sizes are ggml's (ggml-common.h); a test compares them with
the encoders of the runtime.
"""

from dataclasses import dataclass

from actquant.common.errors import QuantizationError

FILE_ALIGNMENT = 32
"""GGUF starts every tensor at a multiple of this many bytes."""


@dataclass(frozen=True)
class Format:
    """One ggml tensor type.

    name: ggml's name. block_size: weights per block. type_size: bytes per block.
    grid: `float` (no blocks), `linear` (evenly spaced levels) or `codebook` (levels from a table).
    needs_importance: ggml refuses to encode without an importance for every weight.
    fallback: the type of small blocks that stands in for it where padding a row to its own blocks
    would cost more bytes (`resolve`), or None.
    """

    name: str
    block_size: int
    type_size: int
    grid: str
    needs_importance: bool = False
    fallback: str | None = None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.type_size / self.block_size


# At equal bits per weight the first one listed is preferred.
_TABLE = (
    Format("IQ1_S", 256, 50, "codebook", needs_importance=True, fallback="IQ4_NL"),
    Format("IQ1_M", 256, 56, "codebook", fallback="IQ4_NL"),
    Format("IQ2_XXS", 256, 66, "codebook", needs_importance=True, fallback="IQ4_NL"),
    Format("IQ2_XS", 256, 74, "codebook", needs_importance=True, fallback="IQ4_NL"),
    Format("IQ2_S", 256, 82, "codebook", fallback="IQ4_NL"),
    Format("Q2_K", 256, 84, "linear", fallback="Q4_0"),
    Format("IQ3_XXS", 256, 98, "codebook", fallback="IQ4_NL"),
    Format("IQ3_S", 256, 110, "codebook", fallback="IQ4_NL"),
    Format("Q3_K", 256, 110, "linear", fallback="Q4_0"),
    Format("IQ4_XS", 256, 136, "codebook", fallback="IQ4_NL"),
    Format("Q4_K", 256, 144, "linear", fallback="Q4_0"),
    Format("IQ4_NL", 32, 18, "codebook"),
    Format("Q4_0", 32, 18, "linear"),
    Format("Q5_K", 256, 176, "linear", fallback="Q5_0"),
    Format("Q5_0", 32, 22, "linear"),
    Format("Q6_K", 256, 210, "linear", fallback="Q8_0"),
    Format("Q8_0", 32, 34, "linear"),
    Format("F16", 1, 2, "float"),
    Format("BF16", 1, 2, "float"),
    Format("F32", 1, 4, "float"),
)

FORMATS = {entry.name: entry for entry in _TABLE}


def get_format(name: str) -> Format:
    """Returns the table's entry for a type; QuantizationError with the valid names if there is
    none."""
    try:
        return FORMATS[name]
    except KeyError:
        raise QuantizationError(
            f"unknown tensor type {name!r}; known: {', '.join(FORMATS)}"
        ) from None


def row_bytes(columns: int, name: str) -> int:
    """Bytes of one row, zero-padded to the next multiple of the type's block."""
    entry = get_format(name)
    return -(-columns // entry.block_size) * entry.type_size


def tensor_bytes(rows: int, columns: int, name: str) -> int:
    """Bytes of the data of a [rows, columns] tensor, padding of the rows included."""
    return rows * row_bytes(columns, name)


def file_bytes(rows: int, columns: int, name: str) -> int:
    """Returns what a [rows, columns] tensor takes in a file: its data up to the next aligned
    offset."""
    return -(-tensor_bytes(rows, columns, name) // FILE_ALIGNMENT) * FILE_ALIGNMENT


def resolve(entry: Format, columns: int) -> Format:
    """Returns the type, or its fallback where padding rows of `columns` weights costs more
    bytes."""
    if entry.fallback is None:
        return entry
    cheaper = row_bytes(columns, entry.fallback) < row_bytes(columns, entry.name)
    return get_format(entry.fallback) if cheaper else entry


def menu(base: str, maximum: str, *, importance: bool, grid: str | None = None) -> list[Format]:
    """Returns the types an allocation may choose from, from `base` to `maximum` bits per weight.

    Of types with equal bits per weight only the preferred one stays (`base` and `maximum` always
    do). Without `importance` types that need one are left out; `grid` keeps one kind of levels.

    Raises QuantizationError when base has more bits than maximum, or one of them is left out.
    """
    low, high = get_format(base), get_format(maximum)
    if low.bits_per_weight > high.bits_per_weight:
        raise QuantizationError(f"base type {base} has more bits per weight than {maximum}")
    chosen: dict[float, Format] = {}
    for entry in _TABLE:
        outside = not low.bits_per_weight <= entry.bits_per_weight <= high.bits_per_weight
        if outside or (entry.needs_importance and not importance):
            continue
        if grid is not None and entry.grid != grid:
            continue
        if entry.bits_per_weight not in chosen or entry.name in (base, maximum):
            chosen[entry.bits_per_weight] = entry
    names = [entry.name for entry in chosen.values()]
    for wanted in (base, maximum):
        if wanted not in names:
            raise QuantizationError(f"type {wanted} cannot be used here; usable: {names}")
    return sorted(chosen.values(), key=lambda entry: entry.bits_per_weight)
