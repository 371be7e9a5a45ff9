"""What a servo process asks of the operating system, as far as it is granted."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import threading
from enum import IntEnum

_NICE = -15
_MCL_CURRENT, _MCL_FUTURE = 1, 2


class Role(IntEnum):
    """What a thread does, and its priority under SCHED_FIFO (kernel threads of interrupts have 50
    to 99 on PREEMPT_RT).

    ur-rtde waits for its own receivers in loops that hardly sleep: at the same priority, on one
    processor, these would never run. And whoever looks whether all others hang must not wait.
    """

    ASIDE = 59  # what the loop does not wait for
    LOOP = 60
    RECEIVE = 61  # ur-rtde's own threads
    WATCH = 62


def make_ordinary() -> None:
    """Gives up a real-time priority that was inherited: while ur-rtde connects, it waits in loops
    that never sleep, and its receivers would inherit the same priority."""
    if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def take_priority(role: Role) -> None:
    """Gives the calling thread the priority of its role, where the one that started it has one."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(role))


def make_realtime(cpu: int | None) -> list[str]:
    """Asks for priority, locked memory and one processor, for all threads that there are: the
    calling one is the loop, all others are ur-rtde's.

    Returns:
        What was granted and what was not.
    """
    said = [_raise_priority(), _lock_memory()]
    if cpu is not None:
        said.append(_pin_to(cpu))
    return said


def stop_collecting() -> None:
    """Ends garbage collection from here on: the loop makes no cycles, and a sweep takes its
    time."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _raise_priority() -> str:
    try:
        own = threading.get_native_id()
        # First the highest: where the limit lies between them, none is to have any.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(max(Role)))
        for thread in _threads():
            role = Role.LOOP if thread == own else Role.RECEIVE
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(role))
        return f"scheduled as SCHED_FIFO {Role.LOOP:d}"
    except OSError as error:
        refused = error.strerror
    try:
        for thread in _threads():
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)
        return f"SCHED_FIFO not granted ({refused}), niceness {_NICE} instead"
    except OSError:
        return f"neither SCHED_FIFO nor a niceness below 0 granted ({refused})"


def _lock_memory() -> str:
    # Under a limit, locking what comes later would let later allocations fail.
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        return "memory not locked: there is a limit to it (ulimit -l)"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        return f"memory not locked: {os.strerror(ctypes.get_errno())}"
    return "memory locked"


def _pin_to(cpu: int) -> str:
    try:
        for thread in _threads():
            os.sched_setaffinity(thread, {cpu})
    except OSError as error:
        return f"not bound to processor {cpu}: {error.strerror}"
    return f"bound to processor {cpu}"
