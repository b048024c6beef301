"""Tells the C library to keep memory that is freed, up to a limit, for what is allocated next.

A window needs as much memory as the one before, for arrays of megabytes that live for milliseconds. By default each of
these is mapped anew, and the kernel takes longer to clear its pages than numpy to fill them.
"""

from __future__ import annotations

import ctypes

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# The greatest size that glibc takes from the heap; larger ones are mapped.
_HEAP_BYTES = 32 << 20
# What is free at the end of the heap beyond this goes back.
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Set what is said above, where the C library has it (glibc), for the whole process: one heap for all threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
