"""The folders that sentence-transformers writes and wrote for CLIP, against sentence-transformers itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from checkpoints import TinyDense, write_dense
from dual_checkpoints import Reference, dual_checkpoint, packed_items
from embedway.errors import UnsupportedCheckpoint
from embedway.inputs.tokenizer import TextTokenizer
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_files import missing_files
from embedway.models.dual_encoder_loading import load_dual_encoder
from embedway.models.tokenizer_conversion import convert
from texts import SENTENCES

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["Two cats on a mat", "a photo of the QUICK brown fox, jumping!"]


def with_modules(folder: Path, *modules: tuple[str, str]) -> Path:
    """Add a `modules.json` of (path, class)."""
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listing))
    return folder


def noise() -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (60, 40, 3), np.uint8)
    return Image.fromarray(pixels)


def assert_same_as_sentence_transformers(folder: Path) -> None:
    spec = read_spec(folder, name="tiny")
    assert missing_files(folder) is None
    model = load_dual_encoder(spec, dtype="float32", device="cpu", threads=1)
    ids = TextTokenizer.load(spec).encode(TEXTS, truncate="none", max_length=spec.max_length)
    reference = Reference(folder if spec.folder == str(folder) else folder / "0_CLIPModel")
    ours = model.embed(packed_items([*((text.tolist(), ()) for text in ids), ((), (reference.visual(noise()),))]))
    if spec.normalize:
        ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    theirs: Any = SentenceTransformer(str(folder), device="cpu")
    inputs: list[Any] = [*TEXTS, noise()]
    for vector, item in zip(ours, inputs, strict=True):
        np.testing.assert_allclose(vector, theirs.encode([item])[0], rtol=1e-4, atol=2e-5)


def test_the_older_form_with_a_clip_model_in_a_folder_of_its_own(tmp_path: Path) -> None:
    dual_checkpoint("clip", tmp_path / "0_CLIPModel")
    assert_same_as_sentence_transformers(with_modules(tmp_path, ("0_CLIPModel", "CLIPModel")))


def test_dense_and_normalize_after_the_towers(tmp_path: Path) -> None:
    dual_checkpoint("clip", tmp_path / "0_CLIPModel")
    write_dense(tmp_path / "1_Dense", TinyDense(24), 40, seed=3)
    modules = ("0_CLIPModel", "CLIPModel"), ("1_Dense", "Dense"), ("2_Normalize", "Normalize")
    folder = with_modules(tmp_path, *modules)
    assert read_spec(folder, name="tiny").dimension == 24
    assert_same_as_sentence_transformers(folder)


def test_the_form_that_sentence_transformers_saves_today(tmp_path: Path) -> None:
    plain = dual_checkpoint("clip", tmp_path / "plain")
    SentenceTransformer(str(plain), device="cpu").save(str(tmp_path / "saved"))
    assert "get_text_features" in (tmp_path / "saved" / "sentence_bert_config.json").read_text()
    assert_same_as_sentence_transformers(tmp_path / "saved")


def test_a_pooling_module_after_pooled_vectors_is_refused(tmp_path: Path) -> None:
    dual_checkpoint("clip", tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 40}')
    folder = with_modules(tmp_path, ("", "Transformer"), ("1_Pooling", "Pooling"))
    with pytest.raises(UnsupportedCheckpoint, match=r"modules\.json has a Pooling module after it"):
        read_spec(folder, name="tiny")


def test_images_sent_another_way_than_through_their_tower_are_refused(tmp_path: Path) -> None:
    plain = dual_checkpoint("clip", tmp_path)
    ways = {
        "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
        "image": {"method": "get_image_features", "method_output_name": "last_hidden_state"},
    }
    (plain / "sentence_bert_config.json").write_text(json.dumps({"modality_config": ways}))
    with pytest.raises(UnsupportedCheckpoint, match="does not send image through the model's get_image_features"):
        read_spec(with_modules(plain, ("", "Transformer")), name="tiny")


def test_a_clip_tokenizer_of_vocab_and_merges_is_converted(tmp_path: Path) -> None:
    """Older folders have no tokenizer.json."""
    folder = dual_checkpoint("clip", tmp_path / "model")
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole.model.save(str(folder))
    (folder / "tokenizer.json").unlink()
    convert(folder, tmp_path / "converted")
    made = Tokenizer.from_file(str(tmp_path / "converted" / "tokenizer.json"))
    for text in SENTENCES:
        assert made.encode(text).ids == whole.encode(text).ids
