"""Closed-loop evaluation on numbered starts: success, intervals, latency; resumable."""

import hashlib
import json
import multiprocessing
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from actquant import __version__
from actquant.common.clock import iso_date
from actquant.common.errors import EvaluationError
from actquant.common.files import write_text
from actquant.common.interrupts import look_again
from actquant.common.locks import sole_writer
from actquant.common.machine import usable_cores
from actquant.common.paths import require_file
from actquant.common.renames import Renames
from actquant.common.statistics import wilson95
from actquant.control.policy import Policy, model_sha256, open_policy
from actquant.environments.base import Suite, open_suite, require_task
from actquant.evaluation.partial import SUFFIX, PartialResult
from actquant.evaluation.rollout import Ablation, Episode, run_episode
from actquant.evaluation.starts import parse_starts

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
        path = require_file(path, "a result of `actquant eval`", EvaluationError)
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise EvaluationError(
                f"{path} is no evaluation result: {where}{': ' if where else ''}{first['msg']}"
            ) from error


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

    Episodes are kept beside `out` in a `.partial.jsonl` as they finish: the same call again goes
    on where it was stopped. renames: names in the environment -> the policy's. `on_episode` gets
    each episode with the counts done and to do.
    Raises EvaluationError for an unknown environment, task or range, more steps than a chunk has,
    and, before the first action, where the environment has not what the policy is to be shown;
    BusyError if another process writes `out`, OutputError if it cannot be written.
    """
    wanted_starts, suite = parse_starts(starts), open_suite(env)
    names = list(dict.fromkeys(tasks)) or list(suite.tasks)
    for name in names:
        require_task(env, suite.tasks, name)
    wanted = [(name, start) for start in wanted_starts for name in names]
    with nullcontext() if out is None else sole_writer(out):
        shown = (ablation or Ablation(), renames or {})
        about = _provenance(model, env, starts, seed, steps_per_chunk, shown, jobs)
        partial = PartialResult(_partial_path(out, about), about.date)
        about = about.model_copy(update={"date": partial.began})
        missing = [pair for pair in wanted if pair not in partial.episodes]
        for episode in _run_all(missing, about):
            look_again()
            partial.add(episode)
            if on_episode:
                on_episode(episode, len(partial.episodes), len(wanted))
        result = _summarise([partial.episodes[pair] for pair in wanted], names, about)
        if out is not None:
            write_text(out, result.model_dump_json(indent=1))
            partial.discard()
        return result


def _provenance(
    model: Path,
    env: str,
    starts: str,
    seed: int,
    steps_per_chunk: int | None,
    shown: tuple[Ablation, Renames],
    jobs: int,
) -> Provenance:
    ablation, renames = shown
    sha256, policy = model_sha256(model), open_policy(model, threads=1).describe()
    if steps_per_chunk is not None and not 1 <= steps_per_chunk <= policy.chunk_length:
        raise EvaluationError(
            f"--steps-per-chunk {steps_per_chunk}; the policy's chunks have {policy.chunk_length} "
            "actions"
        )
    cores = usable_cores()
    return Provenance(
        actquant_version=__version__,
        model=str(model),
        model_sha256=sha256,
        env=env,
        starts=starts,
        seed=seed,
        steps_per_chunk=steps_per_chunk or policy.steps_per_chunk,
        grey_camera=ablation.grey_camera,
        renames=dict(renames),
        wrong_instruction=ablation.wrong_instruction,
        jobs=jobs or cores,
        threads_per_job=max(1, cores // (jobs or cores)),
        machine=f"{platform.machine()}, {cores} cores, {platform.system()}",
        date=iso_date(),
    )


def _partial_path(out: Path | None, provenance: Provenance) -> Path | None:
    """Names the file after what episodes depend on: a run with other values does not take them
    over."""
    if out is None:
        return None
    volatile = {"date", "machine", "jobs", "threads_per_job", "starts", "model"}
    key = json.dumps(provenance.model_dump(exclude=volatile), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return out.with_name(f"{out.name}.{digest}{SUFFIX}")


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


def _run_all(pairs: list[tuple[str, int]], about: Provenance) -> Iterator[Episode]:
    model, threads, jobs = Path(about.model), about.threads_per_job, about.jobs
    shown = (Ablation(about.grey_camera, about.wrong_instruction), about.renames)
    arguments = (about.seed, about.steps_per_chunk, shown)
    if not pairs:
        return
    if jobs == 1:
        _start_worker(model, about.env, threads)
        for pair in pairs:
            yield _run_one(*pair, *arguments)
        return
    # Spawned, not forked: a rendering context and ggml's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(jobs, len(pairs)), context, _start_worker, (model, about.env, threads)
    ) as pool:
        futures = [pool.submit(_run_one, *pair, *arguments) for pair in pairs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise EvaluationError(
                "a process that ran episodes has died, perhaps for want of memory; with fewer "
                "--jobs the same command goes on from what is finished"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
