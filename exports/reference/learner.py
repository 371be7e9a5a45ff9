"""One training process: its data, its gradients and its part of the rollouts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auxiliary import position_loss
from build_policy import VLM_FOLDER, PolicySize, tokenize
from numpy.typing import NDArray
from objective import Objective, Weights, sample_times
from optimizer import Optimizer, OptimizerSettings, Shared, Slot, views
from shards import Mixture, Source, write_shard
from simulation import (
    ROLLOUT_START,
    TASK_NAMES,
    TRAINING_START,
    VALIDATION_START,
    Labels,
    UR3eEnv,
    all_instructions,
    demonstrate,
    run_episodes,
)
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Recipe:
    """What decides the outcome of a training, apart from the policy's size."""

    seed: int = 0
    processes: int = 2
    batch: int = 32  # observations per process and step
    flow_samples: int = 3  # per observation
    rate: float = 1e-3
    final_rate: float = 0.01  # of `rate`
    warmup: int = 150  # steps
    auxiliary: float = 0.5  # weight of the position losses
    average_decay: float = 0.998
    muon: bool = True
    newton_schulz: int = 4
    demonstrations: int = 200  # episodes per task and process
    rollout_share: float = 0.6  # largest part of a batch that comes from rollouts
    first_round: float = 0.08  # progress at which the learner's own episodes begin
    round_observations: int = 10_000  # training observations between rounds
    round_episodes: int = 24  # per process
    round_steps: int = 44  # control steps until such an episode is given up
    extra_labels: int = 2  # expert states labelled besides each state of the learner
    validation_episodes: int = 12  # per task and process
    report_minutes: float = 10.0
    save_minutes: float = 4.0
    compiled: bool = True
    precision: str = "bfloat16"

    @property
    def settings(self) -> OptimizerSettings:
        return OptimizerSettings(newton_schulz=self.newton_schulz)


class Normalizer:
    """lerobot's MEAN_STD normalisation, with a floor under the deviations."""

    def __init__(self, stats: dict[str, list[float]]) -> None:
        self.state = tuple(torch.tensor(stats[k]) for k in ("state_mean", "state_std"))
        self.action = tuple(torch.tensor(stats[k]) for k in ("action_mean", "action_std"))


def measure_stats(shards: list[dict[str, Array]]) -> dict[str, list[float]]:
    """Returns mean and deviation of states and of first actions."""
    out = {}
    for name, key, floor in (("state", "state", 0.01), ("action", "actions", 0.05)):
        values = np.concatenate([s[key] if key == "state" else s[key][:, 0] for s in shards])
        out[f"{name}_mean"] = values.mean(0, dtype=np.float64).tolist()
        out[f"{name}_std"] = np.maximum(values.std(0, dtype=np.float64), floor).tolist()
    return out


class Prompts:
    """Token ids of every instruction, cut to the longest of them (padding is never attended to)."""

    def __init__(self, run: Path, size: PolicySize) -> None:
        self.texts = all_instructions()
        self.index = {text: i for i, text in enumerate(self.texts)}
        tokens, mask = tokenize(run / VLM_FOLDER, self.texts, size.prompt_length)
        longest = int(mask.sum(1).max())
        self.tokens, self.mask = tokens[:, :longest].contiguous(), mask[:, :longest].contiguous()


