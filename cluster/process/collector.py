"""Memory of a process that routes or follows events: when garbage is collected, and what is given back.

Reference counts free nearly everything here. The collector looks through all long-lived objects again and
again (the mirrors of 64 engines, or an imported transformers): stops of up to 130 ms were measured.
"""

import atexit
import ctypes
import gc
import sys

THRESHOLDS = (50_000, 20, 100)
"""Python's own are 700, 10, 10: young objects before a collection, and collections before an older one."""


M_MMAP_THRESHOLD = -3
"""The number of this parameter for glibc's ``mallopt``."""
OWN_MAPPING_BYTES = 1024 * 1024


def give_back_large_blocks() -> None:
    """Let memory for bodies and texts of a megabyte and more go back to the system as soon as it is freed.

    glibc raises the size from which on it does so with every such block that is freed, up to 32 MiB; what is
    smaller stays with the process, in pieces: 160 MiB after seven requests of 15 MiB, none of it with this.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)


def calm_collector() -> None:
    """Leave out of all later collections what lives now, and collect less often. Call it again after large
    imports. It takes no time; what is garbage now, and not freed by its reference count, stays for good.
    """
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)  # else libraries complain at the end about what was never collected
    gc.set_threshold(*THRESHOLDS)
