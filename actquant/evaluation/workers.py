"""Processes that run episodes, on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from actquant.common.errors import EvaluationError, SimulatorError
from actquant.control.policy import Policy, open_policy
from actquant.environments.base import Suite, open_suite
from actquant.evaluation.recording import Film, Recording, Videos
from actquant.evaluation.result import Provenance, UncountedEpisode
from actquant.evaluation.rollout import Ablation, Episode, run_episode
from actquant.evaluation.timing import MEASURED

ATTEMPTS = 3
"""How often an episode is tried that the simulator does not bring to its end."""
UNKNOWN_RATE_HZ = 10.0
"""How fast videos play where a checkpoint does not say."""


class Worker:
    """Runs episodes in this process."""

    def __init__(self, about: Provenance, videos: Videos | None) -> None:
        self.about, self.videos = about, videos
        self.policy: Policy = open_policy(Path(about.model), about.threads_per_job, about.device)
        self.suite = self._open_suite()
        self._cold = about.timing is not None and about.timing.latency == MEASURED

    def run(self, task: str, start: int) -> Episode | UncountedEpisode:
        """Runs one episode, in a new environment again where the simulator failed."""
        errors: list[str] = []
        while len(errors) < ATTEMPTS:
            try:
                return self._run(task, start)
            except SimulatorError as error:
                errors.append(str(error))
                self.suite.close()
                self.suite = self._open_suite()
        told = "; then ".join(dict.fromkeys(errors))
        return UncountedEpisode(task=task, start=start, attempts=len(errors), error=told)

    def _open_suite(self) -> Suite:
        return open_suite(self.about.env, self.about.perturb, self.about.env_options)

    def _run(self, task: str, start: int) -> Episode:
        about, film = self.about, Film() if self.videos is not None else None
        episode = run_episode(
            self.suite,
            self.policy,
            task,
            start,
            seed=about.seed,
            steps_per_chunk=about.steps_per_chunk,
            ablation=Ablation(about.grey_camera, about.wrong_instruction),
            renames=about.renames,
            film=film,
            timing=about.timing,
            warm_up=self._cold,
        )
        self._cold = False
        if self.videos is not None and film is not None and self.videos.wants(episode):
            episode.recording = self.videos.keep(film, self._recording(episode, film))
        return episode

    def _recording(self, episode: Episode, film: Film) -> Recording:
        policy = self.policy.describe()
        return Recording(
            task=episode.task,
            start=episode.start,
            instruction=film.instruction,
            success=episode.success,
            failure=episode.failure,
            model_sha256=self.about.model_sha256,
            seed=self.about.seed,
            control_rate_hz=policy.control_rate_hz or UNKNOWN_RATE_HZ,
            steps_per_chunk=self.about.steps_per_chunk,
            action_names=list(policy.action_names),
            actions=[[round(float(x), 5) for x in action] for action in film.actions],
            latencies_ms=[round(ms, 3) for ms in episode.latencies_ms],
            asked=film.asked,
        )


_worker: Worker | None = None


def _start_worker(about: Provenance, videos: Videos | None) -> None:
    global _worker
    _worker = Worker(about, videos)


def _run_one(task: str, start: int) -> Episode | UncountedEpisode:
    assert _worker is not None
    return _worker.run(task, start)


def run_here(
    pairs: list[tuple[str, int]], about: Provenance, videos: Videos | None
) -> Generator[Episode | UncountedEpisode, None, None]:
    """Runs episodes, (task, start) each, in as many processes as `about.jobs` says, one of them
    this one if that is 1; yields what each came to. videos: what is filmed, None for nothing.

    Raises EvaluationError if a process dies, and what `run_episode` raises but SimulatorError.
    """
    if not pairs:
        return
    if about.jobs == 1:
        worker = Worker(about, videos)
        try:
            for pair in pairs:
                yield worker.run(*pair)
        finally:
            worker.suite.close()
        return
    # Spawned, not forked: a rendering context and ggml's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(about.jobs, len(pairs)), context, _start_worker, (about, videos)
    ) as pool:
        futures = [pool.submit(_run_one, *pair) for pair in pairs]
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