def loss_of(
    objective: Objective, weights: Weights, batch: dict[str, Tensor], auxiliary: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns total, flow-matching and position loss of a prepared batch."""
    names = ("images", "state", "tokens", "mask")
    prefix = objective.prefix(weights, *(batch[n] for n in names))
    flow = objective.flow_loss(weights, prefix, batch["actions"], batch["noise"], batch["time"])
    places = position_loss(weights, objective.size, prefix, batch)
    return flow + auxiliary * places, flow.detach(), places.detach()


class Learner:
    """The state of one process."""

    def __init__(
        self, run: Path, size: PolicySize, recipe: Recipe, rank: int, shared: Shared,
        slots: dict[str, Slot], frozen: Weights, barrier: Any,
    ) -> None:  # fmt: skip
        self.run, self.size, self.recipe, self.rank = run, size, recipe, rank
        self.shared, self.slots, self.frozen = shared, slots, frozen
        self.objective = Objective(size)
        self.prompts = Prompts(run, size)
        self.optimizer = Optimizer(shared, slots, rank, barrier, recipe.settings)
        self.leaves = self.optimizer.leaves(slots) | frozen
        self.loss = torch.compile(loss_of, dynamic=False) if recipe.compiled else loss_of
        self.demonstrations, self.rollouts = Source(len(TASK_NAMES)), Source(len(TASK_NAMES))
        self.mixture = Mixture(self.demonstrations, self.rollouts, recipe.rollout_share)
        self.normalizer: Normalizer | None = None

    def shard_folder(self, kind: str, number: int, rank: int | None = None) -> Path:
        rank = self.rank if rank is None else rank
        return self.run / "frames" / f"{kind}-{rank}-{number:04d}"

    def record(self, per_shard: int = 25) -> None:
        """Makes the demonstrations that are not there yet, and opens all of them."""
        recipe, number = self.recipe, 0
        for task in TASK_NAMES:
            env = UR3eEnv(task)
            for first in range(0, recipe.demonstrations, per_shard):
                folder = self.shard_folder("demonstrations", number)
                number += 1
                if not folder.exists():
                    frames = []
                    for i in range(first, min(first + per_shard, recipe.demonstrations)):
                        start = TRAINING_START + recipe.processes * i + self.rank
                        episode = demonstrate(env, start, self.prompts.index, self.size.chunk)
                        frames += episode.chunks(self.size.chunk) if episode else []
                    write_shard(folder, frames)
                self.demonstrations.add(folder)

    def open_rollouts(self, rounds: int) -> None:
        for number in range(rounds):
            self.rollouts.add(self.shard_folder("rollouts", number))

    def prepare(self, frames: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Normalises a batch, looks its prompts up and draws its noise."""
        assert self.normalizer is not None
        prompts, count = frames.pop("prompt"), len(frames["state"])
        frames.pop("task")
        shape = (count, self.recipe.flow_samples)
        for name, key in (("state", "state"), ("action", "actions")):
            mean, std = getattr(self.normalizer, name)
            frames[key] = (frames[key] - mean) / (std + 1e-8)
        noise = torch.randn(*shape, *frames["actions"].shape[1:], generator=generator)
        return frames | {
            "tokens": self.prompts.tokens[prompts],
            "mask": self.prompts.mask[prompts],
            "noise": noise,
            "time": sample_times(shape, generator),
        }

    def step(self, number: int, rate: float, task_weights: Array) -> dict[str, float]:
        """Runs one update (from 1); what it draws follows from seed, number and rank alone."""
        key = [self.recipe.seed, self.rank, number]
        rng = np.random.default_rng(key)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        frames = self.mixture.draw(self.recipe.batch, task_weights, rng)
        batch = self.prepare(frames, generator)
        total, flow, places = self.loss(self.objective, self.leaves, batch, self.recipe.auxiliary)
        total.backward()
        decay = min(self.recipe.average_decay, 1 - 1 / (1 + number / 10))
        norm = self.optimizer.step(number, rate, decay)
        return {"flow": float(flow), "places": float(places), "norm": norm}

    def warm_up(self, in_turns: bool) -> None:
        """Compiles; in turns, so that later processes find in the cache what the first compiled."""
        for turn in range(self.recipe.processes if self.recipe.compiled else 0):
            if turn == (self.rank if in_turns else 0):
                weights = np.full(len(TASK_NAMES), 1 / len(TASK_NAMES))
                frames = self.mixture.draw(self.recipe.batch, weights, np.random.default_rng(0))
                batch = self.prepare(frames, torch.Generator().manual_seed(0))
                self.loss(self.objective, self.leaves, batch, self.recipe.auxiliary)[0].backward()
                self.shared.gradients[self.rank].zero_()
            self.optimizer.barrier.wait()

    def actor(self, seed: int) -> Any:
        """Returns a function from observations to action chunks, with the averaged weights."""
        average = self.shared.average.to(self.shared.working.dtype)
        weights = views(average, self.slots) | self.frozen
        generator = torch.Generator().manual_seed(seed)
        assert self.normalizer is not None
        (state_mean, state_std), (mean, std) = self.normalizer.state, self.normalizer.action

        @torch.no_grad()
        def act(images: Array, states: Array, instructions: list[str]) -> Array:
            rows = torch.tensor([self.prompts.index[text] for text in instructions])
            state = (torch.from_numpy(states) - state_mean) / (state_std + 1e-8)
            prefix = self.objective.prefix(
                weights,
                torch.from_numpy(images),
                state,
                self.prompts.tokens[rows],
                self.prompts.mask[rows],
            )
            noise = torch.randn(len(states), self.size.chunk, len(mean), generator=generator)
            return (self.objective.sample_actions(weights, prefix, noise) * std + mean).numpy()

        return act

    def round(self, number: int, task_weights: Array) -> Array:
        """Rolls out, labels and keeps own episodes; returns [tasks, 2] successes and episodes."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.rank, number, 1])
        count = recipe.round_episodes
        tasks = rng.permutation(_spread(task_weights, count, rng))
        first = ROLLOUT_START + (number * recipe.processes + self.rank) * count
        episodes = [(TASK_NAMES[task], first + i) for i, task in enumerate(tasks)]
        labels = Labels(self.prompts.index, self.size.chunk, recipe.extra_labels)
        out = run_episodes(
            episodes, self.actor(number), self.size.action_steps, recipe.round_steps, labels
        )
        folder = self.shard_folder("rollouts", number)
        write_shard(folder, out.frames)
        self.rollouts.add(folder)
        return _count(out.tasks, out.successes)

    def validate(self) -> Array:
        """Success on validation starts: [tasks, 2] successes and episodes."""
        first = VALIDATION_START + self.rank * self.recipe.validation_episodes
        starts = range(first, first + self.recipe.validation_episodes)
        episodes = [(task, start) for task in TASK_NAMES for start in starts]
        out = run_episodes(episodes, self.actor(0), self.size.action_steps)
        return _count(out.tasks, out.successes)


def _spread(weights: Array, count: int, rng: np.random.Generator) -> Array:
    """Returns `count` task numbers, as close to the weights as whole numbers allow."""
    exact = weights * count
    whole = np.floor(exact).astype(int)
    rest = count - int(whole.sum())
    extra = rng.choice(len(weights), rest, p=weights)
    return np.concatenate([np.repeat(np.arange(len(weights)), whole), extra])


def _count(tasks: list[str], successes: list[bool]) -> Array:
    out = np.zeros((len(TASK_NAMES), 2), np.int64)
    for task, success in zip(tasks, successes, strict=True):
        out[TASK_NAMES.index(task)] += [int(success), 1]
    return out


def settings_json(size: PolicySize, recipe: Recipe) -> dict[str, Any]:
    return {"size": asdict(size), "recipe": asdict(recipe)}
