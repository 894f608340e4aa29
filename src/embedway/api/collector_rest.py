"""Python's garbage collector rests while many requests are under way.

It goes through all that was made lately, and that is every one of them: 40 to 70 ms for 1500 queries, in which the
event loop stands still. It finds nothing, for no request leaves a cycle of references. What else may have left one
waits until there is less to go through, or too much has come.
"""

from __future__ import annotations

import gc

MOST_REQUESTS = 128
"""Under way, with which it still looks: some 10 000 objects, a few milliseconds"""
MOST_OBJECTS = 500_000
"""More than have gone, since it last looked: some 50 MB, if all of them were garbage"""


class CollectorRest:
    """Of one process, which has one event loop with requests."""

    def __init__(self) -> None:
        self._is_resting = False

    def under_way(self, requests: int) -> None:
        """Call it as their number changes."""
        if requests > MOST_REQUESTS:
            if not self._is_resting:
                self._is_resting = gc.isenabled()  # somebody else may have switched it off, and wants it to be off
                gc.disable()
            elif gc.get_count()[0] > MOST_OBJECTS:
                gc.collect()
        elif self._is_resting:
            self._is_resting = False
            gc.enable()
