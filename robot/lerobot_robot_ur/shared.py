"""Memory that the servo process and its parent share: state, heartbeat, histogram of periods.

The state record carries a checksum, so that a reader never takes a half-written one for true; the
other cells are single aligned words.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RECORD = struct.Struct("<3d6d6d6d6d3d9q")
_CHECK = struct.Struct("<I")
_STATE_AT, _WORDS_AT, _BINS_AT = 0, 1024, 2048
BIN_S = 2e-5  # width of a bin of the histogram of periods
BINS = 5000  # up to 0.1 s; the last one takes what is longer
_SIZE = _BINS_AT + 8 * BINS
_READ_ATTEMPTS = 200


class Phase(IntEnum):
    """What the servo loop does."""

    IDLE = 0  # the program runs, the controller itself keeps the arm where it is
    SERVOING = 1  # targets are sent, in motion or holding
    RELEASING = 2  # servoStop or a change of freedrive, in a thread: nothing is sent that moves
    STOPPING = 3  # decelerating along the trajectory
    ENDING = 4  # servoStop and the end of the program, in a thread
    STOPPED = 5  # no motion before a new process
    FREE = 6  # led by hand


@dataclass(frozen=True)
class ServoState:
    """What the servo process knows, in one record.

    Attributes:
        time_s: time.monotonic() when the record was written.
        timestamp_s: the controller's clock in the newest packet from it.
        age_s: how old that packet was when the record was written.
        joints, speeds: measured positions [6] (rad) and speeds [6] (rad/s).
        commanded: position [6] (rad) last sent to the controller, or measured where none was.
        force: force and torque [6] at the tool (N, Nm, base axes), as the controller gives them.
        speed_scaling: the controller's own, 0 to 1.
        clock_s, clock_rate: the arm's own time when the record was written, and how fast it passed.
        phase: a `Phase`.
        sequence: number of the newest command that was taken over.
        digital_inputs, digital_outputs: a bit each, as RTDE has them.
        at_rest: whether the commanded motion has ended, and the measured one.
    """

    time_s: float
    timestamp_s: float
    age_s: float
    joints: Array
    speeds: Array
    commanded: Array
    force: Array
    speed_scaling: float
    clock_s: float
    clock_rate: float
    phase: int
    sequence: int
    at_rest: bool
    robot_mode: int
    safety_bits: int
    robot_bits: int
    runtime_state: int
    digital_inputs: int
    digital_outputs: int

    def clock(self, now: float) -> float:
        """Returns the arm's own time (s) at `now` (time.monotonic)."""
        return self.clock_s + self.clock_rate * (now - self.time_s)


@dataclass(frozen=True)
class Jitter:
    """Periods of the servo loop since its start (ms): percentiles, largest, and how many were late.

    `late` counts the cycles that came more than half a period too late.
    """

    cycles: int
    rate_hz: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    late: int


class SharedMemory:
    """The block, in an anonymous file that both processes map."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _SIZE)
        words = np.frombuffer(self._map, np.float64, 4, _WORDS_AT)
        self._heartbeat, self._longest, self._first, self._last = (
            words[i : i + 1] for i in range(4)
        )
        self._counts = np.frombuffer(self._map, np.int64, 2, _WORDS_AT + 64)
        self._bins = np.frombuffer(self._map, np.int64, BINS, _BINS_AT)

    @classmethod
    def create(cls) -> SharedMemory:
        descriptor = os.memfd_create("lerobot_robot_ur")
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    def close(self) -> None:
        """Gives up the descriptor; the mapping goes with the last view of it."""
        os.close(self.descriptor)

    def write(self, s: ServoState) -> None:
        """Replaces the record."""
        data = _RECORD.pack(
            s.time_s, s.timestamp_s, s.age_s, *s.joints, *s.speeds, *s.commanded, *s.force,
            s.speed_scaling, s.clock_s, s.clock_rate, s.phase, s.sequence, s.at_rest, s.robot_mode,
            s.safety_bits, s.robot_bits, s.runtime_state, s.digital_inputs, s.digital_outputs,
        )  # fmt: skip
        self._map[_STATE_AT : _STATE_AT + _RECORD.size + 4] = data + _CHECK.pack(zlib.crc32(data))

    def read(self) -> ServoState | None:
        """Returns the newest whole record; None where there is none yet."""
        for attempt in range(_READ_ATTEMPTS):
            data = self._map[_STATE_AT : _STATE_AT + _RECORD.size]
            check = self._map[_STATE_AT + _RECORD.size : _STATE_AT + _RECORD.size + 4]
            if _CHECK.unpack(check)[0] == zlib.crc32(data):
                return _unpack(data)
            if attempt:
                time.sleep(1e-5)
        return None

    def beat(self) -> None:
        """Says that the parent is alive."""
        self._heartbeat[0] = time.monotonic()

    @property
    def heartbeat_s(self) -> float:
        """time.monotonic() of the parent's last sign of life."""
        return float(self._heartbeat[0])

    def start_periods(self, now: float) -> None:
        self._first[0] = self._last[0] = now

    def add_period(self, seconds: float, now: float, nominal_s: float) -> None:
        """Counts one period that ended at `now`."""
        self._bins[min(int(seconds / BIN_S), BINS - 1)] += 1
        self._counts[0] += 1
        self._counts[1] += seconds > 1.5 * nominal_s
        self._last[0] = now
        if seconds > self._longest[0]:
            self._longest[0] = seconds

    def jitter(self) -> Jitter:
        bins = self._bins.copy()
        cycles, elapsed = int(bins.sum()), float(self._last[0] - self._first[0])
        if not cycles:
            return Jitter(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
        shares = np.cumsum(bins) / cycles
        longest = float(self._longest[0])
        p50, p99, p999 = (
            1e3 * min((int(np.searchsorted(shares, share)) + 0.5) * BIN_S, longest)
            for share in (0.5, 0.99, 0.999)
        )
        rate = cycles / elapsed if elapsed > 0 else 0.0
        return Jitter(cycles, rate, p50, p99, p999, 1e3 * longest, int(self._counts[1]))


def _unpack(data: bytes) -> ServoState:
    v = _RECORD.unpack(data)
    return ServoState(
        time_s=v[0],
        timestamp_s=v[1],
        age_s=v[2],
        joints=np.array(v[3:9]),
        speeds=np.array(v[9:15]),
        commanded=np.array(v[15:21]),
        force=np.array(v[21:27]),
        speed_scaling=v[27],
        clock_s=v[28],
        clock_rate=v[29],
        phase=v[30],
        sequence=v[31],
        at_rest=bool(v[32]),
        robot_mode=v[33],
        safety_bits=v[34],
        robot_bits=v[35],
        runtime_state=v[36],
        digital_inputs=v[37],
        digital_outputs=v[38],
    )
