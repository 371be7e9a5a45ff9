"""Latency and peak memory of a model in a process of its own, without a simulator beside it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from actquant.common.errors import EvaluationError


class Measurement(BaseModel):
    """Latency in ms from observation to action chunk; memory in bytes, its peak with the longest
    prompt."""

    model_config = ConfigDict(extra="forbid")

    load_ms: float
    p50_ms: float
    p95_ms: float
    n: int
    threads: int
    device: str = "cpu"
    peak_rss_bytes: int
    rss_before_load_bytes: int


def measure(model: Path, *, n: int = 100, threads: int = 0, device: str = "cpu") -> Measurement:
    """Runs `n` golden observations through a GGUF in a fresh process.

    device: as `Runtime` takes it. Raises EvaluationError with the reason if it fails.
    """
    return Measurement.model_validate_json(_in_a_process(model, str(n), str(threads), device))


def _in_a_process(model: Path, *settings: str) -> str:
    """Returns the last line that this module prints as a program; raises EvaluationError."""
    command = [sys.executable, "-m", "actquant.evaluation.bench", str(model), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise EvaluationError(f"the process that ran {model} was ended by {name}")
    said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
    raise EvaluationError(f"{model} cannot be run: {said[-1][:2000]}")


class StageCost(BaseModel):
    """What a stage, or one kind of operator in it, takes in one action.

    least_ms: what it would take if every product ran at the rate that its kernel reaches with all
    operands in the first cache, or as long as its weights take from memory if that is longer.
    """

    model_config = ConfigDict(extra="forbid")

    stage: str
    ms: float
    least_ms: float


class OperatorCost(StageCost):
    """operations: multiplications and additions, elements where it does not multiply; weight_bytes:
    of the file's tensors that it reads, as they are stored."""

    op: str
    kernel: str
    calls: int
    operations: float
    weight_bytes: float


class Profile(BaseModel):
    """Where an action's time goes. reach_per_s: operations of each kind of product, and bytes of
    `memory`, that this machine reaches with so many threads."""

    model_config = ConfigDict(extra="forbid")

    runs: int
    reach_per_s: dict[str, float]
    stages: list[StageCost]
    operators: list[OperatorCost]


def profile(model: Path, *, runs: int = 3, threads: int = 0) -> Profile:
    """Runs a golden observation through a GGUF, operator by operator.

    Raises ModelFileError if the runtime cannot open it.
    """
    from actquant_runtime import Runtime, golden_observation

    runtime = Runtime(str(model), threads=threads)
    observation, _ = golden_observation(runtime.describe(), seed=1)
    return Profile.model_validate(runtime.profile(observation, runs=runs))


class BenchReport(Measurement):
    """profile: where the time goes; None where it was not asked."""

    profile: Profile | None = None


class MemoryPrediction(BaseModel):
    """Peak memory of a process of `actquant bench` that loads a file and acts, in bytes.

    opened: measured: Python, numpy and the runtime with the file opened, its programs checked and
    its tokenizer built; weights: tensors that are read whole by the first action (tables, of which
    single rows are read, hardly count); compute: graphs and buffers at the longest prompt.
    """

    model_config = ConfigDict(extra="forbid")

    opened_bytes: int
    weights_bytes: int
    compute_bytes: int

    @computed_field
    @property
    def peak_rss_bytes(self) -> int:
        return self.opened_bytes + self.weights_bytes + self.compute_bytes


def predict_memory(model: Path) -> MemoryPrediction:
    """Returns what `measure` will find, without running the model.

    Raises EvaluationError if the runtime cannot open it.
    """
    return MemoryPrediction.model_validate_json(_in_a_process(model))


def _predict_here(model: Path) -> MemoryPrediction:
    from actquant_runtime import Runtime, golden_observation

    runtime = Runtime(str(model))
    description = runtime.describe()
    golden_observation(description, seed=1)
    memory = description["memory"]
    return MemoryPrediction(
        opened_bytes=peak_rss_bytes(),
        weights_bytes=memory["weights_bytes"],
        compute_bytes=memory["compute_bytes"],
    )


def peak_rss_bytes() -> int:
    """Returns this program's peak so far. (getrusage's also counts the parent's, from before
    exec.)"""
    return _status_bytes("VmHWM")


def resident_bytes() -> int:
    """Returns what this program has in memory now."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _measure_here(model: Path, n: int, threads: int, device: str) -> Measurement:
    from actquant_runtime import Runtime, golden_observation

    before = peak_rss_bytes()
    begin = time.perf_counter()
    runtime = Runtime(str(model), threads=threads, device=device)
    load_ms = (time.perf_counter() - begin) * 1e3
    description = runtime.describe()
    observation, noise = golden_observation(description, seed=1)
    latencies_ms = []
    warm_up = 5 if n >= 20 else 1
    for _ in range(n + warm_up):
        begin = time.perf_counter()
        runtime.act(observation, noise=noise)
        latencies_ms.append((time.perf_counter() - begin) * 1e3)
    tokens = (description["prompt"] or {}).get("max_length", 0)
    runtime.act({**observation, "task": " ".join(["push"] * tokens)}, noise=noise)
    p50, p95 = np.percentile(latencies_ms[warm_up:], [50, 95])
    return Measurement(
        load_ms=load_ms,
        p50_ms=p50,
        p95_ms=p95,
        n=n,
        threads=threads,
        device=description["device"],
        peak_rss_bytes=peak_rss_bytes(),
        rss_before_load_bytes=before,
    )


if __name__ == "__main__":
    path, *settings = sys.argv[1:]
    try:
        if settings:
            runs, threads, device = settings
            result: BaseModel = _measure_here(Path(path), int(runs), int(threads), device)
        else:
            result = _predict_here(Path(path))
    except (RuntimeError, ValueError, MemoryError) as error:  # the runtime's errors are of these
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
    print(result.model_dump_json(exclude={"peak_rss_bytes"} if not settings else None))
