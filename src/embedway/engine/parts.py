"""A request with many pixels, sent in parts: one message of all would hold the event loop, and the engine's I/O thread,
for seconds, and with them every other request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedway.engine.in_flight import EmbedResult
from embedway.packed_sequences import PackedSequences

PART_BYTES = 1 << 20
"""Of pixels: some 2 ms at either end"""


def parts_of(sequences: PackedSequences) -> list[PackedSequences]:
    """The request's sequences, in order: each part has at most PART_BYTES of pixels, or one sequence."""
    if not sequences.visuals:
        return [sequences]
    cuts, num_bytes = [0], 0
    for i in sorted(sequences.visuals):
        own = sum(visual.num_bytes for visual in sequences.visuals[i])
        if num_bytes and num_bytes + own > PART_BYTES:
            cuts.append(i)
            num_bytes = 0
        num_bytes += own
    if len(cuts) == 1:
        return [sequences]
    return [sequences.part(start, stop) for start, stop in zip(cuts, [*cuts[1:], sequences.num_sequences], strict=True)]


def joined(results: Sequence[EmbedResult]) -> EmbedResult:
    """The result of the request whose parts these are of."""
    return EmbedResult(
        np.concatenate([result.vectors for result in results]),
        queue_seconds=max(result.queue_seconds for result in results),
        compute_seconds=max(result.compute_seconds for result in results),
    )
