"""Hours of one thing: does memory, the number of open files or threads, or the latency grow?

    python benchmarks/soak.py act MODEL.gguf --minutes 480 --json soak.json --plot soak.png
    python benchmarks/soak.py deploy MODEL.gguf --minutes 480 --json soak.json --plot soak.png
    python benchmarks/soak.py serve MODEL.gguf --minutes 480 --json soak.json --plot soak.png

`act` opens a file once and asks for chunks; `deploy` lets it drive the fake controller, episode
after episode; `serve` answers CLIENTS clients, each of which connects anew after SESSION chunks;
one session in ten ends in the middle of a message. The program that is watched runs as a process of
its own. Where the arm stops for what it ran into (nobody clears the table), the operator's word
lets it go on. Exit code 1 if memory grew by more than 2 % and 2 MB, or files or threads by one,
between the second tenth of the time and the last, or if a client was given an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from actquant.deploy.session import RECOVER

SAMPLES = 400
HOST = "127.0.0.83"
TASK = "pick up the blue cube"
CLIENTS, SESSION = 4, 100
PATIENT = ("max_state_age_s=1.5", "max_camera_age_s=1.5", "stop_after_s=5")
"""Of a simulated arm beside other work: what is looked for is growth."""

ACT = """
import sys, time
from actquant_runtime import Runtime, golden_observation

runtime = Runtime(sys.argv[1])
observation, noise = golden_observation(runtime.describe(), seed=1)
while True:
    begin = time.perf_counter()
    runtime.act(observation, noise=noise)
    seconds = time.perf_counter() - begin
    print(seconds, flush=True)
    time.sleep(max(0.0, float(sys.argv[2]) - seconds))
"""


def act_command(model: Path, period_s: float) -> list[str]:
    return [sys.executable, "-c", ACT, str(model), str(period_s)]


def deploy_command(model: Path, log: Path) -> list[str]:
    actquant = [sys.executable, "-m", "actquant.cli"]
    cameras = [f"{name}=zmq:{HOST}:5555:{name}" for name in ("scene", "wrist")]
    return [
        *(*actquant, "deploy", str(model), "--ip", HOST, "--task", TASK),
        *(option for camera in cameras for option in ("--camera", camera)),
        *("--yes", "--activate-gripper", "--episodes", "100000", "--max-seconds", "30"),
        *("--log", str(log), "--seed", "0"),
        *(option for limit in PATIENT for option in ("--limit", limit)),
    ]


def serve_command(model: Path) -> list[str]:
    return [sys.executable, "-m", "actquant.cli", "serve", f"model={model}", "--port", "0"]


class Operator:
    """Whoever sits at `deploy`'s terminal, and lets the arm go on when it has stopped.

    stdin: what the program reads; recoveries: how often the word was given.
    """

    def __init__(self, log: Path) -> None:
        self._terminal, self.stdin = os.openpty()
        self._log, self.recoveries = log, 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        os.close(self._terminal)
        os.close(self.stdin)

    def _run(self) -> None:
        question = f"Type {RECOVER} when"
        while not self._is_over.wait(1.0):
            asked = " ".join(self._log.read_text(errors="replace").split()).count(question)
            if asked > self.recoveries:
                os.write(self._terminal, f"{RECOVER}\n".encode())
                self.recoveries += 1


class Clients:
    """Clients of a server whose address stands in `log`, in threads of their own; `latencies_s` of
    their chunks, in the order in which they came."""

    def __init__(self, model: Path, log: Path, period_s: float) -> None:
        from actquant_runtime import Runtime, golden_observation

        self._seen, self._noise = golden_observation(Runtime(model).describe(), seed=1)
        self._log, self._period_s = log, period_s
        self.latencies_s: list[float] = []
        self.failures: list[str] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        from actquant.serve.client import RemoteRuntime

        while not (found := re.search(r"ws://\S+", self._log.read_text())):
            if self._is_over.wait(0.1):
                return
        sessions = 0
        while not self._is_over.is_set():
            try:
                remote = RemoteRuntime(found[0])
                for _ in range(SESSION):
                    if not self._is_over.is_set():
                        self._ask(remote)
                sessions += 1
                if sessions % 10 == 0:
                    vanish(found[0])
                remote.close()
            except Exception as error:  # what the server should never give
                self.failures.append(f"{type(error).__name__}: {error}")
                self._is_over.wait(1.0)

    def _ask(self, remote: Any) -> None:
        begin = time.perf_counter()
        remote.act(self._seen, noise=self._noise)
        seconds = time.perf_counter() - begin
        self.latencies_s.append(seconds)
        self._is_over.wait(max(0.0, self._period_s - seconds))


def vanish(address: str) -> None:
    """Begins a message to a server, and is gone without a word."""
    from websockets.sync.client import connect

    client = connect(address, compression=None).__enter__()
    client.recv()
    client.socket.sendall(b"\x82\xfe\xff\xff" + bytes(1000))  # a frame of 65535 bytes
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_RDWR)


def sample(process: psutil.Process, begin: float) -> dict[str, float]:
    """Returns what a process and its children hold now."""
    family = [process, *process.children(recursive=True)]
    return {
        "seconds": time.monotonic() - begin,
        "rss_bytes": sum(each.memory_info().rss for each in family),
        "files": sum(each.num_fds() for each in family),
        "threads": sum(each.num_threads() for each in family),
    }


def drift(samples: list[dict[str, float]], key: str) -> tuple[float, float]:
    """Returns the medians of the second tenth and of the last."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    return statistics.median(s[key] for s in early), statistics.median(s[key] for s in late)


