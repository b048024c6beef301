"""Tells the C library to keep memory that is freed, up to a limit, for what is allocated next.

A window needs as much memory as the one before, for arrays of megabytes that live for milliseconds. By default each of
these is mapped anew, and the kernel takes longer to clear its pages than numpy to fill them.

Protobuf would undo it: after each 10,000 blocks of memory that messages leave, which are some thousand batches of
collectors, its compiled part has the C library give back all that is free (upb_trim_allocfunc).
"""

from __future__ import annotations

import ctypes
import sys

from reducer.imported_function import replace_imported

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# The greatest size that glibc takes from the heap; larger ones are mapped.
_HEAP_BYTES = 32 << 20
# What is free at the end of the heap beyond this goes back.
_KEPT_BYTES = 1 << 30
_PROTOBUF = "google._upb._message"


def keep_freed_memory() -> None:
    """Set what is said above, where the C library has it (glibc), for the whole process: one heap for all threads.

    Protobuf is to be loaded before.
    """
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        protobuf = getattr(sys.modules.get(_PROTOBUF), "__file__", None)
        if protobuf is not None:
            replace_imported(protobuf, "malloc_trim", library.labs)  # of 0, which is 0
