"""Closed-loop evaluation on numbered starts: success, intervals, latency; resumable."""

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actquant_runtime import find_device

from actquant import __version__
from actquant.common.clock import iso_date
from actquant.common.errors import EvaluationError
from actquant.common.files import write_text
from actquant.common.interrupts import look_again
from actquant.common.locks import sole_writer
from actquant.common.machine import total_memory, usable_cores
from actquant.common.renames import Renames, rename_keys
from actquant.control.policy import PolicyDescription, model_sha256, open_policy
from actquant.environments.base import SUITES, Suite, open_suite, require_camera, require_task
from actquant.evaluation.cluster import Cluster, check_request, connected, run_on
from actquant.evaluation.partial import SUFFIX, PartialResult
from actquant.evaluation.recording import Videos
from actquant.evaluation.result import (
    SCHEMA_VERSION,
    Conventions,
    EpisodeRecord,
    EvaluationResult,
    ModelFacts,
    Provenance,
    UncountedEpisode,
    latency,
    rate,
    versions,
)
from actquant.evaluation.rollout import Ablation, Episode, check_fits
from actquant.evaluation.starts import parse_starts
from actquant.evaluation.timing import MEASURED, Timing
from actquant.evaluation.workers import run_here
from actquant.format.model_file import read_model
from actquant.format.stored_error import StoredActionError


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
    timing: Timing | None = None,
    perturb: Mapping[str, int] | None = None,
    env_options: Mapping[str, str] | None = None,
    jobs: int = 0,
    ray: str | None = None,
    videos: Path | None = None,
    all_videos: bool = False,
    comparable: bool = False,
    device: str = "cpu",
    force: bool = False,
    on_episode: Callable[[Episode, int, int], None] | None = None,
) -> EvaluationResult:
    """Runs every task from every start and writes `out` (whole, at the end).

    Episodes are kept beside `out` in a `.partial.jsonl` as they finish: the same call again goes
    on where it was stopped. An episode whose simulator fails is tried ATTEMPTS times, then listed
    and not counted; the same call again tries those alone. renames: names in the environment -> the
    policy's. timing: what passes in the simulation while the policy thinks, nothing if left out;
    with measured latencies, episodes of another machine or another number of `jobs` are not taken
    over. perturb: kind -> level of what is otherwise than in training, env_options: options of
    LeRobot's environment (`open_suite`). ray: address of a Ray cluster whose nodes run the
    episodes, at most `jobs` at once. videos:
    folder for recordings of failures (`all_videos`: of all episodes), over others than ours only
    with `force`. comparable: whether nothing may be done otherwise than by the protocol that
    published numbers of the environment follow. device: as `open_policy` takes it. `on_episode`
    gets each episode with the counts done and to do.
    Raises EvaluationError for an unknown environment, task, camera or range, starts that the
    environment does not have, what is not `comparable`, more steps than a chunk has, where no
    episode counts, and, before the first action, where the environment has not what the policy is
    to be shown; BusyError if another process writes `out`, OutputError if it cannot be written, and
    what `check_request`, `connected` and `Videos.check` raise.
    """
    wanted_starts = parse_starts(starts)
    ablation, renames = ablation or Ablation(), renames or {}
    perturb = {kind: level for kind, level in sorted((perturb or {}).items()) if level}
    env_options = dict(sorted((env_options or {}).items()))
    with ExitStack() as stack:
        cluster = None
        if ray is not None:
            check_request(ray, Path(model), timing)
            cluster = stack.enter_context(connected(ray))
        with closing(open_suite(env, perturb, env_options)) as suite:
            names = list(dict.fromkeys(tasks)) or list(suite.tasks)
            for name in names:
                require_task(env, suite.tasks, name)
            if ablation.grey_camera is not None:
                cameras = rename_keys(dict.fromkeys(suite.cameras), renames)
                require_camera(env, cameras, ablation.grey_camera)
            _require_starts(env, suite, wanted_starts)
            if comparable:
                _require_protocol(env, suite, names, wanted_starts, ablation, timing)
            if timing is not None:
                timing = _in_steps(env, suite, timing)
        wanted = _in_order(names, wanted_starts, suite)
        kept = None
        if videos is not None:
            place = out or Path(videos) / "result.json"
            kept = Videos(Path(videos), place.stem, place.parent, all_videos)
            kept.check(wanted, force=force)
        if out is not None:
            stack.enter_context(sole_writer(out))
        about = _provenance(
            model,
            env,
            suite,
            tasks=names,
            starts=starts,
            seed=seed,
            steps_per_chunk=steps_per_chunk,
            ablation=ablation,
            renames=renames,
            timing=timing,
            perturb=perturb,
            env_options=env_options,
            jobs=jobs,
            cluster=cluster,
            device=device,
        )
        partial = PartialResult(_partial_path(out, about), about.date)
        about = about.model_copy(update={"date": partial.began})
        missing = [pair for pair in wanted if pair not in partial.episodes]
        not_counted: dict[tuple[str, int], UncountedEpisode] = {}
        if cluster is None:
            episodes = run_here(missing, about, kept)
        else:
            needed = suite.about.memory_bytes
            episodes = run_on(cluster, missing, about, kept, most=jobs, memory_bytes=needed)
        # Closed before the cluster is left.
        for episode in stack.enter_context(closing(episodes)):
            look_again()
            if isinstance(episode, UncountedEpisode):
                not_counted[episode.task, episode.start] = episode
                continue
            partial.add(episode)
            if on_episode:
                on_episode(episode, len(partial.episodes), len(wanted))
        found = [partial.episodes[pair] for pair in wanted if pair in partial.episodes]
        failed = [not_counted[pair] for pair in wanted if pair in not_counted]
        about = about.model_copy(update={"comparable": comparable and not failed})
        result = _summarise(found, failed, names, about)
        if out is not None:
            write_text(out, result.model_dump_json(indent=1))
            if not failed:
                partial.discard()
        return result


