"""What it takes to convert a policy and to run it: time, memory, size. One command, one JSON.

    python benchmarks/real_size.py CHECKPOINT --recipe rtn --bpw 3 --out p.gguf --json p.json
    python benchmarks/real_size.py CHECKPOINT --out p.gguf --json p.json -- --dataset D --frames 16

What follows `--` goes to `actquant compress` as it is.
The conversion runs in a process of its own. Its peak is the largest resident set of that process
or of one of its children; file pages that are mapped count. Loading is measured with the file in
the page cache, where it is after the conversion.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actquant.evaluation.bench import measure, predict_memory

UNITS = 1024
"""Of ru_maxrss on Linux."""


def convert(arguments: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    """Runs `actquant compress`; its report with wall time and peak memory."""
    command = [sys.executable, "-m", "actquant.cli", "compress", arguments.checkpoint, "--json"]
    command += ["--recipe", arguments.recipe, "--bpw", str(arguments.bpw)]
    command += ["--out", str(arguments.out)]
    if arguments.verify is not None:
        command += ["--verify", arguments.verify]
    if arguments.control_rate_hz is not None:
        command += ["--control-rate-hz", str(arguments.control_rate_hz)]
    for pair in arguments.option:
        command += ["--option", pair]
    command += more
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise SystemExit(f"the conversion failed: {done.stdout.strip()}")
    report = json.loads(done.stdout)
    return {
        "seconds": round(seconds, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNITS,
        **{
            key: report[key]
            for key in (
                "file_bytes",
                "whole_file_bpw",
                "quantized_tensor_bpw",
                "parameter_count",
                "file_error",
                "held_out",
                "timings_s",
                "remarks",
            )
        },
        "program_error": report["program_error"],
    }


def run(model: Path, n: int, threads: int) -> dict[str, Any]:
    """Runs `actquant bench`: latency, and memory as measured and as predicted."""
    predicted = predict_memory(model)
    measured = measure(model, n=n, threads=threads)
    return {
        "load_ms": measured.load_ms,
        "p50_ms": measured.p50_ms,
        "n": n,
        "threads": threads or os.cpu_count(),
        "peak_rss_bytes": measured.peak_rss_bytes,
        "predicted_peak_rss_bytes": predicted.peak_rss_bytes,
        "predicted_error": predicted.peak_rss_bytes / measured.peak_rss_bytes - 1,
        "weights_bytes": predicted.weights_bytes,
        "compute_bytes": predicted.compute_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What converting and running a policy takes")
    parser.add_argument("checkpoint", help="folder, or organisation/name on the hub")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    parser.add_argument("--recipe", default="rtn")
    parser.add_argument("--bpw", type=float, default=3.0)
    parser.add_argument("--verify", choices=("none", "quick", "full"))
    parser.add_argument("--control-rate-hz", type=float)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("-n", type=int, default=3, help="inferences after one to warm up")
    parser.add_argument("--threads", type=int, default=0)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:end])
    result = {
        "checkpoint": arguments.checkpoint,
        "recipe": arguments.recipe,
        "compress": sys.argv[end + 1 :],
        "verify": arguments.verify,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor()},
        "conversion": convert(arguments, sys.argv[end + 1 :]),
        "run": run(arguments.out, arguments.n, arguments.threads),
    }
    text = json.dumps(result, indent=1)
    arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
