"""Numbered starts, as a command line says them."""

from actquant.common.errors import EvaluationError

MOST_STARTS = 100_000
LAST_START = 2**32 - 1


def parse_starts(text: str) -> list[int]:
    """Parses starts: `0:50` is 0 … 49, `7` is one, `0:10,1000:1010` joins ranges.

    Raises EvaluationError for what is no range, names no start, or more than MOST_STARTS.
    """
    ranges = [_parse_range(text, part) for part in text.split(",")]
    if any(not found for found in ranges):
        raise EvaluationError(f"--starts '{text}' has a range without a start; write low:high")
    if min(found[0] for found in ranges) < 0 or max(found[-1] for found in ranges) > LAST_START:
        raise EvaluationError(f"--starts '{text}': starts are numbered from 0 to {LAST_START}")
    count = sum(map(len, ranges))
    if count > MOST_STARTS:
        raise EvaluationError(f"--starts '{text}' names {count:,} starts, at most {MOST_STARTS:,}")
    return list(dict.fromkeys(start for found in ranges for start in found))


def _parse_range(text: str, part: str) -> range:
    low, colon, high = part.partition(":")
    try:
        first = int(low)
        return range(first, int(high) if colon else first + 1)
    except ValueError as error:
        raise EvaluationError(
            f"--starts '{text}' is no range; write 0:50 (for 0 to 49), 7, or 0:10,20:30"
        ) from error
