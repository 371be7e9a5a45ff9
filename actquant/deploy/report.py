"""What a deployment was: each episode's end, its latencies, refusals and smoothness."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from actquant.deploy.latency import Percentiles
from actquant.deploy.settings import ExitCode


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ending(_Record):
    """How an episode ended.

    `kind`: time limit, done, operator, refusals, stopped, recording, policy.
    """

    kind: str
    detail: str

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES[self.kind]


_EXIT_CODES = {
    "time limit": ExitCode.DONE,
    "done": ExitCode.DONE,
    "operator": ExitCode.DONE,
    "refusals": ExitCode.REFUSALS,
    "stopped": ExitCode.ROBOT_STOPPED,
    "recording": ExitCode.RECORDING,
    "policy": ExitCode.POLICY,
}


class EpisodeReport(_Record):
    """One episode.

    `latency_ms`: see `episode.Episode`. `jerk_rad_s3`: rms over joints and ticks of the third
    difference of the commanded joints, within chunks and at their seams.
    `dataset_frames`: frames recorded as an episode, None where nothing was recorded.
    """

    number: int
    ending: Ending
    seconds: float
    ticks: int
    actions: int
    chunks: int
    holds: int
    late_ticks: int
    refusals: dict[str, int]
    latency_ms: dict[str, Percentiles]
    jerk_rad_s3: dict[str, float]
    dataset_frames: int | None = None


class DeploymentReport(_Record):
    model: str
    robot: str
    task: str
    mode: str
    speed: float
    dry_run: bool
    controller: str
    control_rate_hz: float
    preflight: list[dict[str, str]]
    episodes: list[EpisodeReport]
    servo_jitter: dict[str, float]
    event_log: str
    exit_code: int


def jerk(commanded: ArrayLike, seams: ArrayLike, period_s: float) -> dict[str, float]:
    """Rms jerk (rad/s^3) of joints commanded at ticks [n, 6], inside chunks and at seams.

    seams [n]: whether a tick's action began another chunk. The third difference that ends at tick
    k spans k-3 to k; it belongs to a seam if one of the last three steps began a chunk.
    """
    joints, begins = np.asarray(commanded, np.float64), np.asarray(seams, bool)
    if len(joints) < 4:
        return {}
    squares = np.mean((np.diff(joints, 3, axis=0) / period_s**3) ** 2, axis=1)
    at_seam = begins[1:-2] | begins[2:-1] | begins[3:]
    parts = {"inside": squares[~at_seam], "seams": squares[at_seam]}
    return {name: float(np.sqrt(part.mean())) for name, part in parts.items() if len(part)}


def as_row(what: str, value: str, verdict: str = "") -> dict[str, Any]:
    return {"what": what, "value": value, "verdict": verdict}
