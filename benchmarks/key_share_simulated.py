"""`benchmarks.key_share` without a machine, whose other work would show: python -m benchmarks.key_share_simulated

The engine's scheduler with the batches that it makes, by a clock that goes on by the time model's predictions.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmarks.key_share import FLOODS, MODEST, Sender
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel
from embedway.engine.fair_share import FairShareQueue
from embedway.engine.scheduler import QueuedRequest, Scheduler

DOCUMENT_TOKENS = 120
FIXED_MS, MS_PER_TOKEN = 1.0, 0.05
"""Of a batch: some 20 000 tokens a second, as MiniLM has on two cores"""
ROUND_TRIP_MS = 1.0
"""From an answer to the same connection's next request"""
SECONDS = 60.0


def documents_per_second(senders: Sequence[Sender], *, by_key: bool) -> list[float]:
    """Of each sender; all send for SECONDS, each connection its next request when the last is answered."""
    model = BatchTimeModel(
        [BatchTime(n, n * k, FIXED_MS + MS_PER_TOKEN * n) for n, k in [(1, 1), (200, 20), (4000, 99)]]
    )
    queue = FairShareQueue[QueuedRequest]() if by_key else None
    scheduler = Scheduler(max_batch_tokens=16384, target_ms=40.0, time_model=model, queue=queue)
    keys = itertools.count()
    coming = [(0.0, next(keys), number) for number, sender in enumerate(senders) for _ in range(sender.connections)]
    heapq.heapify(coming)
    done: Counter[int] = Counter()
    now = 0.0
    while now < SECONDS * 1000:
        while coming and coming[0][0] <= now:
            _, key, number = heapq.heappop(coming)
            cu_seqlens = np.arange(senders[number].documents + 1, dtype=np.int32) * DOCUMENT_TOKENS
            ids = np.zeros(cu_seqlens[-1], dtype=np.int32)
            scheduler.add(QueuedRequest(key, ids, cu_seqlens, key_number=number))
        slices = scheduler.next_batch()
        if not slices:
            now = coming[0][0]
            continue
        now += FIXED_MS + MS_PER_TOKEN * sum(len(piece.token_ids) for piece in slices)
        for piece in slices:
            number = piece.request.key_number
            done[number] += piece.stop - piece.start
            if piece.stop == piece.request.num_sequences:
                heapq.heappush(coming, (now + ROUND_TRIP_MS, next(keys), number))
    return [done[number] / SECONDS for number in range(len(senders))]


def main() -> None:
    print("| shared by | flood: connections × documents | modest key | alone, documents/s | beside | flood | ratio |")
    print("|---|---|---|---|---|---|---|")
    modest_ones = (*MODEST, Sender("modest", 4, 64))
    for shared_by, modest, flood in itertools.product(("requests", "keys"), modest_ones, FLOODS):
        (alone,) = documents_per_second([modest], by_key=False)
        beside, of_flood = documents_per_second([modest, flood], by_key=shared_by == "keys")
        speeds = f"{alone:.0f} | {beside:.0f} | {of_flood:.0f} | {beside / alone:.2f}"
        print(f"| {shared_by} | {flood} | {modest} | {speeds} |", flush=True)


if __name__ == "__main__":
    main()
