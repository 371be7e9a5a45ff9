"""What a deployment was: each episode's end, its latencies, refusals and smoothness."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from actquant.common.files import write_text
from actquant.deploy.latency import Percentiles
from actquant.deploy.settings import ExitCode


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ending(_Record):
    """How an episode ended.

    `kind`: time limit, done, operator, refusals, stopped (the arm did, and needs recovery), robot
    error (arm or camera gave what cannot be used; the arm holds), recording, policy.
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
    "robot error": ExitCode.ROBOT_STOPPED,
    "recording": ExitCode.RECORDING,
    "policy": ExitCode.POLICY,
}


class EpisodeReport(_Record):
    """One episode.

    `latency_ms`: see `episode.Episode`. `jerk_rad_s3`: see `smoothness.jerk`. `unsettled`: how
    often `sync` looked though arm, gripper or cameras had not settled in time.
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
    unsettled: int = 0
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

    def write(self, path: Path) -> None:
        """Writes JSON, whole or not at all. Raises OSError."""
        write_text(path, self.model_dump_json(indent=1))
