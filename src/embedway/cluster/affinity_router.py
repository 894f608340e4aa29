"""Which replica a request goes to: equal ones to one replica, whose cache has their vectors, and those of an adapter to
few, which have it loaded; others where the queue is short.

Each affinity ranks the replicas by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase
hit rates", 1998): as replicas come and go, only their own share moves. The first in its rank is taken while it has not
much more to do than another one; then the shorter queue of two decides, as in Ray's own router.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

if TYPE_CHECKING:
    from collections.abc import Sequence

SLACK = 8
"""Requests that the first in the rank may have more than another replica"""


class AffinityRouter(FIFOMixin, RequestRouter):  # ty: ignore[incompatible-attribute-override] - Ray's own classes
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas; within one the shortest queue is taken."""
        if len(candidate_replicas) < 2:
            return [candidate_replicas]
        two = random.sample(candidate_replicas, 2)
        affinity = affinity_of(pending_request)
        if not affinity:
            return [two]
        names = [replica.replica_id.unique_id for replica in candidate_replicas]
        first = candidate_replicas[best_of(affinity, names)]
        others = [replica for replica in two if replica is not first] or two
        lengths = [self._queue_length(replica) for replica in (first, *others)]
        return [[first], others] if lengths[0] <= min(lengths[1:]) + SLACK else [others, [first]]

    def _queue_length(self, replica: RunningReplica) -> int:
        return self._replica_queue_len_cache.get(replica.replica_id) or 0


def affinity_of(request: PendingRequest | None) -> str:
    """`ModelReplica.answer`'s argument of this name; nothing for requests that are alike everywhere."""
    return "" if request is None else str(request.kwargs.get("affinity", ""))


def best_of(affinity: str, names: Sequence[str]) -> int:
    """The place of the name that this affinity ranks first."""
    weights = [hashlib.blake2b(f"{affinity}|{name}".encode(), digest_size=8).digest() for name in names]
    return max(range(len(names)), key=weights.__getitem__)
