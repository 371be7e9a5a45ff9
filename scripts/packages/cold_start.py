"""Prints what a new process takes to import the runtime, to open a policy, and to act.

    python cold_start.py POLICY.gguf

Seconds by the clock, and in brackets of processor time, which another program's work does not
lengthen. Files that were read before come from the page cache.
"""

import platform
import sys
import time


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def told(name: str, begin: tuple[float, float], end: tuple[float, float]) -> str:
    return f"{name} {end[0] - begin[0]:.3f} s ({end[1] - begin[1]:.3f})"


begin = clocks()
from actquant_runtime import Runtime, build_info, golden_observation  # noqa: E402

imported = clocks()
runtime = Runtime(sys.argv[1], threads=1)
opened = clocks()
observation, noise = golden_observation(runtime.describe(), seed=1)
made = clocks()
runtime.act(observation, noise=noise)
first = clocks()
runtime.act(observation, noise=noise)
second = clocks()
built = build_info()
assert not built["native"], "this build is for one machine's processor alone"
parts = [
    told("import", begin, imported),
    told("open", imported, opened),
    told("first chunk", made, first),
    told("second", first, second),
]
print(f"{platform.machine()}, Python {platform.python_version()}, {built['kernels']}:", *parts)
