"""What a deployment is asked to do, checked as a whole before anything is connected."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from actquant.common.errors import DeployError
from actquant.common.outputs import NOTHING, check_folder, check_output
from actquant.common.paths import require_file
from actquant.control.chunk_scheduler import MODES


class ExitCode(IntEnum):
    """How `actquant deploy` ends. 1 is an error before motion, 2 a wrong command line."""

    DONE = 0
    NOT_ALLOWED = 3
    REFUSALS = 4
    ROBOT_STOPPED = 5
    RECORDING = 6
    POLICY = 7
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True)
class DeploySettings:
    """See `actquant deploy --help`.

    Attributes:
        cameras: specs `NAME=KIND:WHERE`.
        limits: values by the names of the robot's limits, in place of the defaults.
        arm: other values of the robot's set-up, by its own names.
        max_seconds: of one episode at full speed; --speed stretches it.
        settle_s: how long `sync` waits at most for arm and gripper to arrive before it looks; 0:
            not at all.
        log: folder of event logs and reports.
        seed: of the policy's noise; None for other noise each time.
    """

    model: Path
    robot: str
    ip: str
    task: str
    cameras: Sequence[str] = ()
    mode: str = "sync"
    steps_per_chunk: int | None = None
    execution_horizon: int = 10
    speed: float = 0.25
    episodes: int = 1
    max_seconds: float = 60.0
    max_refusals: int = 10
    settle_s: float = 1.0
    dry_run: bool = False
    yes: bool = False
    activate_gripper: bool = False
    allow_unusual_state: bool = False
    resize: bool = False
    record: Path | None = None
    rerun: Path | None = None
    log: Path = Path("deploy-log")
    seed: int | None = None
    threads: int = 0
    device: str = "cpu"
    limits: dict[str, Any] = field(default_factory=dict)
    arm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises DeployError listing all that cannot be, or UsageError or OutputError for a place
        that cannot be read or written."""
        wrong = self._wrong_values()
        if wrong:
            raise DeployError("; ".join(wrong))
        require_file(self.model, "a GGUF", DeployError)
        for folder in (self.log, self.record):
            if folder is not None:
                check_folder(folder, [self.model])
        if self.rerun is not None:
            check_output(self.rerun, NOTHING, [self.model])

    def _wrong_values(self) -> list[str]:
        wrong = []
        if not self.task.strip():
            wrong.append("--task is empty; say what the robot shall do")
        if "\0" in self.task:
            wrong.append("--task has a NUL character")
        if not self.ip.strip():
            wrong.append("--ip is empty; give the address of the robot's controller")
        if self.threads < 0:
            wrong.append(f"--threads {self.threads}; 0 for as many as there is work for")
        if self.mode not in MODES:
            wrong.append(f"--mode {self.mode}; choose one of {', '.join(MODES)}")
        if self.steps_per_chunk is not None and self.steps_per_chunk < 1:
            wrong.append(f"--steps-per-chunk {self.steps_per_chunk}; at least 1")
        if self.execution_horizon < 1:
            wrong.append(f"--execution-horizon {self.execution_horizon}; at least 1")
        if not 0 < self.speed <= 1:
            wrong.append(f"--speed {self.speed}; above 0 and at most 1")
        if self.episodes < 1:
            wrong.append(f"--episodes {self.episodes}; at least 1")
        if not 0 < self.max_seconds < math.inf:
            wrong.append(f"--max-seconds {self.max_seconds}; above 0")
        if not 0 <= self.settle_s < math.inf:
            wrong.append(f"--settle {self.settle_s}; seconds, 0 for none")
        if self.max_refusals < 1:
            wrong.append(f"--max-refusals {self.max_refusals}; at least 1")
        if self.rerun is not None and self.rerun.suffix != ".rrd":
            wrong.append(f"--rerun {self.rerun}; a file that ends in .rrd")
        if self.dry_run and self.record is not None:
            wrong.append("--record with --dry-run; nothing is executed that an episode could hold")
        return wrong
