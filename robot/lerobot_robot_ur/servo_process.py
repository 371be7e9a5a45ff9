"""The servo process: how it is started, and what it does from its start to its end.

A process of its own, because ur-rtde 1.6.5 can take its process with it, and holds the interpreter
lock in its constructors. It is started afresh (never forked) and imports neither torch nor lerobot.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from .channel import Channel, ChannelClosed
from .config import ArmConfig
from .errors import ConnectionFailed, RobotError, StaleState
from .messages import Failed, Ready, StopReport
from .shared import ServoState, SharedMemory

CONNECT_TIMEOUT_S = 20.0  # ur-rtde waits for ever in its constructors where no state comes
_LEAVE_TIMEOUT_S = 6.0
_END_TIMEOUT_S = 2.0
_REMEMBERED_OUTPUT = 2000  # bytes of what ur-rtde wrote


class ServoProcess:
    """The parent's side.

    Attributes:
        channel: for commands and reports; closed at the other end as soon as the process has ended.
        shared: state, heartbeat and periods.
        notes: what the process was granted by the system.
    """

    def __init__(self, config: ArmConfig):
        self.notes: list[str] = []
        with ExitStack() as stack:
            self.channel, other = Channel.pair()
            stack.callback(self.channel.close)
            with closing(other):
                self.shared = SharedMemory.create()
                stack.callback(self.shared.close)
                self.shared.beat()
                self._output = stack.enter_context(tempfile.TemporaryFile())
                self._process = self._start(other)
            stack.callback(self._end)
            self.channel.send(config)
            self._wait_until_ready(config.ip)
            self._resources = stack.pop_all()

    def _start(self, other: Channel) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(other.fileno()), str(self.shared.descriptor)],
            pass_fds=(other.fileno(), self.shared.descriptor),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            start_new_session=True,  # Ctrl-C in the terminal is the parent's affair
        )

    def _wait_until_ready(self, host: str) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while time.monotonic() < deadline:
            self.shared.beat()
            try:
                for message in self.channel.receive():
                    if isinstance(message, Ready):
                        self.notes = message.notes
                    if isinstance(message, StopReport):
                        raise ConnectionFailed(f"{host}: {message.kind}: {message.detail}")
                    if isinstance(message, Failed):
                        raise ConnectionFailed(message.reason)
            except ChannelClosed:
                raise ConnectionFailed(f"{host}: {self.last_words()}") from None
            if self.notes and self.shared.read() is not None:
                return
            time.sleep(0.005)
        raise ConnectionFailed(
            f"{host}: no connection within {CONNECT_TIMEOUT_S:.0f} s; no state came over RTDE"
        )

    def state(self) -> ServoState:
        """Returns the newest state. Raises StaleState where there is none."""
        state = self.shared.read()
        if state is None:
            raise StaleState("the servo process has written no state")
        return state

    def clock(self) -> float:
        """Returns the arm's own time (s). Raises StaleState."""
        return self.state().clock(time.monotonic())

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_s: float) -> bool:
        """Returns whether the process has ended within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """Returns how the process ended, and the end of what it wrote."""
        self.wait(1.0)
        code = self._process.returncode
        if code is None:
            how = "the servo process hangs"
        elif code < 0:
            how = f"the servo process was ended by {signal.Signals(-code).name}"
        else:
            how = f"the servo process ended with status {code}"
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _REMEMBERED_OUTPUT))
        written = self._output.read().decode("utf-8", "replace").strip()
        return f"{how}; it wrote: {written}" if written else how

    def close(self) -> None:
        """Waits until the process has ended, or ends it; the watchdog then stops the arm."""
        self._resources.close()

    def _end(self) -> None:
        if self._process.poll() is None and not self.wait(_LEAVE_TIMEOUT_S if self.notes else 0.0):
            self._process.kill()
            self._process.wait()


def _import_path() -> dict[str, None]:
    """Returns where this process imports from, so that the other finds the same packages."""
    return dict.fromkeys([str(Path(__file__).parents[1]), *(p for p in sys.path if p)])


def main() -> None:
    """Runs the servo process itself."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel.of(int(sys.argv[1]))
    shared = SharedMemory(int(sys.argv[2]))
    config = _receive_config(channel)
    # Imported late: what is above must be able to report that one of these fails.
    from .guard import Guard
    from .link import Link
    from .models import MODELS
    from .realtime import make_ordinary, make_realtime, stop_collecting
    from .servo import ServoLoop

    model, limits = MODELS[config.model], config.effective_limits
    period = 1.0 / model.rate_hz
    make_ordinary()
    link = None
    try:
        link = Link(config.ip, period, config.servo_lookahead_s, config.servo_gain)
        link.set_up(config.tcp, config.payload_kg, config.payload_cog_m)
        guard = Guard(
            model, limits, config.tcp, config.gripper, config.extra_shapes, config.calibration
        )
        link.check_tool(guard.kinematics)
        loop = ServoLoop(link, limits, guard, period, channel, shared, config.watchdog_s)
        link.set_watchdog(config.watchdog_s)  # last: from now on cycles must not be long in coming
    except RobotError as error:
        if link is not None:  # no watchdog ends the program yet
            link.end_program(was_servoing=False).join(_END_TIMEOUT_S)
        channel.send(Failed(str(error)))
        return
    # Not before: while ur-rtde connects and sets things it waits in loops that never sleep.
    notes = make_realtime(config.servo_cpu)
    stop_collecting()
    channel.send(Ready(notes))
    loop.run()


def _receive_config(channel: Channel) -> ArmConfig:
    while True:
        for message in channel.receive():
            if isinstance(message, ArmConfig):
                return message
        time.sleep(0.001)


if __name__ == "__main__":
    main()
    # Without the destructors of ur-rtde, which wait for half a second each and can crash.
    sys.stdout.flush()
    os._exit(0)
