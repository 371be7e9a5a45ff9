"""What a servo process asks of the operating system, as far as it is granted."""

from __future__ import annotations

import ctypes
import gc
import os
import resource

_FIFO_PRIORITY = 60  # below the kernel's own threads of interrupts (50 to 99 on PREEMPT_RT)
_NICE = -15
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def make_realtime(cpu: int | None) -> list[str]:
    """Asks for priority, locked memory and one processor, for all threads that there are.

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
        for thread in _threads():
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
        return f"scheduled as SCHED_FIFO {_FIFO_PRIORITY}"
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
