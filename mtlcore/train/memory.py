"""Keep freed memory for the next step.

glibc hands large freed blocks back to the kernel, and gets them back a page at a time: on a CPU every step's activations would be
faulted in anew. A run owns its process, so it asks glibc to keep them (`mallopt(3)`); elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 * 2**20  # bytes: the most that glibc takes for the second


def keep_freed_memory() -> None:
    """Ask once a process; harmless where the C library knows no `mallopt`."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
