"""How near are the files to PyTorch? One row a family, written to docs/parity.md and .json.

    python benchmarks/parity_table.py [FAMILY ...]

With families named, their rows are made anew and the others of the .json stay.
Every family is a real policy of its library with tiny sizes and random weights. One process writes
its checkpoint and another converts it, so that time and peak memory are of the conversion alone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actquant.policies.registry import supported_policies

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

INPUTS = 16
TYPES = ("F32", "F16", "BF16", "Q8_0")
NOTES = """\
How far the native runtime is from PyTorch in float32: the root mean square difference of a chunk \
in standard deviations of each action, as the mean over chunks and the worst one. Real policies \
with tiny sizes and random weights; prompts of several lengths, a third of the inputs with an \
absent camera where the policy allows it. F16, BF16 and Q8_0: all matrices in that type; ggml \
rounds what they are multiplied with alike, and adds up in float32. What a policy's own bfloat16 \
keeps in float32 (vision and action projections of `pi0` and `pi05`) stays so beside BF16. PyTorch \
bf16: the same policy under autocast. Unfused: patterns such as attention that the programs spell \
out. Conversion: load, capture and write the F32 file, in a process of its own, so that time and \
peak memory are of it alone."""
NOT_COMPARED = """\
## What is not as published

- `evo1`: the policy starts from noise that is uniform in [-1, 1]. Its file is given N(0, 1) as \
every file is, and makes the one of the other in the first step; so that step is not one of the \
flow, and a previous chunk cannot guide the next (`rtc`), as it can in LeRobot.
- `openvla_oft`: the published evaluation sends every camera image through JPEG before it resizes \
it, which imitates the training data. PyTorch and the runtime leave that out here; who wants it \
encodes and decodes the image before.
- `openvla_oft`: an element of the state that never varied in training (q01 = q99) was 0 there, \
and is 0 here; the published evaluation makes it -1."""


@dataclass
class Row:
    """Distances from PyTorch in float32 (`actquant.fidelity.distance`): mean, and worst chunk."""

    family: str
    parameters: int
    mean: dict[str, float]
    worst: dict[str, float]
    bfloat16_mean: float
    """Of PyTorch under autocast to bfloat16."""
    bfloat16_worst: float
    unfused: int
    conversion_s: float
    peak_rss_mb: float


def measure(family: str, folder: Path) -> Row:
    """Converts a checkpoint in this process and compares its files with PyTorch."""
    import numpy as np
    import torch
    from tiny_families import loading

    from actquant.capture import fusion_report
    from actquant.capture.policy import capture_policy
    from actquant.fidelity.distance import action_scale, measure_distance
    from actquant.fidelity.parity import golden_observations, measure_parity
    from actquant.policies import load_policy

    with tempfile.TemporaryDirectory() as scratch:
        begin = time.perf_counter()
        with loading(family):
            loaded = load_policy(folder, control_rate_hz=10)
        captured = capture_policy(loaded)
        paths = {kind: Path(scratch) / f"{kind}.gguf" for kind in TYPES}
        write(loaded, captured, paths["F32"], "F32")
        conversion_s = time.perf_counter() - begin
        peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        reports = {}
        for kind, path in paths.items():
            if kind != "F32":
                write(loaded, captured, path, kind)
            reports[kind] = measure_parity(path, loaded, n=INPUTS)
        inputs = golden_observations(loaded, n=INPUTS)
        wanted = np.array([item["actions_reference"] for item in reports["F32"].golden])
        with torch.autocast("cpu", torch.bfloat16):
            got = [loaded.family.act(loaded, dict(x.observation), x.noise) for x in inputs]
        bfloat16 = measure_distance(np.stack(got), wanted, action_scale(loaded.interface))
    left = [fusion_report(graph) for graph in captured.stages.values()]
    return Row(
        family=family,
        parameters=captured.metadata.parameter_count,
        mean={kind: report.distance.mean for kind, report in reports.items()},
        worst={kind: report.distance.worst for kind, report in reports.items()},
        bfloat16_mean=bfloat16.mean,
        bfloat16_worst=bfloat16.worst,
        unfused=sum(v for report in left for k, v in report.items() if k.startswith("unfused")),
        conversion_s=conversion_s,
        peak_rss_mb=peak_rss_mb,
    )


