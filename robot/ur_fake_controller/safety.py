"""Power, brakes and the safety state, with the modes and bits that RTDE reports of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum

logger = logging.getLogger(__name__)

POWER_TIME = 0.5  # s from `power on` to idle, and from `brake release` to running


class RobotMode(IntEnum):
    DISCONNECTED = 0
    POWER_OFF = 3
    POWER_ON = 4
    IDLE = 5
    RUNNING = 7


class SafetyMode(IntEnum):
    NORMAL = 1
    REDUCED = 2
    PROTECTIVE_STOP = 3
    SAFEGUARD_STOP = 5
    ROBOT_EMERGENCY_STOP = 7


#: Bits of safety_status_bits that each mode sets (0 normal, 1 reduced, 2 protective stopped,
#: 4 safeguard stopped, 6 robot emergency stopped, 7 emergency stopped, 10 stopped due to safety).
_SAFETY_BITS = {
    SafetyMode.NORMAL: 1 << 0,
    SafetyMode.REDUCED: 1 << 1,
    SafetyMode.PROTECTIVE_STOP: 1 << 2 | 1 << 10,
    SafetyMode.SAFEGUARD_STOP: 1 << 4 | 1 << 10,
    SafetyMode.ROBOT_EMERGENCY_STOP: 1 << 6 | 1 << 7 | 1 << 10,
}


class Safety:
    """The safety state; times are the controller's own, in s.

    Attributes:
        on_halt: called when the arm must stop at once (protective stop, safeguard stop).
        on_power_loss: called when the arm loses power (emergency stop, `power off`).
    """

    def __init__(
        self,
        unlock_delay: float,
        on_halt: Callable[[SafetyMode], None],
        on_power_loss: Callable[[], None],
    ):
        self.robot_mode = RobotMode.RUNNING
        self.reason = ""  # of the last protective stop
        self._unlock_delay = unlock_delay
        self._on_halt, self._on_power_loss = on_halt, on_power_loss
        self._now = 0.0
        self._protective_since: float | None = None
        self._emergency = self._safeguard = False
        self.is_reduced = False
        self.other_bits = 0  # that are set besides those of the mode
        self._transition: tuple[float, RobotMode] | None = None

    def tick(self, now: float) -> None:
        self._now = now
        if self._transition is not None and now >= self._transition[0]:
            self.robot_mode = self._transition[1]
            self._transition = None

    @property
    def mode(self) -> SafetyMode:
        if self._emergency:
            return SafetyMode.ROBOT_EMERGENCY_STOP
        if self._protective_since is not None:
            return SafetyMode.PROTECTIVE_STOP
        if self._safeguard:
            return SafetyMode.SAFEGUARD_STOP
        return SafetyMode.REDUCED if self.is_reduced else SafetyMode.NORMAL

    @property
    def status_bits(self) -> int:
        return _SAFETY_BITS[self.mode] | self.other_bits

    @property
    def is_powered(self) -> bool:
        return self.robot_mode >= RobotMode.POWER_ON

    @property
    def can_move(self) -> bool:
        return self.robot_mode == RobotMode.RUNNING and self.mode <= SafetyMode.REDUCED

    def protective_stop(self, reason: str) -> None:
        if self._protective_since is None:
            logger.warning("protective stop: %s", reason)
            self._protective_since, self.reason = self._now, reason
            self._on_halt(SafetyMode.PROTECTIVE_STOP)

    def emergency_stop(self) -> None:
        """Presses the emergency stop button; it stays pressed."""
        self._emergency = True
        self._lose_power()

    def safeguard_stop(self) -> None:
        """Opens the safeguard input; it stays open."""
        if not self._safeguard:
            self._safeguard = True
            self._on_halt(SafetyMode.SAFEGUARD_STOP)

    def release(self) -> None:
        """Releases the emergency stop button and closes the safeguard input.

        After an emergency stop the arm stays without power; a protective stop stays.
        """
        self._emergency = self._safeguard = self.is_reduced = False
        self.other_bits = 0

    def power_off(self) -> None:
        self._lose_power()

    def unlock(self) -> bool:
        """Unlocks a protective stop; False while it is too recent."""
        since = self._protective_since
        if since is not None and self._now - since < self._unlock_delay:
            return False
        self._protective_since = None
        return True

    def power_on(self) -> None:
        if self.robot_mode == RobotMode.POWER_OFF and not self._emergency:
            self.robot_mode = RobotMode.POWER_ON
            self._transition = (self._now + POWER_TIME, RobotMode.IDLE)

    def release_brakes(self) -> None:
        """Releases the brakes, with power first where it is off."""
        if self.robot_mode != RobotMode.RUNNING and not self._emergency:
            steps = 1 if self.robot_mode == RobotMode.IDLE else 2
            self.robot_mode = max(self.robot_mode, RobotMode.POWER_ON)
            self._transition = (self._now + steps * POWER_TIME, RobotMode.RUNNING)

    def _lose_power(self) -> None:
        self.robot_mode, self._transition = RobotMode.POWER_OFF, None
        self._protective_since = None
        self._on_power_loss()
