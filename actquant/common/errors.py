"""Every error that bad input raises. A message says what was wrong, where, and what is right."""

LONGEST_QUOTE = 300
"""Letters of a library's message that are passed on."""


class ActquantError(Exception):
    """Base of all errors that a user can cause and mend; the CLI prints it without a traceback."""

    exit_code = 1


class UsageError(ActquantError):
    """A command is asked for what cannot be, whatever the files hold: a wrong option or path."""

    exit_code = 2


class OutputError(ActquantError):
    """An output cannot be written: no permission, no space."""


class BusyError(ActquantError):
    """Another process writes the same file, or works in the same folder."""


class CheckpointError(ActquantError):
    """A checkpoint folder is missing, incomplete or of a family that is not supported."""


class DatasetError(ActquantError):
    """A dataset is missing or its features do not match the policy."""


class CaptureError(ActquantError):
    """A policy stage could not be turned into a program."""


class UnsupportedOperatorError(CaptureError):
    """A captured graph holds an operator the runtime does not have."""


class ParityError(ActquantError):
    """The captured program does not compute what PyTorch computes."""


class CalibrationError(ActquantError):
    """Calibration met a NaN or an infinity, or too few samples."""


class CacheError(ActquantError):
    """The cache of compressions does not hold what is asked for."""


class BudgetError(ActquantError):
    """The bit budget cannot be met."""


class QuantizationError(ActquantError):
    """A tensor cannot be encoded in the wanted type."""


class ModelFileError(ActquantError):
    """A GGUF is missing, truncated, foreign or of a newer format."""


class EvaluationError(ActquantError):
    """An evaluation asks for what does not exist, or its results cannot be compared."""


class SimulatorError(EvaluationError):
    """A simulator failed: nothing can be said of the policy."""


class SchedulingError(ActquantError):
    """Chunks of actions are asked for in a way that the policy does not support."""


class DeployError(ActquantError):
    """A deployment cannot begin, or had to end: what robot and policy lack, or what failed."""


class NotAllowedError(DeployError):
    """Motion is not allowed: a check failed, or nobody said yes."""

    exit_code = 3


class RobotError(DeployError):
    """A robot or a camera gave what cannot be used, or cannot be reached."""


class StaleStateError(RobotError):
    """The newest measurement or picture is too old to act upon."""


class RefusedError(RobotError):
    """An action that the robot does not carry out; `reasons` has all of them, one sentence each."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        super().__init__("; ".join(reasons))


class StoppedError(RobotError):
    """The robot was stopped and stays so until an operator allows it to move again."""


class RosError(ActquantError):
    """A policy cannot act over ROS: what the command, ROS and the policy lack of each other."""


class RecordingError(DeployError):
    """A recording cannot be written or read: a full disk, or a dataset with other features."""


def brief(error: BaseException) -> str:
    """Returns the first line of what a library says, without the page that may follow it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= LONGEST_QUOTE else f"{lines[0][:LONGEST_QUOTE]}…"
