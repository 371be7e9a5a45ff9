"""Kills commands (SIGKILL) at random moments, lets them go on, and compares with undisturbed runs.

    python benchmarks/kill_sweep.py --kills 50 --json kills.json

Each command is run undisturbed, then killed after random parts of the time that it took, in folders
of their own, and started again; some runs are killed several times before they may end. Files must
be the same to the byte (SOURCE_DATE_EPOCH is set), results the same but for what a clock measured,
and nothing that is not whole may have a final name. Policy and data are tiny: moments are as many
as in a large run, only closer to each other. A policy of real size goes through `compress` alone:

    python benchmarks/kill_sweep.py --checkpoint C --dataset D --only compress-actquant --kills 4 \\
        --again 0.9 --json kills.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import pyarrow.parquet
import torch
from killing import Command, after, digest, leftovers
from tiny_policies import build_tiny_smolvla
from toy_policy import make_dataset

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
RECIPES = ("rtn", "imatrix", "awq", "gptq", "paper", "actquant", "q8_0", "f16")
TINY = ("--frames", 4, "--draws", 1, "--held-out", 4, "--tune-minutes", 5)
REAL = ("--frames", 4, "--draws", 1, "--held-out", 2, "--tune-minutes", 0, "--verify", "quick")
CLOCK = {"seconds", "latency_ms", "timings_s", "machine"}
REFERENCE = Path(__file__).parents[1] / "exports" / "reference"
RUN = object()  # in the place of the folder that a script works in
RECORD = (RUN, "--episodes", 2, "--tasks", "pick_cube,push_zone", "--save-every", 1)
# Steps and rollouts by observations, so that the weights do not depend on the clock; it saves
# after every step.
TRAIN = (
    "--run", RUN, "--observations", 80, "--width", 32, "--intermediate", 32, "--heads", 2,
    "--kv-heads", 1, "--layers", 2, "--vision-layers", 1, "--patch", 24, "--batch", 4,
    "--flow-samples", 2, "--demonstrations", 1, "--first-round", 0.0, "--round-observations", 16,
    "--round-episodes", 2, "--round-steps", 8, "--extra-labels", 1, "--validation-episodes", 1,
    "--compiled", "false", "--precision", "float32", "--report-minutes", 1e9,
    "--save-minutes", 1e-9,
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A command by the folder that it works in, and what it makes there; ends_once: it refuses to
    be started again when that is whole."""

    name: str
    command: Callable[[Path], Command]
    products: tuple[str, ...]
    ends_once: bool = False


