"""A broken install fails the tests; it does not make them skip."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_test_is_skipped_because_a_module_is_missing():
    looking = re.compile(r"pytest\.import" + r"orskip|except (ImportError|ModuleNotFoundError)")
    found = [
        path.relative_to(TESTS).as_posix()
        for path in sorted(TESTS.rglob("*.py"))
        if looking.search(path.read_text())
    ]
    assert found == []
