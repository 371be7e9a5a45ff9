"""A chunk's latency in our runtime beside PyTorch's, in turns, in one run.

    python benchmarks/side_by_side.py CHECKPOINT MODEL.gguf --threads 1,2 --json speed.json

Each contender is a process of its own that has loaded the policy; they answer one observation one
after the other, so that a machine that becomes slower does so for all. All get the same pictures,
state, task and noise. Who they are, and what they need: contenders.py beside this file. One that
fails is left out; `--log` has its words.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from contenders import CONTENDERS, make_actor

from actquant.evaluation.bench import peak_rss_bytes


def work(arguments: argparse.Namespace) -> None:
    """Answers once for every line on standard input, with the seconds that it took."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    begin = time.perf_counter()
    act = make_actor(
        arguments.worker, arguments.checkpoint, arguments.model, arguments.worker_threads
    )
    act()
    print(json.dumps({"ready_s": time.perf_counter() - begin}), file=answers, flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        act()
        seconds = time.perf_counter() - begin
        print(json.dumps({"s": seconds, "rss": peak_rss_bytes()}), file=answers, flush=True)


@dataclass
class Contender:
    """One process, and what it took."""

    name: str
    threads: int
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0

    def read(self) -> dict[str, Any]:
        """Returns its next answer. Raises EOFError if it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def act(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.read()
        self.seconds.append(answer["s"])
        self.peak_rss_bytes = answer["rss"]


@contextlib.contextmanager
def started(arguments: argparse.Namespace, name: str, threads: int) -> Iterator[Contender]:
    """Yields a contender that is ready to act; it ends with the context."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    if name == "ggml":
        environment["ACTQUANT_ISA"] = "ggml"
    command = [sys.executable, __file__, str(arguments.checkpoint), str(arguments.model)]
    command += ["--worker", name, "--worker-threads", str(threads)]
    with open(arguments.log or os.devnull, "a") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    try:
        contender = Contender(name, threads, process)
        contender.read()
        yield contender
    finally:
        process.kill()
        process.wait()


def rounds(arguments: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Lets all contenders act in turns; returns a row for each."""
    with contextlib.ExitStack() as stack:
        contenders = []
        for name in arguments.contenders.split(","):
            try:
                contenders.append(stack.enter_context(started(arguments, name, threads)))
            except EOFError as error:
                print(f"left out: {error}", file=sys.stderr)
        for _ in range(arguments.turns):
            for contender in contenders:
                contender.act()
        medians = {c.name: float(np.median(c.seconds)) for c in contenders}
        return [
            {
                "contender": c.name,
                "threads": threads,
                "n": len(c.seconds),
                "p50_s": round(medians[c.name], 4),
                "min_s": round(min(c.seconds), 4),
                "max_s": round(max(c.seconds), 4),
                "actquant_is_times": round(medians["actquant"] / medians[c.name], 3),
                "peak_rss_bytes": c.peak_rss_bytes,
            }
            for c in contenders
        ]


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draws medians as bars, a panel for each number of threads; whiskers span least to most."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    counts = sorted({row["threads"] for row in rows})
    figure, panels = plt.subplots(
        1,
        len(counts),
        figsize=(5 * len(counts), 0.45 * len(rows) / len(counts) + 1.2),
        squeeze=False,
    )
    for panel, threads in zip(panels[0], counts, strict=True):
        shown = [row for row in rows if row["threads"] == threads][::-1]
        medians = [row["p50_s"] for row in shown]
        spread = [
            [row["p50_s"] - row["min_s"] for row in shown],
            [row["max_s"] - row["p50_s"] for row in shown],
        ]
        colors = ["#7db8e8" if row["contender"] == "actquant" else "#b8bec6" for row in shown]
        names = [row["contender"] for row in shown]
        panel.barh(names, medians, xerr=spread, color=colors, ecolor="#444444")
        for position, median in enumerate(medians):
            panel.annotate(
                f"{median:.2f} s", (0, position), (4, 0), textcoords="offset points", va="center"
            )
        panel.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=10)
        panel.set_xlabel("seconds a chunk")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def processor() -> str:
    """Returns the processor's name, as Linux has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="file for a picture of it")
    parser.add_argument("--log", type=Path, help="file for what the contenders print")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--worker-threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    if "actquant" not in arguments.contenders.split(","):
        parser.error("--contenders must have actquant, which the others are compared with")
    rows = [row for n in arguments.threads.split(",") for row in rounds(arguments, int(n))]
    for row in rows:
        print(
            f"{row['contender']:13} {row['threads']} threads  {row['p50_s']:8.3f} s "
            f"({row['min_s']:.3f} to {row['max_s']:.3f}, n {row['n']})  "
            f"actquant takes {row['actquant_is_times']:.2f} of it  "
            f"peak {row['peak_rss_bytes'] / 1e6:6.0f} MB"
        )
    if arguments.plot:
        draw(rows, f"{arguments.model.name}, {processor()}", arguments.plot)
    if arguments.json:
        text = json.dumps({"processor": processor(), "rows": rows}, indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