@dataclass
class Outcome:
    name: str
    seconds: float
    kills: int
    runs: int
    wrong: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--only", default="", help="commands, with commas, e.g. compress-rtn,eval")
    parser.add_argument(
        "--again", type=float, default=0.3, help="how often a run that goes on is killed as well"
    )
    parser.add_argument("--checkpoint", type=Path, help="a policy of real size; with its dataset")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.checkpoint is None:
            jobs = make_jobs(Path(folder))
        else:
            jobs = {
                job.name: job
                for job in compressions(options.checkpoint, options.dataset, bpw=3, words=REAL)
            }
        chosen = options.only.split(",") if options.only else list(jobs)
        outcomes = []
        for name in chosen:
            at = Path(folder) / name
            outcome = torment(jobs[name], at, options.kills, options.again, options.seed)
            outcomes.append(outcome)
            print(json.dumps(asdict(outcome)), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    sys.exit(any(outcome.wrong for outcome in outcomes))


def make_jobs(folder: Path) -> dict[str, Job]:
    """Makes policies and data, and returns the commands by their names."""
    policy, data = folder / "policy", folder / "data"
    build_tiny_smolvla(policy, hidden=128)
    make_dataset(data)
    sizes = {"state_dim": 13, "max_state_dim": 16, "max_length": 48}
    arm = build_tiny_smolvla(folder / "arm", hidden=128, **sizes)
    model = folder / "model.gguf"
    words = ("compress", arm, "--recipe", "q8_0", "--control-rate-hz", "10", "--verify", "none")
    Command((*map(str, words), "--out", str(model)), {}, folder / "log").finish()

    def command(at: Path, *words: object) -> Command:
        return Command(tuple(map(str, words)), EPOCH, at / "log", sampled_weights=1 << 10)

    def script(name: str, at: Path, *words: object) -> Command:
        words = tuple(at / "run" if word is RUN else word for word in words)
        return Command(tuple(map(str, words)), EPOCH, at / "log", script=REFERENCE / name)

    names = ("f16.gguf", "rtn-6bpw.gguf", "q8_0.gguf")
    sweep = ("sweep", policy, "--dataset", data, "--recipes", "rtn,q8_0", "--bpw", 6)
    evaluation = ("eval", model, "--tasks", "push_zone", "--starts", "0:4", "--jobs", 1)
    jobs = [
        *compressions(policy, data, bpw=6, words=TINY, sampled_weights=1 << 10),
        Job(
            "sweep",
            lambda at: command(at, *sweep, "--held-out", 4, "--out", at / "out"),
            tuple(f"out/{name}" for name in (*names, "sweep.json")),
        ),
        Job("eval", lambda at: command(at, *evaluation, "--out", at / "out.json"), ("out.json",)),
        Job("record", lambda at: script("record_demonstrations.py", at, *RECORD), ("run",), True),
        Job("train", lambda at: script("train.py", at, *TRAIN), ("run/state.pt",)),
    ]
    return {job.name: job for job in jobs}


def compressions(
    checkpoint: Path, dataset: Path, bpw: float, words: tuple[object, ...], **command: Any
) -> Iterator[Job]:
    """Returns a job for each recipe; words: of every compression."""

    def job(recipe: str) -> Job:
        budget = ("--bpw", bpw) if recipe not in ("q8_0", "f16") else ()
        asked = ("compress", checkpoint, "--dataset", dataset, "--recipe", recipe, *budget, *words)

        def at(folder: Path) -> Command:
            places = ("--out", folder / "out.gguf", "--work", folder / "work")
            return Command(tuple(map(str, asked + places)), EPOCH, folder / "log", **command)

        return Job(f"compress-{recipe}", at, ("out.gguf",))

    return map(job, RECIPES)


def torment(job: Job, folder: Path, kills: int, again: float, seed: int) -> Outcome:
    """Kills a command `kills` times and returns what was found wrong."""
    chance = random.Random(f"{seed} {job.name}")
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir(parents=True)
    seconds = job.command(undisturbed).finish()
    expected = {name: content(undisturbed / name) for name in job.products}
    outcome = Outcome(job.name, round(seconds, 2), 0, 0, [])
    while outcome.kills < kills:
        at = folder / f"run{outcome.runs}"
        at.mkdir()
        outcome.runs += 1
        while True:
            outcome.kills += job.command(at).kill_when(after(chance.uniform(0, seconds)))
            outcome.wrong += [
                f"run {outcome.runs}: {name} is not whole after a kill"
                for name in job.products
                if (at / name).exists() and not is_whole(at / name, expected[name])
            ]
            done = job.ends_once and all(is_done(at / n, expected[n]) for n in job.products)
            if done or chance.random() > again or outcome.kills >= kills:
                break
        if not done:
            job.command(at).finish()
        outcome.wrong += [
            f"run {outcome.runs}: {name} differs"
            for name in job.products
            if content(at / name) != expected[name]
        ]
        outcome.wrong += [f"run {outcome.runs}: {name} is left" for name in leftovers(at)]
        shutil.rmtree(at)
    return outcome


def content(path: Path) -> Any:
    """Returns what must be the same: of JSON, what no clock measured and no folder named; of a
    training's state, all but minutes."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): content(file) for file in files}
    if path.suffix == ".parquet":  # its metadata have a random fingerprint
        rows = pyarrow.parquet.read_table(path).to_pylist()
        return hashlib.sha256(repr(rows).encode()).hexdigest()
    if path.suffix == ".pt":
        return trained(torch.load(path, weights_only=True))
    if path.suffix != ".json":
        return digest(path)
    return without_clock(json.loads(path.read_text()))


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in (*CLOCK, "page")}
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def is_done(path: Path, expected: Any) -> bool:
    """Returns whether a product is there and as it will be."""
    try:
        return path.exists() and content(path) == expected
    except (OSError, ValueError):  # a file in a folder is half-written
        return False


def trained(state: dict[str, Any]) -> Any:
    """Returns the weights of a training by digest, and how far it is."""
    tensors = {
        name: hashlib.sha256(tensor.view(torch.uint8).numpy()).hexdigest()
        for name, tensor in state["tensors"].items()
    }
    return tensors | {key: state[key] for key in ("step", "rounds", "observations", "failure")}


def is_whole(path: Path, expected: Any) -> bool:
    """Returns whether a product is as it will be; what grows must be readable."""
    if path.suffix == ".pt":
        return content(path)["step"] <= expected["step"]
    if path.is_dir():
        return True  # a dataset is not, before its end
    if path.name == "sweep.json":
        return isinstance(json.loads(path.read_text()), dict)
    return content(path) == expected


if __name__ == "__main__":
    main()