def write(loaded: Any, captured: Any, path: Path, kind: str) -> None:
    """Writes all matrices in one type, everything else in float32."""
    from actquant.capture.policy import matrices_of_fixed_type
    from actquant.encoders.blocks import encode
    from actquant.format.encoding import matrix_shape
    from actquant.format.model_file import write_model

    encodings = {}
    if kind == "Q8_0":
        for name in matrices_of_fixed_type(loaded, ()):
            weight = captured.params[name].detach().numpy()
            matrix = weight.reshape(matrix_shape(weight.shape))
            encodings[name] = encode(name, matrix, kind).tensor
    write_model(
        path,
        stages=captured.stages,
        encodings=encodings,
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
        float_type="F32" if kind == "Q8_0" else kind,
        single_precision=captured.single_precision,
    )


def table(rows: list[Row], about: str) -> str:
    head = "| family | parameters |"
    head += "".join(f" {kind} mean | {kind} worst |" for kind in TYPES)
    head += " PyTorch bf16 mean | PyTorch bf16 worst | unfused | conversion | peak RSS |"
    lines = [
        "# Parity",
        "",
        NOTES,
        "",
        f"{about}, by `python benchmarks/parity_table.py`.",
        "",
        head,
        "|" + "---|" * (head.count("|") - 1),
    ]
    for row in rows:
        errors = "".join(f" {row.mean[k]:.1e} | {row.worst[k]:.1e} |" for k in TYPES)
        lines.append(
            f"| `{row.family}` | {row.parameters:,} |{errors} {row.bfloat16_mean:.1e} | "
            f"{row.bfloat16_worst:.1e} | {row.unfused} | {row.conversion_s:.0f} s | "
            f"{row.peak_rss_mb:,.0f} MB |"
        )
    return "\n".join([*lines, "", NOT_COMPARED]) + "\n"


def run_apart(families: list[str]) -> Iterator[Row]:
    for family in families:
        print(f"{family} …", file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoint"
            this: list[str | Path] = [sys.executable, __file__, family, "--folder", folder]
            subprocess.run([*this, "--step", "build"], stdout=sys.stderr, check=True)
            done = subprocess.run([*this, "--step", "measure"], stdout=subprocess.PIPE, check=True)
        yield Row(**json.loads(done.stdout.splitlines()[-1]))


def earlier(out: Path) -> list[Row]:
    file = out.with_suffix(".json")
    return [Row(**row) for row in json.loads(file.read_text())["rows"]] if file.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    known = supported_policies()
    parser.add_argument("families", nargs="*", choices=[*known, []], default=[])
    parser.add_argument("--step", choices=("build", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "parity.md")
    options = parser.parse_args()
    if options.step == "build":
        from tiny_families import build_tiny

        build_tiny(options.families[0], options.folder)
        return
    if options.step == "measure":
        with contextlib.redirect_stdout(sys.stderr):
            row = measure(options.families[0], options.folder)
        print(json.dumps(asdict(row)))
        return
    load = os.getloadavg()[0]
    kept = earlier(options.out) if options.families else []
    found = {row.family: row for row in kept}
    found |= {row.family: row for row in run_apart(options.families or known)}
    rows = [found[family] for family in sorted(found)]
    today = datetime.datetime.now(datetime.UTC).date()
    machine = f"{os.cpu_count()} cores (load before {load:.1f})"
    about = f"Measured {today}, {machine}, n = {INPUTS} inputs a family"
    options.out.with_suffix(".json").write_text(
        json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    )
    options.out.write_text(table(rows, about))
    print(options.out.read_text())


if __name__ == "__main__":
    main()
