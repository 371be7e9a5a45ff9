"""Episodes on the machines of a Ray cluster: each is one task of Ray's, tried again where its
process or its machine dies."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from actquant_runtime import ModelFileError

from actquant.common.errors import ActquantError, EvaluationError, brief
from actquant.common.files import atomic_path
from actquant.common.interrupts import SIGNALS, look_again
from actquant.control.policy import model_sha256
from actquant.evaluation.recording import Videos
from actquant.evaluation.result import Provenance, UncountedEpisode, versions
from actquant.evaluation.rollout import Episode
from actquant.evaluation.timing import MEASURED, Timing
from actquant.evaluation.workers import ATTEMPTS, Worker

AUTO, CLIENT = "auto", "ray://"
REACH_S = 5.0
"""How long a cluster may take to answer."""
FORGET_S = 5.0
"""How long is waited for machines to delete the model's file."""
SHARED_VARIABLES = ("MUJOCO_GL", "ACTQUANT_ISA")
"""What pictures and answers depend on: the same in all processes."""
_NOT_COMPARED = {"python", "lerobot", "torch"}
"""Ray compares Python itself; no GGUF needs the others, unless a suite says so."""


def check_request(address: str, model: Path, timing: Timing | None) -> None:
    """Raises EvaluationError for what is no address of a Ray cluster, and for what a cluster cannot
    evaluate."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if address != AUTO and not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise EvaluationError(
            f"--ray {address}: wanted {AUTO}, HOST:PORT (this machine is a node of the cluster) or "
            f"{CLIENT}HOST:PORT (it is not)"
        )
    if model.is_dir():
        raise EvaluationError(
            f"--ray takes a GGUF, which is sent to the nodes, and {model} is none"
        )
    if timing is not None and timing.latency == MEASURED:
        raise EvaluationError(
            f"--latency {MEASURED} with --ray: what a busy cluster of any machines takes says "
            "nothing of the robot's; measure there with `actquant bench` and give --latency MS"
        )


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to. cores, nodes: how many it has now."""

    ray: Any

    @property
    def cores(self) -> int:
        return int(self.ray.cluster_resources().get("CPU", 0))

    @property
    def nodes(self) -> int:
        return sum(bool(node["Alive"]) for node in self.ray.nodes())


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connects to a Ray cluster for the block.

    Raises EvaluationError where none answers, or one of another version of Ray or Python;
    ModuleNotFoundError where Ray is not installed.
    """
    place = _resolved(address)
    _require_answer(place)
    import ray

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise EvaluationError(
            f"--ray {address}: {brief(error)} ({CLIENT} takes the port of Ray's client server, by "
            "default 10001, and HOST:PORT without it that of the head, by default 6379)"
        ) from error
    finally:  # Ray sets its own
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        cluster = Cluster(ray)
        if not cluster.cores:
            raise EvaluationError(
                f"--ray {address}: no node of the cluster has a core for tasks; add one by "
                "`ray start --address=…`"
            )
        yield cluster
    finally:
        ray.shutdown()


def _resolved(address: str) -> str:
    """Returns the address that Ray takes for `auto`, as far as it is noted somewhere."""
    if address != AUTO:
        return address
    note = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    with suppress(OSError):
        return os.environ.get("RAY_ADDRESS") or note.read_text().strip() or AUTO
    return AUTO


def _require_answer(address: str) -> None:
    """Raises EvaluationError where nothing that speaks as Ray does answers; Ray itself would try
    for minutes."""
    import grpc

    if address == AUTO:
        return
    place = address.removeprefix(CLIENT)
    host, _, port = place.rpartition(":")
    told = f"--ray: no Ray cluster answers at {address}"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        told_by_system = getattr(error, "strerror", None) or brief(error)
        raise EvaluationError(f"{told}: {told_by_system}") from error
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=REACH_S)
        except grpc.FutureTimeoutError as error:
            raise EvaluationError(f"{told}: what is there is something else") from error


@dataclass(frozen=True)
class _Order:
    """What all episodes of an evaluation have in common, and what they are compared with.

    model: a reference to the bytes of the file; films: of which episodes, None for none; variables:
    of the environment.
    """

    about: Provenance
    model: Any
    films: Videos | None
    variables: dict[str, str]


@dataclass(frozen=True)
class _Done:
    """An episode with the node that ran it. film: a video and what is kept beside it."""

    episode: Episode | UncountedEpisode
    node: str
    film: tuple[bytes, bytes] | None = None


def run_on(
    cluster: Cluster,
    pairs: list[tuple[str, int]],
    about: Provenance,
    videos: Videos | None,
    *,
    most: int,
    memory_bytes: int,
) -> Generator[Episode | UncountedEpisode, None, None]:
    """Runs episodes, (task, start) each, on a cluster, a core each; yields what each came to.

    An episode whose process or machine dies is tried ATTEMPTS times, then not counted. most: how
    many run at once, 0 for as many as there are cores, of nodes that join later too; memory_bytes:
    what a process takes. Raises EvaluationError for a node that would run other episodes than this
    machine, or where the cluster is lost, and what `run_episode` raises but SimulatorError.
    """
    ray = cluster.ray
    run = ray.remote(_run_remotely).options(
        num_cpus=1, memory=memory_bytes or None, max_retries=ATTEMPTS - 1
    )
    died = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.LocalRayletDiedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    variables = {name: os.environ[name] for name in SHARED_VARIABLES if name in os.environ}
    waiting, running, nodes = deque(pairs), {}, set()
    try:
        model = ray.put(np.asarray(np.memmap(about.model, np.uint8, "r")))
        order = ray.put(_Order(about, model, videos, variables))
        while waiting or running:
            # More than run, so that no core waits for us and Ray sees that there is more to do.
            limit = most or 2 * cluster.cores
            while waiting and len(running) < max(1, limit):
                pair = waiting.popleft()
                running[run.remote(order, *pair)] = pair
            done, _ = ray.wait(list(running), num_returns=1, timeout=1)
            look_again()
            for reference in done:
                task, start = running.pop(reference)
                try:
                    found = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise _told(error) from error
                except died as error:
                    told = f"the process that ran it died, the last time: {brief(error)}"
                    yield UncountedEpisode(task=task, start=start, attempts=ATTEMPTS, error=told)
                    continue
                nodes.add(found.node)
                if found.film is not None and videos is not None:
                    found.episode.recording = videos.take_over(task, start, *found.film)
                yield found.episode
    except (ray.exceptions.RaySystemError, ConnectionError) as error:
        raise EvaluationError(
            f"the Ray cluster is lost: {brief(error)}; the same command goes on from what is "
            "finished, with --ray or without"
        ) from error
    finally:
        with suppress(ray.exceptions.RayError, ConnectionError):  # the cluster may be lost
            _forget_on(ray, nodes, about.model_sha256)


def _forget_on(ray: Any, nodes: set[str], sha256: str) -> None:
    """Has nodes delete a model's file, as far as they do it in time."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    forget = ray.remote(_forget)
    begun = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        begun.append(forget.options(num_cpus=0, scheduling_strategy=there).remote(sha256))
    if begun:
        ray.wait(begun, num_returns=len(begun), timeout=FORGET_S)


