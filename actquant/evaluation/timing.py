"""What passes in a simulated world while the policy thinks."""

import math
import zlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError
from actquant.control.chunk_scheduler import MODES

MEASURED = "measured"
EXECUTION_HORIZON = 10
_JITTER_STREAM = 1
"""Keeps what is drawn here apart from the noise of the same chunk."""

Mode = Literal["sync", "async", "rtc"]
assert get_args(Mode) == MODES


class Timing(BaseModel):
    """How long each chunk takes in simulated time, and what is executed meanwhile.

    latency: in ms, or "measured": as long as it takes this machine; jitter_ms: each chunk takes
    from latency − jitter_ms to latency + jitter_ms, drawn from (seed, task, start, chunk) alone;
    mode: as `ChunkScheduler` takes it; execution_horizon: of `rtc`, else None; step_ms: of a
    control step of the world, None until one is chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency: float | Literal["measured"]
    jitter_ms: float = 0.0
    mode: Mode = "sync"
    execution_horizon: int | None = None
    step_ms: float | None = None

    def steps(self, taken_ms: Sequence[float], seed: int, task: str, start: int) -> int:
        """Returns how many control steps pass until an episode's last chunk is there; a begun step
        counts whole.

        taken_ms: what its chunks took this machine.
        """
        assert self.step_ms is not None
        ms = taken_ms[-1] if self.latency == MEASURED else float(self.latency)
        if self.jitter_ms:
            words = [seed, zlib.crc32(task.encode()), start, len(taken_ms) - 1, _JITTER_STREAM]
            ms += self.jitter_ms * np.random.default_rng(words).uniform(-1, 1)
        return math.ceil(ms / self.step_ms - 1e-9)

    @property
    def duration(self) -> str:
        """The latency in words, e.g. `120 ± 20 ms`."""
        if self.latency == MEASURED:
            return MEASURED
        return f"{self.latency:g}{f' ± {self.jitter_ms:g}' if self.jitter_ms else ''} ms"

    @property
    def manner(self) -> str:
        """The mode, with the horizon of `rtc`."""
        horizon = self.execution_horizon
        return self.mode if horizon is None else f"{self.mode}, horizon {horizon}"

    def __str__(self) -> str:
        return f"latency {self.duration}, {self.manner}"

    @property
    def scheduling(self) -> str:
        """What is executed while the policy thinks, in words."""
        meanwhile = {
            "sync": "the robot holds while the policy thinks",
            "async": "the old chunk goes on while the policy thinks",
            "rtc": "the old chunk goes on while the policy thinks, and guides the new one",
        }
        return f"{self.mode}: {meanwhile[self.mode]}; simulated time goes on"


def parse_timing(
    latency: str | None,
    jitter_ms: float | None = None,
    mode: str = "sync",
    execution_horizon: int | None = None,
) -> Timing | None:
    """Returns what --latency, --latency-jitter, --mode and --execution-horizon ask for; None where
    simulated time stands still while the policy thinks.

    Raises EvaluationError for what cannot be.
    """
    if mode not in MODES:
        raise EvaluationError(f"--mode {mode}; choose one of {', '.join(MODES)}")
    if execution_horizon is not None and mode != "rtc":
        raise EvaluationError(f"--execution-horizon is of --mode rtc, and the mode is {mode}")
    if latency is None:
        if jitter_ms is not None or mode != "sync":
            flag = f"--mode {mode}" if jitter_ms is None else "--latency-jitter"
            raise EvaluationError(f"{flag} needs --latency, in ms or {MEASURED}")
        return None
    if execution_horizon is None and mode == "rtc":
        execution_horizon = EXECUTION_HORIZON
    return Timing.model_validate(
        {
            "latency": latency if latency == MEASURED else _milliseconds(latency, jitter_ms or 0),
            "jitter_ms": _jitter(latency, jitter_ms),
            "mode": mode,
            "execution_horizon": execution_horizon,
        }
    )


def _milliseconds(text: str, jitter_ms: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise EvaluationError(f"--latency {text}; a number of ms from 0 on, or {MEASURED}")
    if jitter_ms > value:
        raise EvaluationError(f"--latency-jitter {jitter_ms:g} is more than --latency {text}")
    return value


def _jitter(latency: str, jitter_ms: float | None) -> float:
    if jitter_ms is None:
        return 0.0
    if latency == MEASURED:
        raise EvaluationError(f"--latency-jitter with --latency {MEASURED}, which varies by itself")
    if not 0 <= jitter_ms < math.inf:
        raise EvaluationError(f"--latency-jitter {jitter_ms:g}; a number of ms from 0 on")
    return jitter_ms
