"""Writes the Unicode tables of src/unicode.cpp, from this Python's own Unicode database."""

import sys
import unicodedata
from pathlib import Path

CODE_POINTS = range(0x110000)
HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
CASED, CASE_IGNORABLE = 1, 2


def case_flags(character: str) -> int:
    """What str.lower() itself thinks of the character, seen from how it writes a sigma after it."""
    if ("A" + character + "Σ").lower()[-1] != "ς":
        return 0
    return CASED if (character + "Σ").lower()[-1] == "ς" else CASE_IGNORABLE


def runs(values):
    """(first code point, value) of every run of equal values."""
    previous = None
    for code_point, value in enumerate(values):
        if value != previous:
            yield code_point, value
            previous = value


def lowercase():
    for code_point in CODE_POINTS:
        lower = chr(code_point).lower()
        if lower != chr(code_point):
            yield (code_point, *[*map(ord, lower), 0][:2])


def decompositions():
    for code_point in CODE_POINTS:
        parts = unicodedata.normalize("NFD", chr(code_point))
        if parts != chr(code_point) and code_point not in HANGUL:
            yield (code_point, *[*map(ord, parts), 0, 0, 0][:4])


def compositions():
    for code_point in CODE_POINTS:
        parts = unicodedata.decomposition(chr(code_point)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            pair = [int(part, 16) for part in parts]
            if unicodedata.normalize("NFC", "".join(map(chr, pair))) == chr(code_point):
                yield (*pair, code_point)


def table(name: str, row_type: str, rows) -> str:
    """rows: each the members of a struct, or one text for a plain element."""
    texts = (row if isinstance(row, str) else "{" + ",".join(map(str, row)) + "}" for row in rows)
    body = "".join(f"{text},\n" for text in texts)
    return f"constexpr {row_type} {name}[] = {{\n{body}}};\n"


def main(path: Path) -> None:
    characters = [chr(code_point) for code_point in CODE_POINTS]
    categories = [unicodedata.category(c) for c in characters]
    names = sorted(set(categories))
    tables = [
        table("category_names", "const char*", (f'"{name}"' for name in names)),
        table("category_runs", "Run", runs(map(names.index, categories))),
        table("combining_class_runs", "Run", runs(map(unicodedata.combining, characters))),
        table("case_flag_runs", "Run", runs(map(case_flags, characters))),
        table("lowercase_rows", "Lowercase", lowercase()),
        table("decomposition_rows", "Decomposition", decompositions()),
        table("composition_rows", "Composition", sorted(compositions())),
    ]
    header = f"// Written by unicode_tables.py: Unicode {unicodedata.unidata_version}.\n"
    partial = path.with_suffix(".part")
    partial.write_text(header + "\n".join(tables))
    partial.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
