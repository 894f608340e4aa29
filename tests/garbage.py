"""What only the garbage collector frees: objects that refer to each other in a circle."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Generator


@contextlib.contextmanager
def garbage() -> Generator[Counter[str]]:
    """The collector stands still in the block; then the counter has, by type, what was left for it there.

    Quick within `frozen_heap`.
    """
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(thing).__qualname__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@contextlib.contextmanager
def frozen_heap() -> Generator[None]:
    """The collector looks at nothing that was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
