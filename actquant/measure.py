"""Latency and peak memory of a model in a process of its own, without a simulator beside it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.errors import EvaluationError


class Measurement(BaseModel):
    """Latency in ms from observation to action chunk; memory in bytes."""

    model_config = ConfigDict(extra="forbid")

    load_ms: float
    p50_ms: float
    p95_ms: float
    n: int
    threads: int
    peak_rss_bytes: int
    rss_before_load_bytes: int


def measure(model: Path, *, n: int = 100, threads: int = 0) -> Measurement:
    """Runs `n` golden observations through a GGUF or a checkpoint in a fresh process.

    Raises EvaluationError with the process's own words if it fails.
    """
    command = [sys.executable, "-m", "actquant.measure", str(model), str(n), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EvaluationError(f"measuring {model} failed: {done.stderr.strip()[-2000:]}")
    return Measurement.model_validate_json(done.stdout.strip().splitlines()[-1])


def peak_rss_bytes() -> int:
    """This program's peak so far. (getrusage's also counts the parent's, from before exec.)"""
    return _status_bytes("VmHWM")


def resident_bytes() -> int:
    """What this program has in memory now."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _measure_here(model: Path, n: int, threads: int) -> Measurement:
    from actquant_runtime import Runtime, golden_observation

    before = peak_rss_bytes()
    begin = time.perf_counter()
    runtime = Runtime(str(model), threads=threads)
    load_ms = (time.perf_counter() - begin) * 1e3
    observation, noise = golden_observation(runtime.describe(), seed=1)
    latencies_ms = []
    for _ in range(n + 5):
        begin = time.perf_counter()
        runtime.act(observation, noise=noise)
        latencies_ms.append((time.perf_counter() - begin) * 1e3)
    p50, p95 = np.percentile(latencies_ms[5:], [50, 95])
    return Measurement(
        load_ms=load_ms,
        p50_ms=p50,
        p95_ms=p95,
        n=n,
        threads=threads,
        peak_rss_bytes=peak_rss_bytes(),
        rss_before_load_bytes=before,
    )


if __name__ == "__main__":
    print(json.dumps(_measure_here(Path(sys.argv[1]), *map(int, sys.argv[2:4])).model_dump()))
