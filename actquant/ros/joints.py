"""Which joint of the robot each number of a policy is, and in which unit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import RosError
from actquant.common.renames import likeness

_SUFFIXES = (".pos", "_rad", "_m")


@dataclass(frozen=True)
class Joint:
    """A joint by ROS's name; its position (rad or m) is the policy's number times `factor`."""

    name: str
    factor: float = 1.0


def parse_joints(pairs: Iterable[str]) -> dict[str, Joint]:
    """Returns joints by the policy's names, of POLICY'S=JOINT and POLICY'S=JOINT*FACTOR.

    Raises RosError listing all that are neither.
    """
    joints: dict[str, Joint] = {}
    wrong = []
    for pair in pairs:
        ours, _, theirs = pair.partition("=")
        name, star, factor = theirs.partition("*")
        number = _number(factor) if star else 1.0
        if not (ours and name) or number is None or number == 0:
            wrong.append(f"--joint {pair}: wanted POLICY'S=JOINT or POLICY'S=JOINT*FACTOR")
        elif ours in joints:
            wrong.append(f"--joint {pair}: {ours} is given twice")
        else:
            joints[ours] = Joint(name, number)
    if wrong:
        raise RosError("; ".join(wrong))
    return joints


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class JointMap:
    """The joints behind a list of the policy's names, in its order.

    A name that was given no joint is the joint's own, without `.pos`, `_rad` or `_m`.

    Attributes:
        names: of the joints, in ROS.
    """

    def __init__(self, policy_names: Sequence[str], given: Mapping[str, Joint]) -> None:
        """Raises RosError for two numbers of one joint."""
        joints = [given.get(name, Joint(_bare(name))) for name in policy_names]
        self.names = tuple(joint.name for joint in joints)
        self._factors = np.array([joint.factor for joint in joints], np.float64)
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise RosError(f"two of the policy's numbers are the joint {', '.join(twice)}")

    def to_ros(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns positions [n, J] (rad or m) of the policy's numbers [n, J]."""
        return values.astype(np.float64) * self._factors

    def to_policy(self, positions: Sequence[float]) -> NDArray[np.float32]:
        """Returns the policy's numbers [J] of positions [J] (rad or m)."""
        return (np.asarray(positions, np.float64) / self._factors).astype(np.float32)


def _bare(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


def unknown_joint(name: str, known: Iterable[str]) -> str:
    """Says which of the joints that are known a missing one may be."""
    names = sorted(known)
    if not names:
        return ""
    closest = max(names, key=lambda other: likeness(name, other))
    return f"there are {', '.join(names)}; perhaps --joint POLICY'S={closest}"
