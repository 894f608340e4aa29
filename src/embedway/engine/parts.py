"""A request with many pixels, sent in parts: one message of all would hold the event loop, and the engine's I/O thread,
for seconds, and with them every other request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from embedway.engine.in_flight import EmbedResult
from embedway.packed_sequences import PackedSequences

PART_BYTES = 1 << 20
"""Of pixels: some 2 ms at either end"""


def cuts_of(sequences: PackedSequences) -> list[int]:
    """The sequences at which a part begins, but for the first, which begins at 0.

    Each part has at most PART_BYTES of pixels, or one sequence.
    """
    cuts, num_bytes = [], 0
    for i in sorted(sequences.visuals):
        own = sum([visual.num_bytes for visual in sequences.visuals[i]])
        if num_bytes and num_bytes + own > PART_BYTES:
            cuts.append(i)
            num_bytes = 0
        num_bytes += own
    return cuts


def parts_of(sequences: PackedSequences, cuts: Sequence[int]) -> Iterator[PackedSequences]:
    """One after the other, as they are asked for."""
    for start, stop in pairwise((0, *cuts, sequences.num_sequences)):
        yield sequences.part(start, stop)


def joined(results: Sequence[EmbedResult]) -> EmbedResult:
    """The result of the request whose parts these are of. Part by part, so that a thread stops no other for long."""
    vectors = np.empty((sum(len(result.vectors) for result in results), results[0].vectors.shape[1]), np.float32)
    first = 0
    for result in results:
        vectors[first : first + len(result.vectors)] = result.vectors
        first += len(result.vectors)
    vectors.setflags(write=False)
    return EmbedResult(
        vectors,
        queue_seconds=max(result.queue_seconds for result in results),
        compute_seconds=max(result.compute_seconds for result in results),
    )