def _require_starts(env: str, suite: Suite, starts: Sequence[int]) -> None:
    count = suite.about.starts
    if count is not None and max(starts) >= count:
        raise EvaluationError(
            f"--starts: {env} has the starts 0 to {count - 1}, and {max(starts)} is asked for"
        )


def _require_protocol(
    env: str,
    suite: Suite,
    tasks: Sequence[str],
    starts: Sequence[int],
    ablation: Ablation,
    timing: Timing | None,
) -> None:
    """Raises EvaluationError for what published numbers were not found with."""
    about = suite.about
    if not about.published_starts:
        raise EvaluationError(f"--comparable: there are no published numbers of {env}")
    if about.marks:
        raise EvaluationError(
            f"--comparable: no number found with {', '.join(about.marks)} may be set beside a "
            "published one; take the benchmark's own assets"
        )
    if sorted(tasks) != sorted(suite.tasks):
        raise EvaluationError(f"--comparable takes all {len(suite.tasks)} tasks; omit --tasks")
    if sorted(starts) != parse_starts(about.published_starts):
        raise EvaluationError(f"--comparable takes --starts {about.published_starts}")
    if ablation != Ablation():
        raise EvaluationError("--comparable takes nothing from the policy; omit the ablation")
    if timing is not None:
        raise EvaluationError("--comparable: the simulation waits for the policy; omit --latency")


def _in_steps(env: str, suite: Suite, timing: Timing) -> Timing:
    """Returns the timing with what a step of the suite takes. Raises EvaluationError if nobody
    says, or how its robot stands still."""
    if not suite.about.holds:
        raise EvaluationError(
            f"--latency: nobody says with which action the robot of environment '{env}' stands "
            f"still while the policy thinks; of {', '.join(SUITES)} it is known"
        )
    if suite.about.control_rate_hz is None:
        raise EvaluationError(
            f"--latency: environment '{env}' does not say how much time passes in a step"
        )
    return timing.model_copy(update={"step_ms": 1e3 / suite.about.control_rate_hz})


def _in_order(tasks: list[str], starts: list[int], suite: Suite) -> list[tuple[str, int]]:
    """Returns the episodes, tasks in turns unless a change of the task costs much."""
    if suite.about.one_task_at_a_time:
        return [(task, start) for task in tasks for start in starts]
    return [(task, start) for start in starts for task in tasks]


