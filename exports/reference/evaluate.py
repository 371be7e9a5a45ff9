"""Success of a checkpoint per task: `python exports/reference/evaluate.py --starts 1000:1200`.

Runs lerobot's own policy in float32 through its own processors, many episodes at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_policy import CAMERAS, STATE, load_policy, load_processors
from numpy.typing import NDArray
from simulation import TASK_NAMES, run_episodes

from actquant.simulation import swap_colours
from actquant.statistics import wilson95

Array = NDArray[Any]
HERE = Path(__file__).resolve().parent
GREY = 128


class Actor:
    """A checkpoint as a function from observations to action chunks."""

    def __init__(self, checkpoint: Path, seed: int, grey_wrist: bool, wrong_colour: bool) -> None:
        self.policy = load_policy(checkpoint)
        self.before, self.after = load_processors(checkpoint)
        self.generator = torch.Generator().manual_seed(seed)
        self.grey_wrist, self.wrong_colour = grey_wrist, wrong_colour

    def __call__(self, images: Array, states: Array, instructions: list[str]) -> Array:
        if self.grey_wrist:
            images = images.copy()
            images[:, 1] = GREY
        if self.wrong_colour:
            instructions = [swap_colours(text) for text in instructions]
        batch: dict[str, Any] = {
            key: torch.from_numpy(images[:, i]).permute(0, 3, 1, 2).float() / 255
            for i, key in enumerate(CAMERAS)
        }
        batch |= {STATE: torch.from_numpy(states), "task": instructions}
        config = self.policy.config
        shape = (len(states), config.chunk_size, config.max_action_dim)
        noise = torch.randn(*shape, generator=self.generator)
        return self.after(self.policy.predict_action_chunk(self.before(batch), noise=noise)).numpy()


def evaluate(
    actor: Any, tasks: list[str], starts: range, action_steps: int, width: int
) -> dict[str, Any]:
    """Success per task and over all, with 95 % Wilson intervals."""
    report: dict[str, Any] = {"tasks": {}}
    for task in tasks:
        begin, successes, failures = time.perf_counter(), 0, []
        for first in range(starts.start, starts.stop, width):
            part = range(first, min(first + width, starts.stop))
            out = run_episodes([(task, start) for start in part], actor, action_steps)
            successes += sum(out.successes)
            failures += [s for s, good in zip(out.starts, out.successes, strict=True) if not good]
        low, high = wilson95(successes, len(starts))
        report["tasks"][task] = {
            "successes": successes,
            "episodes": len(starts),
            "rate": successes / len(starts),
            "interval": [low, high],
            "failures": failures,
        }
        seconds = time.perf_counter() - begin
        line = f"{task:14s} {successes}/{len(starts)} = {successes / len(starts):.3f}"
        print(f"{line} [{low:.3f}, {high:.3f}] ({seconds:.0f} s)", file=sys.stderr, flush=True)
    total = sum(t["successes"] for t in report["tasks"].values())
    episodes = len(starts) * len(tasks)
    report["all"] = {
        "successes": total,
        "episodes": episodes,
        "rate": total / episodes,
        "interval": list(wilson95(total, episodes)),
    }
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--starts", default="1000:1200", help="first:end, end not included")
    parser.add_argument("--tasks", default="all", help=f"all, or some of: {', '.join(TASK_NAMES)}")
    parser.add_argument(
        "--grey-wrist", action="store_true", help="replace the wrist picture by grey"
    )
    parser.add_argument(
        "--wrong-colour", action="store_true", help="swap the colours in instructions"
    )
    parser.add_argument(
        "--action-steps", type=int, default=0, help="actions per plan; 0: the policy's"
    )
    parser.add_argument("--width", type=int, default=50, help="episodes at once")
    parser.add_argument("--seed", type=int, default=0, help="of the policy's noise")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the report here instead of printing it")
    args = parser.parse_args()
    args.tasks = list(TASK_NAMES) if args.tasks == "all" else args.tasks.split(",")
    try:
        first, end = (int(x) for x in args.starts.split(":"))
    except ValueError:
        parser.error(f"--starts wants first:end, such as 1000:1200; got {args.starts!r}")
    args.starts = range(first, end)
    if not args.starts:
        parser.error(f"--starts {first}:{end} holds no start")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    actor = Actor(args.checkpoint, args.seed, args.grey_wrist, args.wrong_colour)
    steps = args.action_steps or actor.policy.config.n_action_steps
    report = {
        "checkpoint": args.checkpoint.name,
        "starts": [args.starts.start, args.starts.stop],
        "seed": args.seed,
        "grey_wrist": args.grey_wrist,
        "wrong_colour": args.wrong_colour,
        "action_steps": steps,
        "flow_steps": actor.policy.config.num_steps,
    }
    report |= evaluate(actor, args.tasks, args.starts, steps, args.width)
    text = json.dumps(report, indent=2, default=np.asarray) + "\n"
    if args.json:
        args.json.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
