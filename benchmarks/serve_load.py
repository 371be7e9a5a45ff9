"""What a server adds to a chunk, and what several clients get from it: `actquant serve`, or the
program that `--server` names, e.g. actquant-serve.

    python benchmarks/serve_load.py MODEL.gguf --clients 1,4,16 --seconds 30 --json load.json
    python benchmarks/serve_load.py MODEL.gguf --server .venv/bin/actquant-serve

Clients are processes with openpi's own client; each sends its next observation when it has its
answer: pictures of 224 x 224 from all cameras, a state, a task. `added_ms` is the time from sending
to the answer less what the policy took, of one client.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SIDE = 224


def observation(about: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    seen: dict[str, Any] = {
        camera: random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for camera in about["cameras"]
    }
    if about["state_names"]:
        seen["observation.state"] = np.zeros(len(about["state_names"]), np.float32)
    return seen | {"task": "pick up the blue cube", "actquant": {"seed": 0}}


def client(address: str, seconds: float) -> None:
    """Asks for chunks one after another; prints the milliseconds of each and of the policy."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy(address)
    seen = observation(policy.get_server_metadata())
    policy.infer(seen)
    print("ready", flush=True)
    sys.stdin.readline()
    times = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        answer = policy.infer(seen)
        total = 1e3 * (time.perf_counter() - begin)
        times.append((total, answer["policy_timing"]["infer_ms"]))
    print(json.dumps(times), flush=True)


def measure(address: str, server: psutil.Process, count: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, address, "--as-client", "--seconds", str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    clients = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]
    for each in clients:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    before = server.memory_info().rss
    for each in clients:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    times = [pair for each in clients for pair in json.loads(each.communicate()[0])]
    totals = [total for total, _ in times]
    cuts = statistics.quantiles(totals, n=100)
    return {
        "clients": count,
        "chunks": len(times),
        "chunks_per_s": round(len(times) / seconds, 2),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "policy_p50_ms": round(statistics.median(infer for _, infer in times), 2),
        "added_ms": round(statistics.median(total - infer for total, infer in times), 2),
        "rss_bytes": [before, server.memory_info().rss],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--server", help="a program that takes the options of `actquant serve`")
    parser.add_argument("--as-client", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_client:
        client(arguments.model, arguments.seconds)
        return
    server = (
        [arguments.server] if arguments.server else [sys.executable, "-m", "actquant.cli", "serve"]
    )
    command = [
        *server,
        f"model={arguments.model}",
        "--port",
        "0",
        "--queue",
        "64",
        "--deadline",
        "60",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"ws://\S+", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        rows = []
        for count in map(int, arguments.clients.split(",")):
            row = measure(found[0], psutil.Process(process.pid), count, arguments.seconds)
            if count > 1:
                del row["added_ms"]  # it would be the time in the queue
            rows.append(row)
            print(json.dumps(row), flush=True)
    finally:
        process.terminate()
        process.wait(30)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