def _provenance(
    model: Path,
    env: str,
    suite: Suite,
    *,
    tasks: list[str],
    starts: str,
    seed: int,
    steps_per_chunk: int | None,
    ablation: Ablation,
    renames: Renames,
    timing: Timing | None,
    perturb: dict[str, int],
    env_options: dict[str, str],
    jobs: int,
    cluster: Cluster | None,
    device: str,
) -> Provenance:
    sha256, policy = model_sha256(model), open_policy(model, threads=1, device=device).describe()
    if steps_per_chunk is not None and not 1 <= steps_per_chunk <= policy.chunk_length:
        raise EvaluationError(
            f"--steps-per-chunk {steps_per_chunk}; the policy's chunks have {policy.chunk_length} "
            "actions"
        )
    if timing is not None and timing.mode == "rtc" and not policy.supports_guidance:
        raise EvaluationError(
            f"--mode rtc: {model} is no flow that can be guided; choose sync or async"
        )
    if suite.about.features:
        check_fits(policy, suite.about.features, renames)
    if cluster is None:
        cores = usable_cores()
        jobs = jobs or _most_jobs(cores, suite.about.memory_bytes)
        machine = f"{cores} cores"
    else:
        cores = jobs = jobs or cluster.cores
        machine = f"{cluster.cores} cores of {cluster.nodes} node(s) by Ray"
    return Provenance(
        schema_version=SCHEMA_VERSION,
        actquant_version=__version__,
        model=str(model),
        model_sha256=sha256,
        model_facts=_facts(Path(model), policy.name),
        env=env,
        tasks=tasks,
        starts=starts,
        seed=seed,
        steps_per_chunk=steps_per_chunk or policy.steps_per_chunk,
        grey_camera=ablation.grey_camera,
        renames=dict(renames),
        wrong_instruction=ablation.wrong_instruction,
        timing=timing,
        perturb=perturb,
        env_options=env_options,
        conventions=_conventions(policy, timing),
        jobs=jobs,
        threads_per_job=max(1, cores // jobs),
        device=find_device(device),
        machine=f"{platform.machine()}, {machine}, {platform.system()}",
        environment=dict(suite.about.conventions),
        marks=list(suite.about.marks),
        versions=versions(suite.distribution) | suite.about.versions,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        date=iso_date(),
    )


def _most_jobs(cores: int, each_bytes: int) -> int:
    """Returns how many processes run beside each other: a core each, as far as memory goes."""
    return min(cores, max(1, total_memory() // each_bytes)) if each_bytes else cores


def _facts(model: Path, name: str) -> ModelFacts:
    if model.is_dir():
        size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
        return ModelFacts(
            name=name, bytes=size, whole_file_bpw=None, quantized_tensor_bpw=None, recipe=""
        )
    file = read_model(model)
    return ModelFacts(
        name=name,
        bytes=model.stat().st_size,
        whole_file_bpw=file.bits_per_weight,
        quantized_tensor_bpw=file.quantized_bits_per_weight,
        recipe=str(file.metadata.provenance.get("recipe", "")),
        action_error=StoredActionError.of(file.metadata.provenance),
    )


def _conventions(policy: PolicyDescription, timing: Timing | None) -> Conventions:
    scheduling = {} if timing is None else {"scheduling": timing.scheduling}
    return Conventions(
        **scheduling,
        control_rate_hz=policy.control_rate_hz,
        observation_steps=policy.observation_steps,
        chunk_length=policy.chunk_length,
        cameras=list(policy.cameras),
        state_names=list(policy.state_names),
        action_names=list(policy.action_names),
        noise_shape=list(policy.noise_shape),
    )


def _partial_path(out: Path | None, provenance: Provenance) -> Path | None:
    """Names the file after what episodes depend on: a run with other values does not take them
    over."""
    if out is None:
        return None
    volatile = {"date", "tasks", "starts", "model", "command"}
    if provenance.timing is None or provenance.timing.latency != MEASURED:
        volatile |= {"machine", "jobs", "threads_per_job"}
    key = json.dumps(provenance.model_dump(exclude=volatile), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return out.with_name(f"{out.name}.{digest}{SUFFIX}")


def _summarise(
    episodes: list[Episode],
    not_counted: list[UncountedEpisode],
    names: list[str],
    provenance: Provenance,
) -> EvaluationResult:
    if not episodes:
        raise EvaluationError(
            f"the simulator failed in each of {len(not_counted)} episodes; the first: "
            f"{not_counted[0].error}"
        )
    records = [EpisodeRecord(**_without_latencies(episode)) for episode in episodes]
    by_task = {name: [record for record in records if record.task == name] for name in names}
    return EvaluationResult(
        tasks={name: rate(of_task) for name, of_task in by_task.items() if of_task},
        overall=rate(records),
        latency_ms=latency([ms for episode in episodes for ms in episode.latencies_ms]),
        episodes=records,
        not_counted=not_counted,
        provenance=provenance,
    )


def _without_latencies(episode: Episode) -> dict[str, Any]:
    values = asdict(episode)
    del values["latencies_ms"]
    return values
