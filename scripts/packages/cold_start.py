"""Prints what a fresh process takes to import the runtime, to open a policy, and to act first.

    python cold_start.py POLICY.gguf

The process is new; the files are in the page cache where they were read before.
"""

import json
import platform
import sys
import time

begin = time.perf_counter()
from actquant_runtime import Runtime, build_info, golden_observation  # noqa: E402

imported = time.perf_counter()
runtime = Runtime(sys.argv[1])
opened = time.perf_counter()
observation, noise = golden_observation(runtime.describe(), seed=1)
made = time.perf_counter()
actions = runtime.act(observation, noise=noise)
acted = time.perf_counter()
again = [time.perf_counter()]
for _ in range(5):
    runtime.act(observation, noise=noise)
    again.append(time.perf_counter())
print(
    json.dumps(
        {
            "machine": platform.machine(),
            "python": platform.python_version(),
            "kernels": build_info()["kernels"],
            "native": build_info()["native"],
            "import_s": round(imported - begin, 3),
            "open_s": round(opened - imported, 3),
            "first_act_s": round(acted - made, 3),
            "later_act_s": round(min(b - a for a, b in zip(again, again[1:], strict=False)), 4),
            "actions": list(actions.shape),
        }
    )
)
