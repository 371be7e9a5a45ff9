"""The limits in docs/format.md are those of the runtime."""

import re
from pathlib import Path

from format_page import tables

HEADER = Path(__file__).parents[2] / "runtime/src/common/limits.h"


def numbers_of_the_header() -> list[int]:
    """In the order of the file, without those of messages, which no file can reach."""
    text = HEADER.read_text().partition("// The container.")[2].partition("// Messages.")[0]
    values = re.findall(r"inline constexpr \w+ \w+ = ([^;]+);", text)
    plain = (re.sub(r"\bu?int64_t\((\d+)\)", r"\1", value) for value in values)
    return [eval(value, {"fuzzed": 0}) for value in plain]


def test_the_page_lists_every_limit():
    told = [int(row[1]) for row in tables("## Limits")[0]]
    assert told == numbers_of_the_header()
    assert len(told) == 28
