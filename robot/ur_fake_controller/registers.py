"""ur-rtde's control program: commands in input registers, answers in output registers.

Input int register 0 holds the command; output int register 0 says 1 (ready) or 2 (done), after
which the client writes 0 again. Some commands are carried out in every cycle in which they stand
there, the others once. The program's own text is not run: this is its protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from . import commands
from .arm import Arm
from .chain import Chain
from .motions import Motion, ProgramError, stop_joints
from .rtde import RtdeServer
from .safety import Safety
from .script import ControlScript
from .variables import REGISTERS
from .world import ArmWorld

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

READY, DONE = 1, 2
STOP_SCRIPT = 255
_STOP_DECELERATION = 4.0  # rad/s^2: what the arm does when its program ends


class RuntimeState(IntEnum):
    STOPPED = 1
    PLAYING = 2
    PAUSED = 4


class Watchdog:
    """rtde_set_watchdog: ends the program where the command register is not written in time."""

    def __init__(self) -> None:
        self.period: float | None = None  # s
        self._written = 0.0

    def set(self, min_frequency: float, now: float) -> None:
        self.period = 1.0 / min_frequency if min_frequency > 0 else None
        self._written = now

    def kick(self, now: float) -> None:
        self._written = now

    def has_expired(self, now: float) -> bool:
        return self.period is not None and now - self._written > self.period


class ControlProgram:
    """The running control script, as its client sees it.

    Attributes:
        state: whether it runs.
        thread: which of its own threads holds the arm: "servo", "speed", "move", "stop" or none.
        payload, centre_of_gravity: kg, m.
        uploads: scripts sent so far.
    """

    def __init__(self, rtde: RtdeServer, arm: Arm, chain: Chain, world: ArmWorld, safety: Safety):
        self.rtde, self.arm, self.chain, self.world = rtde, arm, chain, world
        self.safety = safety
        self.state = RuntimeState.STOPPED
        self.thread: str | None = None
        self.other: str | None = None  # name of somebody else's program that runs
        self.script = ControlScript(0, ())
        self.uploads = 0
        self.payload, self.centre_of_gravity = 0.9, (0.0, 0.0, 0.058)
        self.now = 0.0
        self.watchdog = Watchdog()
        self._executing = self._awaiting_arm = False
        self.stop_delay = self._not_before = 0.0  # s that a stop takes longer; until then
        self._async_writes = self._async_operation = 0
        self._reported: set[int] = set()
        self.select_registers(0)

    def start(self, script: ControlScript) -> None:
        """Runs a freshly uploaded control script, in place of the one before."""
        self.uploads += 1
        self.stop("another script was sent")
        if not self.safety.can_move:
            logger.warning("a script was sent, but the arm cannot move: it is not started")
            return
        self.script = script
        self.select_registers(script.register_offset)
        self._executing = self._awaiting_arm = False
        self.state = RuntimeState.PLAYING
        self.report_async(-1)
        self.write_int(0, READY)

    def stop(self, reason: str) -> None:
        """Ends the program; the arm decelerates."""
        self.other = None
        if self.state == RuntimeState.STOPPED:
            return
        logger.info("the program stops: %s", reason)
        self.state, self.thread = RuntimeState.STOPPED, None
        self.watchdog = Watchdog()
        if self.arm.motion is not None:
            self.arm.motion = stop_joints(self.arm.qd, _STOP_DECELERATION)

    @property
    def shown_state(self) -> RuntimeState:
        """What the controller says: also of a program that is not ur-rtde's."""
        return self.state if self.other is None else RuntimeState.PLAYING

    def pause(self) -> bool:
        if self.state != RuntimeState.PLAYING:
            return False
        self.state = RuntimeState.PAUSED
        self.arm.stop_fast()
        return True

    def resume(self) -> bool:
        """Goes on after a pause; what was moving does not move on."""
        if self.state != RuntimeState.PAUSED or not self.safety.can_move:
            return False
        self.state, self.thread = RuntimeState.PLAYING, None
        self.watchdog.kick(self.now)
        return True

    def forget_motion(self) -> None:
        """Takes note that the arm was put elsewhere: no thread of the program moves it any more."""
        self.thread = None

    def on_input(self, names: dict[str, tuple[float, ...]]) -> None:
        if self._command in names:
            self.watchdog.kick(self.now)

    def tick(self, now: float) -> None:
        """Runs one cycle of the program's main loop."""
        self.now = now
        if self.state != RuntimeState.PLAYING:
            return
        if self.watchdog.has_expired(now):
            self.stop("its watchdog expired")
            return
        try:
            self._cycle()
        except ProgramError as error:
            logger.warning("runtime error of the program: %s", error)
            self.stop("runtime error")

    def _cycle(self) -> None:
        if self.thread in ("move", "stop") and self.arm.motion is None:
            self.thread = None
            self.report_async(-1)
        if self._awaiting_arm:
            if self.arm.motion is not None or self.now < self._not_before:
                return
            self._awaiting_arm = False
            self.write_int(0, DONE)
        command = int(self.rtde.inputs[self._command][0])
        if command in commands.EVERY_CYCLE:
            self._run(command)
            self.write_int(0, READY)
        elif command == 0:
            self._executing = False
            self.write_int(0, READY)
        elif not self._executing:
            self._executing = True
            if command == STOP_SCRIPT:
                self.stop("the client asked for it")
                return
            self._awaiting_arm = self._run(command)
            self._not_before = self.now + self.stop_delay
            if not self._awaiting_arm:
                self.write_int(0, DONE)

    def _run(self, command: int) -> bool:
        """Carries out a command; whether it is done only when the arm has come to rest."""
        handler = commands.HANDLERS.get(command)
        if handler is not None:
            return bool(handler(self))
        if command not in self._reported:
            self._reported.add(command)
            logger.warning("command %d is not emulated; it is answered as done", command)
        return False

    def select_registers(self, offset: int) -> None:
        count = REGISTERS - offset
        self._command = f"input_int_register_{offset}"
        self._in_ints = [f"input_int_register_{offset + i}" for i in range(count)]
        self._in_doubles = [f"input_double_register_{offset + i}" for i in range(count)]
        self._out_ints = [f"output_int_register_{offset + i}" for i in range(count)]
        self._out_doubles = [f"output_double_register_{offset + i}" for i in range(count)]

    def read_int(self, index: int) -> int:
        return int(self.rtde.inputs[self._in_ints[index]][0])

    def read(self, index: int) -> float:
        return self.rtde.inputs[self._in_doubles[index]][0]

    def read_vector(self, index: int, length: int = 6) -> Array:
        return np.array([self.read(index + i) for i in range(length)])

    def write_int(self, index: int, value: int) -> None:
        self.rtde.values[self._out_ints[index]] = (value,)

    def write(self, index: int, value: float) -> None:
        self.rtde.values[self._out_doubles[index]] = (value,)

    def write_vector(self, values: Array) -> None:
        for i, value in enumerate(values):
            self.write(i, float(value))

    def take_arm(self, thread: str) -> None:
        """Lets one of the program's threads move the arm; another one that does is an error."""
        if self.thread in ("servo", "speed") and self.thread != thread:
            raise ProgramError(
                f"another thread ({self.thread}) is already controlling the robot; it must be "
                f"ended by {self.thread}Stop first"
            )
        self.thread = thread

    def move(self, build: Callable[[], Motion], asynchronous: bool) -> bool:
        """Starts a move that replaces any asynchronous one."""
        self.take_arm("move" if asynchronous else "main")
        if not self.safety.can_move:
            return False
        self.arm.motion = build()
        if asynchronous:
            self.report_async(0)
        else:
            self.thread = None
        return not asynchronous

    def report_async(self, progress: int) -> None:
        """Writes the register of asynchronous progress; -1: none runs, 0: one starts."""
        self._async_writes = (self._async_writes + 1) % 128
        if progress == 0:
            self._async_operation = (self._async_operation + 1) % 128
        value = self._async_writes << 16 | self._async_operation << 24
        if progress >= 0:
            value |= min(progress, 0x7FFF) | 0x8000
        self.write_int(2, value)
