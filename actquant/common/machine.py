"""What this process may use of the machine."""

import os


def usable_cores() -> int:
    """Returns how many cores this process may run on, affinity (taskset, cpusets) respected."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Returns the bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
