"""What a training process asks of the C library's allocator."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = -1


def keep_freed_memory() -> bool:
    """Let what a step frees serve the next one, instead of going back to the system; whether that could be asked for.

    A step makes and frees pre-activations and gradients of 10 to 1000 MB. glibc returns blocks above 32 MB at once, and every page
    that is touched anew costs more than what is done with it: a step of d_model 1024, d_sae 8192, batch 1024 takes 1.3 times
    as long (benchmarks/README.md). The process keeps the memory of its largest step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
