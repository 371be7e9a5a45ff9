"""Closed-loop evaluation on numbered starts: success, intervals, latency; resumable."""

import hashlib
import json
import multiprocessing
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from actquant import __version__
from actquant.common.clock import iso_date
from actquant.common.errors import EvaluationError
from actquant.common.files import write_text
from actquant.common.machine import usable_cores
from actquant.common.renames import Renames
from actquant.common.statistics import wilson95
from actquant.control.policy import Policy, model_sha256, open_policy
from actquant.environments.base import Suite, open_suite, require_task
from actquant.evaluation.rollout import Ablation, Episode, run_episode

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rate(_Record):
    """Successes of n episodes."""

    n: int
    successes: int
    success_rate: float
    wilson95: tuple[float, float]
    mean_steps: float
    mean_steps_of_successes: float | None


class EpisodeRecord(_Record):
    task: str
    start: int
    success: bool
    steps: int


class Latency(_Record):
    """Observation in, action chunk out; measured beside the simulation, in ms."""

    p50: float
    p95: float
    p99: float
    max: float
    n: int


class Provenance(_Record):
    schema_version: int = SCHEMA_VERSION
    actquant_version: str
    model: str
    model_sha256: str
    env: str
    starts: str
    seed: int
    steps_per_chunk: int
    grey_camera: str | None
    renames: dict[str, str] = Field(default_factory=dict)
    wrong_instruction: bool = Field(
        validation_alias=AliasChoices("wrong_instruction", "wrong_colour")
    )
    jobs: int
    threads_per_job: int
    machine: str
    date: str


class EvaluationResult(_Record):
    tasks: dict[str, Rate]
    overall: Rate
    latency_ms: Latency | None
    episodes: list[EpisodeRecord]
    provenance: Provenance

    @classmethod
    def load(cls, path: Path) -> "EvaluationResult":
        """Raises EvaluationError if the file is missing or is no evaluation result."""
        try:
            return cls.model_validate_json(Path(path).read_text())
        except FileNotFoundError as error:
            raise EvaluationError(f"there is no evaluation result at {path}") from error
        except ValueError as error:
            raise EvaluationError(f"{path} is no evaluation result: {error}") from error


def parse_starts(text: str) -> list[int]:
    """Parses starts: `0:50` is 0 … 49, `7` is one, `0:10,1000:1010` joins ranges."""
    starts: list[int] = []
    try:
        for part in text.split(","):
            low, _, high = part.partition(":")
            starts += list(range(int(low), int(high))) if high else [int(low)]
    except ValueError as error:
        raise EvaluationError(
            f"--starts '{text}' is no range; write 0:50 (for 0 to 49), 7, or 0:10,20:30"
        ) from error
    if not starts or min(starts) < 0:
        raise EvaluationError(f"--starts '{text}' names no start; starts count from 0")
    return list(dict.fromkeys(starts))


def rate(episodes: Sequence[EpisodeRecord]) -> Rate:
    """Success rate of at least one episode."""
    successes = [episode for episode in episodes if episode.success]
    return Rate(
        n=len(episodes),
        successes=len(successes),
        success_rate=len(successes) / len(episodes),
        wilson95=wilson95(len(successes), len(episodes)),
        mean_steps=float(np.mean([episode.steps for episode in episodes])),
        mean_steps_of_successes=(
            float(np.mean([episode.steps for episode in successes])) if successes else None
        ),
    )