def _told(error: Any) -> Exception:
    """Returns what a worker raised, or a line on what is no error of ours."""
    cause = error.cause
    if isinstance(cause, ActquantError | ModelFileError):
        return cause
    return EvaluationError(f"a node failed: {type(cause).__name__}: {brief(cause)}")


_held: tuple[str, Worker] | None = None
"""The worker of this process and the evaluation that it is of."""


def _run_remotely(order: _Order, task: str, start: int) -> _Done:
    """Runs one episode on a node."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    worker = _worker(order)
    if order.films is None:
        return _Done(worker.run(task, start), node)
    with tempfile.TemporaryDirectory() as folder:
        worker.videos = replace(order.films, folder=Path(folder), beside=Path(folder))
        episode = worker.run(task, start)
        if isinstance(episode, UncountedEpisode) or not episode.recording:
            return _Done(episode, node)
        video = worker.videos.path(task, start)
        return _Done(episode, node, (video.read_bytes(), video.with_suffix(".json").read_bytes()))


def _worker(order: _Order) -> Worker:
    """Returns this process's worker, made once in an evaluation."""
    import ray

    global _held
    key = order.about.model_dump_json()
    if _held is None or _held[0] != key:
        if _held is not None:
            _held[1].suite.close()
            _held = None
        os.environ.update(order.variables)
        sha256 = order.about.model_sha256
        with _model_here(sha256) as path:
            try:
                if not path.is_file() or model_sha256(path) != sha256:
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(memoryview(ray.get(order.model)))
                    if model_sha256(path) != sha256:
                        raise EvaluationError(f"{order.about.model} was changed meanwhile")
                about = order.about.model_copy(update={"model": str(path)})
                worker = Worker(about, order.films)
                _require_same(worker)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        _held = key, worker
    return _held[1]


@contextmanager
def _model_here(sha256: str) -> Iterator[Path]:
    """Yields where a model's file is on this node, which no other process writes meanwhile."""
    folder = Path(tempfile.gettempdir(), f"actquant-ray-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / f"{sha256}.gguf"


def _forget(sha256: str) -> None:
    """Deletes a model's file from this node; who has it open keeps it."""
    with _model_here(sha256) as path:
        path.unlink(missing_ok=True)


def _require_same(worker: Worker) -> None:
    """Raises EvaluationError where this node would run other episodes than the machine that the
    evaluation was begun on."""
    import ray

    about, suite = worker.about, worker.suite
    here = versions(suite.distribution) | suite.about.versions
    ignored = _NOT_COMPARED - suite.about.versions.keys()
    wanted = {name: version for name, version in about.versions.items() if name not in ignored}
    differ = [
        f"{name} {here.get(name, 'missing')} (wanted {version})"
        for name, version in wanted.items()
        if here.get(name) != version
    ]
    if suite.about.conventions != about.environment or list(suite.about.marks) != about.marks:
        differ.append(f"an environment {about.env} that says something else of itself")
    if differ:
        raise EvaluationError(
            f"the node {platform.node()} ({ray.util.get_node_ip_address()}) has "
            f"{', '.join(differ)}; install on every node what is installed here"
        )
