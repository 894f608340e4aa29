from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dual_checkpoints import DUAL_FAMILIES, Reference, dual_checkpoint, packed_items
from embedway.errors import AdapterRefused
from embedway.inputs.tokenizer import TextTokenizer
from embedway.models.adapter_checkpoint import AdapterWeights
from embedway.models.checkpoint import read_spec
from embedway.models.dual_encoder import unit
from embedway.models.dual_encoder_loading import load_dual_encoder
from midst import Midst
from texts import SENTENCES, varied_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.model_spec import ModelSpec
    from embedway.models.dual_encoder import DualEncoder
    from embedway.visual import Visual

SIZES = [(32, 32), (50, 40), (37, 90), (200, 120), (9, 9), (64, 63)]
TEXTS = [*SENTENCES, *varied_texts(20), "The quick brown fox, a lazy dog; 2 cats? " * 20]


class Loaded(NamedTuple):
    spec: ModelSpec
    model: DualEncoder
    reference: Reference
    images: list[Image.Image]
    visuals: list[Visual]
    ids: list[list[int]]


@pytest.fixture(scope="module", params=DUAL_FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = dual_checkpoint(request.param, tmp_path_factory.mktemp("dual") / "model")
    spec = read_spec(folder, name="tiny")
    model = load_dual_encoder(spec, dtype="float32", device="cpu", threads=1)
    reference = Reference(folder)
    images = pictures()
    tokenizer = TextTokenizer.load(spec)
    ids = [ids.tolist() for ids in tokenizer.encode(TEXTS, truncate="end", max_length=spec.max_length)]
    return Loaded(spec, model, reference, images, [reference.visual(image) for image in images], ids)


def pictures() -> list[Image.Image]:
    """Of many sizes, each with patterns of its own."""
    random = np.random.default_rng(1)
    coarse = [random.integers(0, 256, (5, 5, 3), np.uint8) for _ in SIZES]
    return [Image.fromarray(seed).resize(size, 3) for seed, size in zip(coarse, SIZES, strict=True)]


def embed_alone(model: DualEncoder, ids: Sequence[int], *visuals: Visual) -> np.ndarray:
    return model.embed(packed_items([(ids, visuals)]))[0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(unit(a.astype(np.float64)) @ unit(b.astype(np.float64)))


def test_texts_have_the_tokens_and_the_vectors_of_transformers(loaded: Loaded) -> None:
    expected_ids = [
        loaded.reference.tokenizer(text, truncation=True, max_length=loaded.spec.max_length).input_ids for text in TEXTS
    ]
    assert loaded.ids == expected_ids
    assert max(map(len, loaded.ids)) == loaded.spec.max_length  # one was cut, and kept its end
    vectors = loaded.model.embed(packed_items([(ids, ()) for ids in loaded.ids]))
    for ids, vector in zip(loaded.ids, vectors, strict=True):
        np.testing.assert_allclose(vector, loaded.reference.text(ids), rtol=1e-4, atol=2e-5)


def test_images_of_any_size_have_the_vectors_of_transformers(loaded: Loaded) -> None:
    vectors = loaded.model.embed(packed_items([((), (visual,)) for visual in loaded.visuals]))
    for image, vector in zip(loaded.images, vectors, strict=True):
        np.testing.assert_allclose(vector, loaded.reference.image(image), rtol=1e-4, atol=2e-5)


def test_a_text_with_an_image_is_the_mean_of_their_unit_vectors(loaded: Loaded) -> None:
    text, image = loaded.reference.text(loaded.ids[0]), loaded.reference.image(loaded.images[0])
    together = embed_alone(loaded.model, loaded.ids[0], loaded.visuals[0])
    assert cosine(together, unit(text) + unit(image)) > 0.999999
    assert np.linalg.norm(together) == pytest.approx(1, abs=1e-6)


def test_a_video_of_one_repeated_frame_is_that_frame(loaded: Loaded) -> None:
    video = loaded.reference.visual(*[loaded.images[0]] * 5)
    assert cosine(embed_alone(loaded.model, (), video), loaded.reference.image(loaded.images[0])) > 0.999999


def test_a_video_is_the_mean_of_its_frames_unit_vectors(loaded: Loaded) -> None:
    frames = [image.resize((48, 40)) for image in loaded.images]
    moving = embed_alone(loaded.model, (), loaded.reference.visual(*frames))
    mean = np.mean([unit(loaded.reference.image(frame)) for frame in frames], axis=0)
    assert cosine(moving, mean) > 0.999999
    assert np.linalg.norm(moving) == pytest.approx(1, abs=1e-6)
    assert cosine(moving, loaded.reference.image(frames[0])) < 0.99999


def test_each_part_of_an_item_counts_once(loaded: Loaded) -> None:
    frames = [image.resize((48, 40)) for image in loaded.images[:3]]
    video = loaded.reference.visual(*frames)
    parts = [
        unit(loaded.reference.text(loaded.ids[3])),
        unit(loaded.reference.image(loaded.images[1])),
        unit(np.mean([unit(loaded.reference.image(frame)) for frame in frames], axis=0)),
    ]
    whole = embed_alone(loaded.model, loaded.ids[3], loaded.visuals[1], video)
    assert cosine(whole, np.mean(parts, axis=0)) > 0.999999


def test_a_mixed_batch_keeps_its_order_and_nobody_feels_its_neighbours(loaded: Loaded) -> None:
    random = np.random.default_rng(3)
    video = loaded.reference.visual(*[image.resize((40, 48)) for image in loaded.images[:2]])
    items: list[tuple[Sequence[int], tuple[Visual, ...]]] = []
    for i in range(64):
        text, visual = loaded.ids[i % len(loaded.ids)], loaded.visuals[i % len(loaded.visuals)]
        items.append([(text, ()), ((), (visual,)), (text, (visual,)), ((), (video,)), (text, (video,))][i % 5])
    items = [items[i] for i in random.permutation(64)]
    together = loaded.model.embed(packed_items(items))
    alone = np.stack([embed_alone(loaded.model, ids, *visuals) for ids, visuals in items])
    np.testing.assert_allclose(unit(together), unit(alone), atol=1e-6)


def test_what_runs_in_several_chunks_is_the_same(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = packed_items([((), (visual,)) for visual in loaded.visuals])
    whole = loaded.model.embed(batch)
    monkeypatch.setattr("embedway.models.packed_rows.CHUNK_ROWS", 40)
    np.testing.assert_allclose(loaded.model.embed(batch), whole, rtol=1e-4, atol=1e-5)


def test_what_computes_in_bfloat16_stays_near(loaded: Loaded) -> None:
    model = load_dual_encoder(loaded.spec, dtype="bfloat16", device="cpu", threads=1)
    assert model.dtype == "bfloat16"
    vectors = model.embed(packed_items([(loaded.ids[0], ()), ((), (loaded.visuals[3],))]))
    assert vectors.dtype == np.float32
    assert cosine(vectors[0], loaded.reference.text(loaded.ids[0])) > 0.9995
    assert cosine(vectors[1], loaded.reference.image(loaded.images[3])) > 0.9995


def test_a_lora_adapter_is_refused(loaded: Loaded) -> None:
    with pytest.raises(AdapterRefused, match="a model with a tower for images takes none"):
        loaded.model.make_adapter(AdapterWeights("mine", "folder", "0" * 64, {}))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.99)])
def test_texts_and_images_run_on_cuda(loaded: Loaded, dtype: str, least: float) -> None:
    model = load_dual_encoder(loaded.spec, dtype=dtype, device="cuda", threads=1)
    batch = packed_items([*((ids, ()) for ids in loaded.ids[:4]), *(([], (visual,)) for visual in loaded.visuals)])
    for got, expected in zip(model.embed(batch), loaded.model.embed(batch), strict=True):
        assert cosine(got, expected) >= least


def test_a_text_runs_in_the_midst_of_images_and_changes_nothing(loaded: Loaded) -> None:
    images = packed_items([((), (visual,)) for visual in loaded.visuals])
    texts = packed_items([(ids, ()) for ids in loaded.ids[:2]])
    for batch, other in ((images, texts), (texts, images)):
        alone, alone_other = loaded.model.embed(batch), loaded.model.embed(other)
        midst = Midst(loaded.model, other)
        np.testing.assert_allclose(midst.embed(batch), alone, rtol=1e-6)
        assert len(midst.vectors) >= 3  # of three layers
        for vectors in midst.vectors:
            np.testing.assert_allclose(vectors, alone_other, rtol=1e-6)
