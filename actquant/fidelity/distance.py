"""How far action chunks are from others: one measure in one unit, wherever two are compared.

The distance of two chunks is the root mean square of their difference over steps and actions, in
standard deviations of each action, as the policy's normalisation has them.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import ParityError
from actquant.format.schema import PolicyInterface

UNIT = "standard deviations of the actions"


class Distance(BaseModel):
    """Distances over n chunks, in UNIT: their mean, and the largest.

    limit: what `worst` must not pass; None where it is measured and not judged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    worst: float
    n: int
    limit: float | None = None

    @property
    def passed(self) -> bool:
        return self.limit is None or self.worst <= self.limit

    def __str__(self) -> str:
        judged = "not judged" if self.limit is None else f"limit {self.limit:.0e}"
        return (
            f"worst chunk {self.worst:.2e}, mean {self.mean:.2e} {UNIT} over {self.n} inputs "
            f"({judged})"
        )


def action_scale(interface: PolicyInterface) -> np.ndarray:
    """Returns what one unit is for each action: float64 [A], in the robot's units."""
    return np.array(interface.action_std, np.float64) + interface.normalization_eps


def chunk_distances(actions: np.ndarray, reference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the distance of each pair of chunks: [n, H, A], [n, H, A], [A] -> float64 [n].

    Raises ParityError if the actions are not finite.
    """
    if not np.isfinite(actions).all():
        raise ParityError("the actions hold NaN or infinity")
    difference = (np.asarray(actions, np.float64) - reference) / scale
    return np.sqrt(np.mean(difference**2, axis=(1, 2)))


def measure_distance(
    actions: np.ndarray, reference: np.ndarray, scale: np.ndarray, limit: float | None = None
) -> Distance:
    """Measures chunks [n, H, A] against others; scale: see `action_scale`.

    Raises ParityError if the actions are not finite.
    """
    found = chunk_distances(actions, reference, scale)
    return Distance(mean=float(found.mean()), worst=float(found.max()), n=len(found), limit=limit)
