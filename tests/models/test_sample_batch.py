from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.models.sample_batch import sample_batch, sample_token_ids

if TYPE_CHECKING:
    from pathlib import Path


def test_the_sample_stays_in_the_vocabulary_and_avoids_padding(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path))
    ids = sample_token_ids(500, msgspec.structs.replace(spec, vocab_size=37, pad_token_id=1))
    assert ids.min() >= 0
    assert ids.max() < 37
    assert 1 not in ids
    assert 0 not in sample_token_ids(500, msgspec.structs.replace(spec, vocab_size=37, pad_token_id=0))


def test_sample_sequences_are_no_longer_than_the_model_reads(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path, max_seq_length=8))
    batch = sample_batch([3, 20], spec)
    assert batch.cu_seqlens.tolist() == [0, 3, 11]
    assert len(batch.token_ids) == 11
