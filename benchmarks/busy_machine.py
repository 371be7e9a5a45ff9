"""A chunk's latency beside programs that take whole cores, as cameras and planners on a robot do.

    python benchmarks/busy_machine.py MODEL.gguf --threads 1,2 --busy 0,1,2 --json busy.json

Each busy program spins on a core of its own. Prints p50 and p99 for each number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from actquant_runtime import Runtime, golden_observation


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """Runs programs that spin on the last `count` cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))[::-1][:count]
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    programs = [
        # In a session of its own the scheduler treats it as it treats another user's program.
        subprocess.Popen([sys.executable, "-c", code, str(core)], start_new_session=True)
        for core in cores
    ]
    try:
        time.sleep(0.5)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def measure(model: Path, threads: int, runs: int) -> list[float]:
    """Returns the seconds of each run, after one to warm up."""
    runtime = Runtime(str(model), threads=threads)
    observation, noise = golden_observation(runtime.describe(), seed=1)
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        runtime.act(observation, noise=noise)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--busy", default="0,1,2")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for busy in map(int, arguments.busy.split(",")):
        for threads in map(int, arguments.threads.split(",")):
            with spinning(busy):
                seconds = measure(arguments.model, threads, arguments.runs)
            p50, p99 = np.percentile(seconds, [50, 99])
            rows.append(
                {"busy": busy, "threads": threads, "p50_s": p50, "p99_s": p99, "n": len(seconds)}
            )
            print(
                f"{busy} busy programs, {threads} threads: "
                f"p50 {p50:.3f} s, p99 {p99:.3f} s, n {len(seconds)}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
