"""How long a quantized policy is tuned."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TuningSettings:
    """steps: at most; minutes: how long they may take by the time of the first, 0 for no tuning;
    batch_size: frames a step; at_once: of these in memory together."""

    steps: int = 60
    minutes: float = 10.0
    batch_size: int = 16
    at_once: int = 4

    @property
    def frames(self) -> int:
        """How many training frames there is a use for, so that none comes twice."""
        return self.steps * self.batch_size
