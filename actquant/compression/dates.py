"""When a compression began that was stopped and goes on from its work folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actquant.common.files import hash_json, write_text


@contextmanager
def dated(work: Path, provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Gives a file's provenance the date at which the first run that was to make it began.

    The date lies in the work folder until the block ends without error.
    """
    others = {key: value for key, value in provenance.items() if key != "date"}
    key = hash_json({**others, "epoch": os.environ.get("SOURCE_DATE_EPOCH")})
    noted = work / f"began-{key[:16]}.txt"
    if noted.is_file():
        date = noted.read_text(encoding="utf-8")
    else:
        date = provenance["date"]
        write_text(noted, date)
    yield {**provenance, "date": date}
    noted.unlink(missing_ok=True)
