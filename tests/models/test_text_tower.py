from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dual_checkpoints import Reference, dual_checkpoint, packed_items
from embedway.errors import UnsupportedCheckpoint
from embedway.models.checkpoint import read_spec
from embedway.models.dual_encoder_config import read_dual_encoder_config
from embedway.models.dual_encoder_loading import load_dual_encoder
from embedway.models.text_tower import Padded, ToEndOfText, text_reading

if TYPE_CHECKING:
    from pathlib import Path

    from embedway.models.text_tower import TextReading


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def reading_of(folder: Path) -> TextReading:
    spec = read_spec(folder, name="tiny")
    return text_reading(spec, read_dual_encoder_config(spec))


def test_clip_pools_at_the_first_end_of_text() -> None:
    assert ToEndOfText(9).pooled(ids(1, 5, 9, 9)) == 2


def test_old_clip_folders_pool_at_the_largest_id() -> None:
    assert ToEndOfText(2).pooled(ids(1, 2, 99, 4, 99)) == 2


def test_ids_without_an_end_of_text_are_pooled_at_their_last_token() -> None:
    assert ToEndOfText(9).pooled(ids(1, 5, 7)) == 2


def test_siglip_reads_its_texts_padded() -> None:
    assert Padded(5, 7, is_left=False).read(ids(1, 2)).tolist() == [1, 2, 7, 7, 7]
    assert Padded(5, 7, is_left=True).read(ids(1, 2)).tolist() == [7, 7, 7, 1, 2]
    assert Padded(5, 7, is_left=True).pooled(ids(7, 7, 7, 1, 2)) == 4


def test_the_tokenizer_names_the_padding_not_config_json(tmp_path: Path) -> None:
    folder = dual_checkpoint("siglip2", tmp_path, text={"pad_token_id": 1})
    assert reading_of(folder) == Padded(64, 0, is_left=False)


def test_padding_goes_where_the_tokenizer_puts_it(tmp_path: Path) -> None:
    folder = dual_checkpoint("siglip", tmp_path)
    change(folder / "tokenizer_config.json", padding_side="left", pad_token={"content": "</s>"})
    assert reading_of(folder) == Padded(64, 1, is_left=True)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: Path) -> None:
    folder = dual_checkpoint("siglip", tmp_path)
    change(folder / "tokenizer_config.json", pad_token="<nowhere>")
    with pytest.raises(UnsupportedCheckpoint, match="names no 'pad_token' to pad with"):
        reading_of(folder)


def test_the_end_of_text_of_old_folders_gives_transformers_vectors(tmp_path: Path) -> None:
    folder = dual_checkpoint("clip", tmp_path, text={"eos_token_id": 2})
    spec = read_spec(folder, name="tiny")
    reference = Reference(folder)
    model = load_dual_encoder(spec, dtype="float32", device="cpu", threads=1)
    text = reference.tokenizer("a quick brown fox").input_ids
    np.testing.assert_allclose(model.embed(packed_items([(text, ())]))[0], reference.text(text), atol=2e-5)


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
