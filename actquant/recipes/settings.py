"""What a compression may be told beside its recipe and its budget."""

from dataclasses import dataclass, field

from actquant.calibration.hsic import DEFAULT_SCORE, SIGMA, Score
from actquant.tuning.settings import TuningSettings


@dataclass(frozen=True)
class CompressionSettings:
    """Settings of calibration and of the recipes that have some.

    n_frames, n_held_out: frames of the calibration and of the held-out episodes; draws: draws of
    noise and time per frame for statistics that need them; sigma: width of the RBF kernel, None for
    the median heuristic; score: which sensitivity the recipe `paper` allocates by; tuning: of a
    recipe that is tuned.
    """

    n_frames: int = 128
    n_held_out: int = 64
    draws: int = 2
    batch_size: int = 4
    sigma: float | None = SIGMA
    score: Score = DEFAULT_SCORE
    tuning: TuningSettings = field(default_factory=TuningSettings)
