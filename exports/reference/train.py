"""Train the reference policy: `python exports/reference/train.py --run RUN --minutes 105`.

Records demonstrations, trains on them and on the learner's own episodes as labelled by the
expert, and goes on where it stopped when it is started again with the same run folder.
`--finalize` writes the run's last saved weights as a checkpoint, also while training goes on.
With `--pretrained true` the language model is SmolLM2-135M, frozen; `--assemble` puts a policy
together from what was trained and the package that holds the rest.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import curves
import numpy as np
import torch
from auxiliary import make_heads
from build_policy import (
    ACTION,
    STATE,
    VLM_FOLDER,
    PolicySize,
    assert_prompts_fit,
    build_policy,
    is_frozen,
    load_policy,
    save_checkpoint,
    write_json,
    write_vlm_folder,
)
from learner import Learner, Normalizer, Recipe, measure_stats, settings_json
from numpy.typing import NDArray
from objective import Weights
from optimizer import Shared, Slot, allocate, lay_out, views
from safetensors.torch import load_file, save_file
from shards import read_shard
from simulation import TASK_NAMES, all_instructions
from torch.multiprocessing.spawn import start_processes

from actquant.common.errors import BusyError, OutputError
from actquant.common.files import atomic_path
from actquant.common.locks import sole_user

Array = NDArray[Any]
TRAINED = "trained.safetensors"
"""All of a policy but what is pretrained."""
WAIT = 1800.0  # s that one process waits for the other before giving up


class Budget:
    """How far training is, from 0 to 1: by observations, or else by minutes of training."""

    def __init__(self, minutes: float | None, observations: int | None) -> None:
        if not minutes and not observations:
            raise ValueError("give --minutes or --observations")
        self.minutes, self.observations = minutes, observations

    def progress(self, minutes: float, observations: int) -> float:
        parts = []
        if self.minutes:
            parts.append(minutes / self.minutes)
        if self.observations:
            parts.append(observations / self.observations)
        return min(1.0, max(parts))


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Returns the rate: a cosine over progress, after a linear warm-up over steps."""
    low = recipe.final_rate
    cosine = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.rate * cosine * min(1.0, step / max(1, recipe.warmup))


class Trainer:
    """The loop that both processes run in step; the first one decides, saves and reports."""

    def __init__(self, learner: Learner, budget: Budget, barrier: Any, results: Any) -> None:
        self.learner, self.budget, self.barrier = learner, budget, barrier
        self.results = results  # shared float64 [processes, tasks, 2]
        self.recipe, self.rank = learner.recipe, learner.rank
        self.step = self.rounds = 0
        self.minutes = 0.0
        self.failure = np.ones(len(TASK_NAMES))  # running failure rate of each task
        self.marks = {"round": 0.0, "report": 0.0, "save": 0.0}
        self.window: list[dict[str, float]] = []
        self.clock = time.monotonic()
        self.log_clock, self.log_seen = self.clock, 0

    @property
    def observations(self) -> int:
        return self.step * self.recipe.batch * self.recipe.processes

    def weights(self) -> Array:
        """Returns the part of each task in batches and rollouts: hard tasks come more often."""
        raw = 0.35 + self.failure
        return raw / raw.sum()

    def run(self) -> None:
        """Trains until the budget is used up."""
        control = self.learner.shared.control
        self.clock = self.log_clock = time.monotonic()
        self.log_seen = self.observations
        while True:
            self._tick()
            if self.rank == 0:
                control[0] = self.minutes
            self.barrier.wait(WAIT)
            self.minutes = float(control[0])
            progress = self.budget.progress(self.minutes, self.observations)
            self._events(progress)
            if progress >= 1:
                break
            self.step += 1
            rate = learning_rate(self.recipe, self.step, progress)
            self.window.append(self.learner.step(self.step, rate, self.weights()))
            if self.step % 100 == 0:
                self._log(rate)

    def _tick(self) -> None:
        now = time.monotonic()
        self.minutes += (now - self.clock) / 60
        self.clock = now

    def _events(self, progress: float) -> None:
        """Runs the rollouts, reports and saves that are due."""
        recipe, over = self.recipe, progress >= 1
        due = self.marks["round"] + recipe.round_observations
        if recipe.first_round <= progress < 0.99 and self.observations >= due:
            self.marks["round"] = self.observations
            counts = self._gather(self.learner.round(self.rounds, self.weights()))
            self.rounds += 1
            rate = 1 - counts[:, 0] / np.maximum(1, counts[:, 1])
            seen = np.minimum(1.0, counts[:, 1] / 24)
            self.failure += 0.5 * seen * (rate - self.failure)
            self._report("rollouts", counts)
        if over or self.minutes >= self.marks["report"] + recipe.report_minutes:
            self.marks["report"] = self.minutes
            self._report("validation", self._gather(self.learner.validate()))
        if over or self.minutes >= self.marks["save"] + recipe.save_minutes:
            self.marks["save"] = self.minutes
            self.save()

    def _gather(self, counts: Array) -> Array:
        self.results[self.rank] = torch.from_numpy(counts)
        self.barrier.wait(WAIT)
        total = self.results.sum(0).numpy().copy()
        self.barrier.wait(WAIT)
        return total

    def _report(self, kind: str, counts: Array) -> None:
        self._tick()
        if self.rank:
            return
        rates = counts[:, 0] / np.maximum(1, counts[:, 1])
        row = {n: round(r, 4) for n, r, c in zip(TASK_NAMES, rates, counts[:, 1], strict=True) if c}
        row |= {"observations": self.observations, "minutes": round(self.minutes, 2), "kind": kind}
        row["all"] = round(counts[:, 0].sum() / counts[:, 1].sum(), 4)
        curves.append(self.learner.run / "successes.csv", curves.SUCCESSES, row)
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    def _log(self, rate: float) -> None:
        now = time.monotonic()
        speed = (self.observations - self.log_seen) / (now - self.log_clock)
        self.log_clock, self.log_seen = now, self.observations
        if self.rank == 0:
            row: dict[str, Any] = {
                "observations": self.observations,
                "minutes": round(self.minutes, 2),
            }
            row |= {"rate": f"{rate:.3g}", "per_second": round(speed, 1)}
            row |= {
                k: round(float(np.mean([w[k] for w in self.window])), 5) for k in self.window[0]
            }
            curves.append(self.learner.run / "losses.csv", curves.LOSSES, row)
            own = len(self.learner.rollouts)
            print(" ".join(f"{k} {v}" for k, v in row.items()), "own frames", own, flush=True)
        self.window = []

    def save(self) -> None:
        """Writes everything that the rest of the training depends on, whole or not at all."""
        self.barrier.wait(WAIT)
        if self.rank == 0:
            state = {
                "step": self.step, "rounds": self.rounds, "minutes": self.minutes,
                "observations": self.observations,
                "failure": self.failure.tolist(), "marks": self.marks,
                "tensors": self.learner.shared.state(),
            }  # fmt: skip
            with atomic_path(self.learner.run / "state.pt") as temporary:
                torch.save(state, temporary)
        self.barrier.wait(WAIT)

    def load(self) -> None:
        """Goes on from the last save, if there is one."""
        path = self.learner.run / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.step, self.rounds, self.minutes = (state[k] for k in ("step", "rounds", "minutes"))
            self.failure, self.marks = np.array(state["failure"]), state["marks"]
            self.learner.open_rollouts(self.rounds)
            if self.rank == 0:
                self.learner.shared.load(state["tensors"])
                for name in ("losses.csv", "successes.csv"):
                    curves.truncate(self.learner.run / name, self.observations)
        self.barrier.wait(WAIT)


