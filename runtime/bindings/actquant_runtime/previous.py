"""What is left of a chunk while the next one is made, for real-time chunking."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Schedule = Literal["linear", "zeros", "ones", "exp"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True, eq=False)
class PreviousChunk:
    """The actions that the robot executes while the next chunk is made: the next chunk is guided to
    begin as they go on (real-time chunking, https://huggingface.co/papers/2506.07339, without the
    Jacobian, as LeRobot's `RTCProcessor`)."""

    actions: NDArray[np.float32]
    """[n, A] in the robot's units, not yet executed when the observation was made; n is 1 to the
    chunk's length. The first falls on the same control step as the new chunk's first."""
    delay: int = 0
    """How many of them will have been executed when the new chunk is there; the new chunk is held
    to these with full weight."""
    execution_horizon: int = 10
    """From the `delay`-th action on, the weight falls, to none at this one."""
    max_guidance: float = 10.0
    """Bound of the guidance's strength, which grows towards the beginning of the sampling."""
    schedule: str = "linear"
    """How the weight falls, one of SCHEDULES: `linear`; `exp` (faster); `zeros` (at once after the
    delay); `ones` (at once at the horizon)."""
