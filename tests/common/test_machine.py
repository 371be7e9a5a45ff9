"""What a process may use of the machine, and gives back."""

import subprocess
import sys

FREED_BETWEEN = """
import psutil
from actquant.common.machine import return_freed_memory

blocks = [b"x" * 65536 for _ in range(2000)]
kept = blocks[::50]
del blocks
process = psutil.Process()
before = process.memory_info().rss
return_freed_memory()
print(before - process.memory_info().rss)
"""


def test_what_was_freed_between_what_is_in_use_goes_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREED_BETWEEN], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) > 0.9 * 2000 * 65536 * 49 / 50
