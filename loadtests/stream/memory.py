"""Keep the garbage collector from stopping the world in the middle of a measurement."""

from __future__ import annotations

import gc

__all__ = ["settle_memory"]


def settle_memory() -> None:
    """Collect once, then take all that exists out of later collections.

    A full collection walks every live object, some 50 ms for a loaded program, in which nothing is
    sent. After this it walks only what the load itself has made. To be called when a load starts.
    """
    gc.unfreeze()  # what an earlier load left behind
    gc.collect()
    gc.freeze()
