"""Why the arm stopped: the kinds of `errors.Stopped`, and what the safety bits say."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class StopKind(StrEnum):
    """What stopped the arm; every one of them needs `Arm.recover` before it moves again."""

    REQUESTED = "requested"
    POLICY_LATE = "policy_late"
    PARENT_LOST = "parent_lost"
    STALE = "stale_state"
    DEVIATION = "deviation"
    UNREADABLE = "unreadable_state"
    LINK_LOST = "link_lost"
    PROTECTIVE = "protective_stop"
    EMERGENCY = "emergency_stop"
    SAFEGUARD = "safeguard_stop"
    ENABLING = "enabling_device"
    SAFETY_STOP = "safety_stop"
    SAFETY = "safety_fault"
    POWER_OFF = "power_off"
    PROGRAM_ENDED = "program_ended"


class RuntimeState(IntEnum):
    """RTDE's runtime_state."""

    STOPPING = 0
    STOPPED = 1
    PLAYING = 2
    PAUSING = 3
    PAUSED = 4
    RESUMING = 5


RUNNING_MODE = 7  # robot_mode
_MODES = range(-1, 10)
_PROGRAM_STATES = tuple(RuntimeState)

# safety_status_bits (Universal Robots, RTDE guide; bit 11 in ur_client_library since 2.6).
_NORMAL, REDUCED, _PROTECTIVE, _RECOVERY, _SAFEGUARD = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
_EMERGENCY = 1 << 5 | 1 << 6 | 1 << 7
_FAULT = 1 << 8 | 1 << 9
_STOPPED_FOR_SAFETY, _ENABLING = 1 << 10, 1 << 11
_KNOWN = (1 << 12) - 1
_POWER_ON = 1 << 0  # of robot_status_bits

#: What stops the arm where it is, and not where its motion would have come to rest.
BY_THE_ROBOT = frozenset(
    {
        StopKind.PROTECTIVE,
        StopKind.SAFEGUARD,
        StopKind.EMERGENCY,
        StopKind.ENABLING,
        StopKind.SAFETY_STOP,
        StopKind.DEVIATION,
    }
)
REMEDIES = {
    StopKind.SAFETY_STOP: "the safety system stopped the robot: see the log at the pendant",
    StopKind.ENABLING: "release or hold the three-position enabling device as its mode asks for, "
    "or leave manual mode",
    StopKind.DEVIATION: "look what holds the arm back, or whether its speed is limited elsewhere",
}


def classify(
    safety_bits: int, robot_bits: int, runtime_state: int, robot_mode: int = RUNNING_MODE
) -> StopKind | None:
    """Returns why a robot with this status cannot be moved by us; None where it can.

    A status that is not understood is a reason too.
    """
    for bits, kind in (
        (_EMERGENCY, StopKind.EMERGENCY),
        (_FAULT | _RECOVERY, StopKind.SAFETY),
        (_PROTECTIVE, StopKind.PROTECTIVE),
        (_SAFEGUARD, StopKind.SAFEGUARD),
        (_ENABLING, StopKind.ENABLING),
        (_STOPPED_FOR_SAFETY, StopKind.SAFETY_STOP),
    ):
        if safety_bits & bits:
            return kind
    is_known = robot_mode in _MODES and runtime_state in _PROGRAM_STATES
    if not is_known or safety_bits & ~_KNOWN or not safety_bits & (_NORMAL | REDUCED):
        return StopKind.UNREADABLE
    if not robot_bits & _POWER_ON or robot_mode != RUNNING_MODE:
        return StopKind.POWER_OFF
    return None if runtime_state == RuntimeState.PLAYING else StopKind.PROGRAM_ENDED