def die_with_parent() -> None:
    """Ends this process with its parent: killing the command stops all of it.

    Also where the parent was killed while this process began: it would train on beside the run that
    takes its place.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent.pid:
            os._exit(1)


def worker(
    rank: int, run: Path, size: PolicySize, recipe: Recipe, budget: Budget,
    shared: Shared, slots: dict[str, Slot], frozen: Weights, results: Any, barrier: Any,
) -> None:  # fmt: skip
    """Runs one of the processes."""
    die_with_parent()
    torch.set_num_threads(1)
    learner = Learner(run, size, recipe, rank, shared, slots, frozen, barrier)
    learner.record()
    barrier.wait(WAIT)
    stats = run / "stats.json"
    if rank == 0 and not stats.exists():
        folders = sorted((run / "frames").glob("demonstrations-*[0-9]"))
        write_json(stats, measure_stats([read_shard(f) for f in folders]))
    barrier.wait(WAIT)
    learner.normalizer = Normalizer(json.loads(stats.read_text(encoding="utf-8")))
    trainer = Trainer(learner, budget, barrier, results)
    trainer.load()
    learner.warm_up(in_turns=trainer.step == 0)
    trainer.run()


def initial_weights(run: Path, size: PolicySize, seed: int) -> tuple[Any, Weights, Weights]:
    """Returns a fresh policy, its weights with those of the auxiliary heads, and those of it that
    are not trained."""
    policy = build_policy(run, size, seed)
    every = policy.state_dict()
    frozen = {name: value for name, value in every.items() if is_frozen(name, size)}
    trained = {name: value for name, value in every.items() if name not in frozen}
    return policy, trained | make_heads(size, seed), frozen


def train(
    run: Path, size: PolicySize, recipe: Recipe, budget: Budget, init: Path | None = None
) -> None:
    """Trains in `recipe.processes` processes; resumes what the run folder holds.

    init: a finished checkpoint of this size whose weights a new run starts from.
    """
    run.mkdir(parents=True, exist_ok=True)
    settings = run / "settings.json"
    if not settings.exists():
        write_vlm_folder(run / VLM_FOLDER, all_instructions(), size)
        assert_prompts_fit(run / VLM_FOLDER, all_instructions(), size.prompt_length)
        write_json(settings, settings_json(size, recipe))
    _, tensors, frozen = initial_weights(run, size, recipe.seed)
    if init is not None:
        others = load_policy(init).state_dict().items()
        tensors |= {name: value for name, value in others if name not in frozen}
    slots = lay_out(tensors, recipe.processes, recipe.muon)
    dtype = getattr(torch, recipe.precision)
    shared = allocate(tensors, slots, recipe.processes, dtype)
    frozen = {name: value.detach().to(dtype).share_memory_() for name, value in frozen.items()}
    results = torch.zeros(recipe.processes, len(TASK_NAMES), 2, dtype=torch.int64).share_memory_()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(recipe.processes, timeout=WAIT)
    start_processes(
        worker,
        (run, size, recipe, budget, shared, slots, frozen, results, barrier),
        recipe.processes,
        start_method="spawn",
    )
    if (run / "losses.csv").exists():  # not before the first hundred steps
        curves.draw(run, run / "curves.png")


def read_settings(run: Path) -> tuple[PolicySize, Recipe]:
    values = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    return PolicySize(**values["size"]), Recipe(**values["recipe"])


def finalize(run: Path, out: Path, averaged: bool = True) -> int:
    """Writes the run's saved (averaged) weights as a checkpoint; returns its observations.

    Of a policy with a pretrained part, `trained.safetensors` beside the checkpoint holds the rest.
    """
    size, recipe = read_settings(run)
    policy, tensors, frozen = initial_weights(run, size, recipe.seed)
    state = torch.load(run / "state.pt", weights_only=True)
    slots = lay_out(tensors, recipe.processes, recipe.muon)
    values = views(state["tensors"]["average" if averaged else "weights"], slots)
    trained = {n: v for n, v in values.items() if not n.startswith("aux.")}
    policy.load_state_dict(trained, strict=not frozen)
    save_checkpoint(policy, read_stats(run), run / VLM_FOLDER, out)
    if frozen:
        half = {name: value.half().contiguous() for name, value in trained.items()}
        save_file(half, out.parent / TRAINED)
        for name in ("settings.json", "stats.json"):
            shutil.copy(run / name, out.parent / name)
    losses = run / "losses.csv"
    if losses.exists():
        shutil.copy(losses, out.parent / "losses.csv")
        shutil.copy(run / "successes.csv", out.parent / "successes.csv")
        curves.draw(run, out.parent / "curves.png")
    return state["step"] * recipe.batch * recipe.processes


def read_stats(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Returns mean and deviation of states and actions."""
    numbers = json.loads((run / "stats.json").read_text(encoding="utf-8"))
    parts = {STATE: "state", ACTION: "action"}
    return {
        key: {k: torch.tensor(numbers[f"{name}_{k}"]) for k in ("mean", "std")}
        for key, name in parts.items()
    }


