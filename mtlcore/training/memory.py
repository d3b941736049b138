"""Keep freed memory in the process for the next step.

glibc returns large freed blocks to the kernel. The next step then gets them back one page fault at
a time, which slows down training on a CPU. A training run owns its process, so it asks glibc to
keep them (`mallopt(3)`). On other systems nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 * 2**20  # bytes: the largest M_MMAP_THRESHOLD that glibc accepts


def keep_freed_memory() -> None:
    """Set glibc's thresholds for this process; does nothing if there is no `mallopt`."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