def watch(
    command: list[str], minutes: float, log: Path, stdin: int, before_end: Callable[[], None]
) -> list[dict[str, float]]:
    """Runs a program for so long and samples it; raises SystemExit if it ends by itself."""
    samples = []
    begin = time.monotonic()
    with log.open("w") as output:
        program = subprocess.Popen(command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT)
        try:
            while (passed := time.monotonic() - begin) < 60 * minutes:
                time.sleep(min(60 * minutes / SAMPLES, 60 * minutes - passed))
                if program.poll() is not None:
                    tail = log.read_text()[-2000:]
                    raise SystemExit(f"ended by itself after {passed:.0f} s:\n{tail}")
                samples.append(sample(psutil.Process(program.pid), begin))
        finally:
            before_end()
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(30)
            except subprocess.TimeoutExpired:
                program.kill()
    return samples


def judge(samples: list[dict[str, float]], latencies_s: list[float]) -> dict[str, Any]:
    """Returns what each quantity was at first and at last, and what grew."""
    found = {key: drift(samples, key) for key in ("rss_bytes", "files", "threads")}
    first, last = found["rss_bytes"]
    grew = ["rss_bytes"] if last > max(1.02 * first, first + 2e6) else []
    grew += [key for key in ("files", "threads") if found[key][1] > found[key][0]]
    result: dict[str, Any] = {key: {"first": a, "last": b} for key, (a, b) in found.items()}
    if len(latencies_s) >= 20:
        tenth = len(latencies_s) // 10
        result["latency_s"] = {
            name: {"p50": statistics.median(part), "p99": statistics.quantiles(part, n=100)[98]}
            for name, part in (
                ("first", latencies_s[tenth : 2 * tenth]),
                ("last", latencies_s[-tenth:]),
            )
        }
    return result | {"grew": grew}


def draw(samples: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    hours = [s["seconds"] / 3600 for s in samples]
    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(7, 6))
    for axis, key, scale in zip(axes, ("rss_bytes", "files", "threads"), (1e-6, 1, 1), strict=True):
        axis.plot(hours, [s[key] * scale for s in samples])
        axis.set_ylabel("memory in MB" if key == "rss_bytes" else key)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("hours")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["act", "deploy", "serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=480)
    parser.add_argument(
        "--period-s", type=float, default=0.0, help="act, serve: of one chunk; 0: none"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    controller = clients = operator = None
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output"
        log.touch()
        if arguments.what == "act":
            command = act_command(arguments.model, arguments.period_s)
        elif arguments.what == "serve":
            command = serve_command(arguments.model)
            clients = Clients(arguments.model, log, arguments.period_s)
        else:
            command = deploy_command(arguments.model, Path(folder) / "log")
            simulate = ["-m", "actquant.cli", "robot-sim", "--host", HOST, "--task", "pick_cube"]
            with (Path(folder) / "controller").open("w") as output:
                controller = subprocess.Popen(
                    [sys.executable, *simulate], stdout=output, stderr=subprocess.STDOUT
                )
            time.sleep(20)
            operator = Operator(log)
        try:
            leave = (lambda: None) if clients is None else clients.close
            stdin = subprocess.DEVNULL if operator is None else operator.stdin
            samples = watch(command, arguments.minutes, log, stdin, leave)
        finally:
            if operator is not None:
                operator.close()
            if controller is not None:
                controller.terminate()
                controller.wait()
        latencies_s = [] if clients is None else clients.latencies_s
        episodes = log.read_text(errors="replace").count(" actions: ")
        if arguments.what == "act":
            latencies_s = [float(line) for line in log.read_text().splitlines()]
    result = {
        "what": arguments.what,
        "model": arguments.model.name,
        "minutes": arguments.minutes,
        "chunks": len(latencies_s),
        "failures": [] if clients is None else clients.failures,
        **({} if operator is None else {"episodes": episodes, "recoveries": operator.recoveries}),
        **judge(samples, latencies_s),
        "samples": samples,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        draw(samples, arguments.plot)
    print(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))
    raise SystemExit(1 if result["grew"] or result["failures"] else 0)


if __name__ == "__main__":
    main()