def assemble(source: Path, out: Path) -> None:
    """Writes the checkpoint of a policy with a pretrained part, from what `finalize` wrote beside
    it and the package that holds that part."""
    size, recipe = read_settings(source)
    with tempfile.TemporaryDirectory() as name:
        vlm = Path(name) / VLM_FOLDER
        write_vlm_folder(vlm, all_instructions(), size)
        policy = build_policy(Path(name), size, recipe.seed)
        policy.load_state_dict(load_file(source / TRAINED), strict=False)
        save_checkpoint(policy, read_stats(source), vlm, out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).resolve().parent
    parser.add_argument("--run", type=Path, help="folder of the training run")
    parser.add_argument("--init", type=Path, help="checkpoint that a new run starts from")
    parser.add_argument(
        "--minutes", type=float, help="length of training; the rate anneals by then"
    )
    parser.add_argument("--observations", type=int, help="the same, in training observations")
    parser.add_argument(
        "--finalize", action="store_true", help="write the saved weights, no training"
    )
    parser.add_argument(
        "--raw", action="store_true", help="with --finalize: not the moving average"
    )
    parser.add_argument(
        "--assemble",
        type=Path,
        metavar="FOLDER",
        help=f"write the checkpoint of {TRAINED} in a folder, no training",
    )
    parser.add_argument("--out", type=Path, default=here / "checkpoint", help="of --finalize")
    for kind, group in ((PolicySize, "policy"), (Recipe, "recipe")):
        section = parser.add_argument_group(group)
        for f in fields(kind):
            caster = type(f.default)
            if caster is bool:
                caster = lambda text: text.lower() in ("1", "true", "yes")  # noqa: E731
            flag = "--" + f.name.replace("_", "-")
            section.add_argument(flag, type=caster, default=f.default)
    args = parser.parse_args()
    if args.run is None and args.assemble is None:
        parser.error("--run or --assemble is needed")
    return args


def main() -> None:
    args = parse()
    if args.assemble:
        assemble(args.assemble, args.out)
        print(f"wrote {args.out}")
        return
    if args.finalize:
        seen = finalize(args.run, args.out, averaged=not args.raw)
        print(f"wrote {args.out} after {seen} observations")
        return
    size, recipe = (
        kind(**{f.name: getattr(args, f.name) for f in fields(kind)})
        for kind in (PolicySize, Recipe)
    )
    if (args.run / "settings.json").exists():
        size, recipe = read_settings(args.run)  # type: ignore[assignment]
    budget = Budget(args.minutes, args.observations)
    try:
        with sole_user(args.run):
            train(args.run, size, recipe, budget, args.init)  # type: ignore[arg-type]
    except (BusyError, OutputError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
