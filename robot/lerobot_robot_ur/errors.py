"""What can go wrong with an arm. A message names the culprit and what would be right."""

from __future__ import annotations

from collections.abc import Iterable


class RobotError(Exception):
    """Base of all errors of this package."""


class ConfigError(RobotError):
    """Settings that cannot be right; the message lists all of them at once.

    Attributes:
        problems: one sentence each.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class ConnectionFailed(RobotError):
    """The controller, the gripper, a camera or a service of theirs cannot be reached or refuses."""


class StaleState(RobotError):
    """The newest measurement is too old to act upon."""


class Refused(RobotError):
    """A target that must not reach the arm.

    Attributes:
        reasons: all of them, one sentence each, with the joint or link, its value and its limit.
    """

    def __init__(self, reasons: str | Iterable[str]):
        self.reasons = [reasons] if isinstance(reasons, str) else list(reasons)
        super().__init__("; ".join(self.reasons))

    def __reduce__(self) -> tuple[type[Refused], tuple[list[str]]]:
        return type(self), (self.reasons,)


class Stopped(RobotError):
    """The arm was stopped and stays so until an operator allows it to move again.

    Attributes:
        kind: a short name of the cause, for programs (such as `protective_stop`).
        detail: the cause in words.
    """

    def __init__(self, kind: str, detail: str):
        self.kind, self.detail = kind, detail
        super().__init__(f"{kind}: {detail}")

    def __reduce__(self) -> tuple[type[Stopped], tuple[str, str]]:
        return type(self), (self.kind, self.detail)
