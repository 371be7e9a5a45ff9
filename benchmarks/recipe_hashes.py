"""Do two versions of actquant make the same files? A hash of every file, whatever the date in it.

    SOURCE_DATE_EPOCH=0 python benchmarks/recipe_hashes.py INPUTS --out a.json
    SOURCE_DATE_EPOCH=0 python benchmarks/recipe_hashes.py INPUTS --out b.json --same-as a.json

Every family's tiny checkpoint and the reference policy are compressed by every recipe, with and
without a dataset. INPUTS holds checkpoints, datasets and budgets; what is missing there is made, so
both versions must be given the same folder. The exit code is 1 where a hash differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "tests/compression", "benchmarks")]

UNBUDGETED = ("f32", "f16", "bf16", "q8_0")
DATE = re.compile(rb'"date": "[^"]*"')
ABOVE_MINIMUM_BPW = 0.5
REFERENCE_BUDGETS_BPW = (2.5, 3.0)


@dataclass(frozen=True)
class Policy:
    """A checkpoint with a dataset of its robot; budgets_bpw: what `rtn` and `paper` are given."""

    name: str
    checkpoint: Path
    dataset: Path
    budgets_bpw: tuple[float, ...]


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a GGUF with the date of its provenance blanked."""
    return hashlib.sha256(DATE.sub(b'"date": ""', path.read_bytes())).hexdigest()


def compress(policy: Policy, arguments: list[str]) -> tuple[int, str]:
    """Runs `actquant compress` in this process: exit code and what it printed."""
    from tiny_families import SMALL_BACKBONES, loading
    from typer.testing import CliRunner

    from actquant.cli import app

    small = loading(policy.name) if policy.name in SMALL_BACKBONES else contextlib.nullcontext()
    with small:
        result = CliRunner().invoke(app, ["compress", str(policy.checkpoint), *arguments])
    return result.exit_code, result.output


def make_policy(name: str, folder: Path) -> Policy:
    """Makes a family's checkpoint and dataset, and finds budgets that it can meet."""
    checkpoint, dataset, noted = folder / "checkpoint", folder / "dataset", folder / "budget.json"
    if not noted.exists():
        from random_dataset import make_dataset
        from tiny_families import build_tiny, loading

        from actquant.policies import load_policy

        build_tiny(name, checkpoint)
        with loading(name):
            face = load_policy(checkpoint, control_rate_hz=10).interface
        make_dataset(dataset, face)
        budgets = {}
        for recipe in ("rtn", "paper"):
            probe = Policy(name, checkpoint, dataset, ())
            out = ["--out", str(folder / "probe.gguf"), "--bpw", "0.1", "--recipe", recipe]
            _, said = compress(probe, [*out, "--dataset", str(dataset)])
            minimum = re.search(r"feasible minimum is\s+([\d.]+)", said)
            if minimum is None:
                raise SystemExit(f"{name}: no feasible minimum in: {said}")
            budgets[recipe] = float(minimum[1])
        noted.write_text(json.dumps(max(budgets.values()) + ABOVE_MINIMUM_BPW))
    return Policy(name, checkpoint, dataset, (json.loads(noted.read_text()),))


def policies(inputs: Path, names: list[str]) -> Iterator[Policy]:
    from tiny_families import BUILDERS

    for name in names or (*BUILDERS, "reference"):
        if name == "reference":
            folder = ROOT / "exports" / "reference"
            yield Policy(name, folder / "checkpoint", folder / "calibration", REFERENCE_BUDGETS_BPW)
        else:
            yield make_policy(name, inputs / name)


def runs(policy: Policy) -> Iterator[tuple[str, list[str]]]:
    """Returns name and arguments of every compression of a policy."""
    with_data = ["--dataset", str(policy.dataset)]
    without = ["--control-rate-hz", "10", "--verify", "quick"]
    for recipe in UNBUDGETED:
        yield f"{recipe}, no dataset", ["--recipe", recipe, *without]
        yield f"{recipe}, dataset", ["--recipe", recipe, *with_data]
    for bpw in policy.budgets_bpw:
        budget = ["--bpw", str(bpw)]
        yield f"rtn {bpw:g}, no dataset", ["--recipe", "rtn", *budget, *without]
        yield f"rtn {bpw:g}, dataset", ["--recipe", "rtn", *budget, *with_data]
        yield f"paper {bpw:g}, dataset", ["--recipe", "paper", *budget, *with_data]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", type=Path, help="folder of checkpoints, datasets and budgets")
    parser.add_argument("--out", type=Path, required=True, help="where the hashes go, as JSON")
    parser.add_argument("--same-as", type=Path, help="hashes of another version")
    parser.add_argument("--policies", default="", help="comma-separated; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order would round differently
    expected = json.loads(arguments.same_as.read_text()) if arguments.same_as else {}
    found: dict[str, str] = {}
    different = 0
    for policy in policies(arguments.inputs, [n for n in arguments.policies.split(",") if n]):
        for name, options in runs(policy):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "model.gguf"
                code, said = compress(policy, [*options, "--out", str(out)])
                key = f"{policy.name}: {name}"
                found[key] = file_hash(out) if code == 0 else f"exit {code}: {said.strip()[-300:]}"
            wanted = expected.get(key)
            verdict = "" if wanted is None else "same" if wanted == found[key] else "DIFFERENT"
            different += verdict == "DIFFERENT"
            print(f"{key:45} {found[key][:64]} {verdict}", flush=True)
            arguments.out.write_text(json.dumps(found, indent=1))
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
