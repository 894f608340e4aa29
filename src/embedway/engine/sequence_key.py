"""By which the engine knows a sequence again: a hash of all that its vector depends on.

Those are its token ids, where pooling begins, the content of its LoRA adapter and its images and videos; the model and
its type are the same for as long as an engine process lives. The hash has 128 bits and a secret of this process, so
that nobody can make two sequences of one key.
"""

from __future__ import annotations

import hashlib
import os
import struct
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING

from embedway.visual import Visual

if TYPE_CHECKING:
    from embedway.engine.engine_request import EngineRequest

_KEYED = hashlib.blake2b(digest_size=16, key=os.urandom(32))


def sequence_keys(request: EngineRequest) -> list[bytes]:
    """The key of each sequence, 16 bytes. A short text takes a microsecond, a MiB of pixels one or two milliseconds."""
    ids = request.token_ids.data.cast("B")
    bounds = request.cu_seqlens.tolist()
    hashes = [*(ref.content_hash for ref in request.refs), ""]  # -1, the base model, finds the last
    choice = repeat(-1) if request.adapter_indices is None else request.adapter_indices.tolist()
    keys: list[bytes] = []
    for i, (start, stop, adapter) in enumerate(zip(bounds, bounds[1:], choice, strict=False)):
        visuals = request.visuals.get(i, ())
        state = _begun(request.pool_start, hashes[adapter], len(visuals)).copy()
        for visual in visuals:
            _add(state, visual)
        state.update(ids[4 * start : 4 * stop])  # the last part of all: its length needs no saying
        keys.append(state.digest())
    return keys


@lru_cache(maxsize=256)
def _begun(pool_start: int, content_hash: str, num_visuals: int) -> hashlib.blake2b:
    """What many sequences begin with, for copies; every part is of a fixed length, or says its length."""
    adapter = content_hash.encode()
    state = _KEYED.copy()
    state.update(struct.pack("<qqq", pool_start, num_visuals, len(adapter)) + adapter)
    return state


def _add(state: hashlib.blake2b, visual: Visual) -> None:
    kind, times = visual.kind.encode(), visual.timestamps
    state.update(struct.pack("<6q", len(kind), len(times), visual.num_tokens, *visual.pixels.shape[:3]))
    state.update(kind + struct.pack(f"<{len(times)}d", *times))
    state.update(visual.pixels.reshape(-1).data)
