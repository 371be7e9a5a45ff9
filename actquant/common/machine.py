"""What this process may use of the machine."""

import ctypes
import os


def usable_cores() -> int:
    """Returns how many cores this process may run on, affinity (taskset, cpusets) respected."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Returns the bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def return_freed_memory() -> None:
    """Returns to the system what was freed and lies between what is in use.

    glibc keeps it: after passes through a large policy that are gigabytes. Does nothing with
    another C library.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
