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
    SAFETY = "safety_fault"
    POWER_OFF = "power_off"
    PROGRAM_ENDED = "program_ended"


class RuntimeState(IntEnum):
    """RTDE's runtime_state, as far as it is used here."""

    STOPPED = 1
    PLAYING = 2
    PAUSED = 4


# safety_status_bits (Universal Robots, RTDE guide).
_PROTECTIVE, _SAFEGUARD = 1 << 2, 1 << 4
_EMERGENCY = 1 << 5 | 1 << 6 | 1 << 7
_FAULT = 1 << 8 | 1 << 9
_POWER_ON = 1 << 0  # of robot_status_bits


def classify(safety_bits: int, robot_bits: int, runtime_state: int) -> StopKind | None:
    """Returns why a robot with these status bits cannot be moved by us; None where it can."""
    if safety_bits & _EMERGENCY:
        return StopKind.EMERGENCY
    if safety_bits & _FAULT:
        return StopKind.SAFETY
    if safety_bits & _PROTECTIVE:
        return StopKind.PROTECTIVE
    if safety_bits & _SAFEGUARD:
        return StopKind.SAFEGUARD
    if not robot_bits & _POWER_ON:
        return StopKind.POWER_OFF
    return None if runtime_state == RuntimeState.PLAYING else StopKind.PROGRAM_ENDED