def evaluate(
    model: Path,
    *,
    env: str,
    tasks: Sequence[str] = (),
    starts: str = "0:50",
    out: Path | None = None,
    seed: int = 0,
    steps_per_chunk: int | None = None,
    ablation: Ablation | None = None,
    renames: Renames | None = None,
    jobs: int = 0,
    on_episode: Callable[[Episode, int, int], None] | None = None,
) -> EvaluationResult:
    """Runs every task from every start and writes `out` (whole, at the end).

    Episodes are kept beside `out` in a `.partial.jsonl` as they finish: the same call again goes on
    where it was stopped. renames: names in the environment -> the policy's. `on_episode` gets each
    episode with the counts done and to do.
    Raises EvaluationError for an unknown environment, task or range, and, before the first action,
    where the environment has not what the policy is to be shown.
    """
    ablation = ablation or Ablation()
    suite = open_suite(env)
    names = list(dict.fromkeys(tasks)) or list(suite.tasks)
    for name in names:
        require_task(env, suite.tasks, name)
    cores = usable_cores()
    jobs = jobs or cores
    threads = max(1, cores // jobs)
    provenance = Provenance(
        actquant_version=__version__,
        model=str(model),
        model_sha256=model_sha256(model),
        env=env,
        starts=starts,
        seed=seed,
        steps_per_chunk=steps_per_chunk or open_policy(model, threads=1).describe().steps_per_chunk,
        grey_camera=ablation.grey_camera,
        renames=dict(renames or {}),
        wrong_instruction=ablation.wrong_instruction,
        jobs=jobs,
        threads_per_job=threads,
        machine=f"{platform.machine()}, {cores} cores, {platform.system()}",
        date=iso_date(),
    )
    wanted = [(name, start) for start in parse_starts(starts) for name in names]
    partial = _Partial(out, provenance)
    missing = [pair for pair in wanted if pair not in partial.episodes]
    shown = (ablation, provenance.renames)
    arguments = (model, env, seed, provenance.steps_per_chunk, shown, threads)
    for episode in _run_all(missing, arguments, jobs):
        partial.add(episode)
        if on_episode:
            on_episode(episode, len(partial.episodes), len(wanted))
    result = _summarise([partial.episodes[pair] for pair in wanted], names, provenance)
    if out is not None:
        write_text(out, result.model_dump_json(indent=1))
        partial.discard()
    return result


def _summarise(
    episodes: list[Episode], names: list[str], provenance: Provenance
) -> EvaluationResult:
    records = [EpisodeRecord(**_without_latencies(episode)) for episode in episodes]
    latencies = np.concatenate([episode.latencies_ms for episode in episodes])
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    return EvaluationResult(
        tasks={name: rate([r for r in records if r.task == name]) for name in names},
        overall=rate(records),
        latency_ms=Latency(p50=p50, p95=p95, p99=p99, max=latencies.max(), n=len(latencies)),
        episodes=records,
        provenance=provenance,
    )


def _without_latencies(episode: Episode) -> dict[str, Any]:
    values = asdict(episode)
    del values["latencies_ms"]
    return values


class _Partial:
    """Finished episodes of an evaluation that has not ended, one JSON line each."""

    def __init__(self, out: Path | None, provenance: Provenance) -> None:
        # What the episodes depend on: a run with other values must not take them over.
        volatile = {"date", "machine", "jobs", "threads_per_job", "starts", "model"}
        key = json.dumps(provenance.model_dump(exclude=volatile), sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        self._path = out.with_name(f"{out.name}.{digest}.partial.jsonl") if out else None
        self.episodes: dict[tuple[str, int], Episode] = {}
        if self._path and self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    episode = Episode(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # the line that a kill cut short
                self.episodes[episode.task, episode.start] = episode

    def add(self, episode: Episode) -> None:
        self.episodes[episode.task, episode.start] = episode
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(episode)) + "\n")

    def discard(self) -> None:
        if self._path:
            self._path.unlink(missing_ok=True)


_worker: tuple[Policy, Suite] | None = None


def _start_worker(model: Path, env: str, threads: int) -> None:
    global _worker
    _worker = (open_policy(model, threads=threads), open_suite(env))


def _run_one(
    task: str, start: int, seed: int, steps: int, shown: tuple[Ablation, Renames]
) -> Episode:
    assert _worker is not None
    policy, suite = _worker
    ablation, renames = shown
    return run_episode(
        suite,
        policy,
        task,
        start,
        seed=seed,
        steps_per_chunk=steps,
        ablation=ablation,
        renames=renames,
    )


def _run_all(
    pairs: list[tuple[str, int]], arguments: tuple[Any, ...], jobs: int
) -> Iterator[Episode]:
    model, env, seed, steps, shown, threads = arguments
    if not pairs:
        return
    if jobs == 1:
        _start_worker(model, env, threads)
        for task, start in pairs:
            yield _run_one(task, start, seed, steps, shown)
        return
    # Spawned, not forked: a rendering context and ggml's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(jobs, len(pairs)), context, _start_worker, (model, env, threads)
    ) as pool:
        futures = [pool.submit(_run_one, *pair, seed, steps, shown) for pair in pairs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
