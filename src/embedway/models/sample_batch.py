"""Short sequences made up for a model's start-up checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedway.models.interface import PackedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from embedway.model_spec import ModelSpec


def sample_batch(lengths: Sequence[int], spec: ModelSpec) -> PackedBatch:
    """Sequences of these lengths, or as long as the model reads."""
    possible = [min(length, spec.max_length) for length in lengths]
    cu_seqlens = np.cumsum([0, *possible], dtype=np.int32)
    return PackedBatch(sample_token_ids(sum(possible), spec), cu_seqlens, np.zeros(len(possible), np.int32))


def sample_token_ids(count: int, spec: ModelSpec) -> npt.NDArray[np.int32]:
    """int32 [count]: ids spread over the vocabulary, none of them padding (some models skip it in their positions) or
    a placeholder for a part of an image or video."""
    step = max(1, int(spec.vocab_size * 0.618))  # the golden ratio visits a range evenly, however many ids are drawn
    ids = (np.arange(1, count + 1) * step) % spec.vocab_size
    chat = spec.vision.chat if spec.vision else None
    placeholders = () if chat is None else (chat.image_token_id, chat.video_token_id)
    unwanted = [token_id for token_id in (spec.pad_token_id, *placeholders) if token_id is not None]
    for _ in unwanted:
        ids = np.where(np.isin(ids, unwanted), (ids + 1) % spec.vocab_size, ids)
    return ids.astype(np.int32)
