"""A request with many pixels, sent in parts: one message of all would hold the event loop, and the engine's I/O thread,
for seconds, and with them every other request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import numpy as np

from embedway.engine.in_flight import EmbedResult
from embedway.packed_sequences import PackedSequences

PART_BYTES = 1 << 20
"""Of pixels: some 2 ms at either end"""


def parts_of(sequences: PackedSequences) -> Iterator[PackedSequences] | None:
    """One after the other, as they are asked for: there may be thousands. None: the request is not to be parted."""
    cuts = _cuts_of(sequences)
    first = next(cuts, None)
    return None if first is None else _between(sequences, chain((0, first), cuts, (sequences.num_sequences,)))


def _between(sequences: PackedSequences, cuts: Iterable[int]) -> Iterator[PackedSequences]:
    for start, stop in pairwise(cuts):
        yield sequences.part(start, stop)


def _cuts_of(sequences: PackedSequences) -> Iterator[int]:
    """The sequences at which a part begins, but for the first, which begins at 0.

    Each part has at most PART_BYTES of pixels, or one sequence.
    """
    num_bytes = 0
    for i in sorted(sequences.visuals):
        own = sum([visual.num_bytes for visual in sequences.visuals[i]])
        if num_bytes and num_bytes + own > PART_BYTES:
            yield i
            num_bytes = 0
        num_bytes += own


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
