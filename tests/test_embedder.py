"""The Python API: shapes, options, inputs of every Python kind, and sentence-transformers' vectors."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from checkpoints import TinyDense, tiny_checkpoint
from dual_checkpoints import dual_checkpoint
from embedway import Embedder
from embedway.engine.model_runner import ModelRunner
from embedway.errors import (
    ContextLengthExceeded,
    DimensionsNotSupported,
    EmptyInput,
    InvalidTokenId,
    InvalidType,
    InvalidValue,
    MediaNotAllowed,
    MediaNotSupported,
    MediaUnreadable,
    NonFiniteVector,
    TooManyCharacters,
    UnknownPrompt,
)
from encoded_media import noise, saved, video

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedway.config import Truncate
    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.models.interface import PackedBatch, PreparedAdapter
    from embedway.outputs.vector_types import OutputDtype

TEXTS = ["the cat sat on the mat", "what is a vector?", "A", "the quick brown fox jumps over the lazy dog, " * 2]
PROMPTS = {"query": "search query: ", "document": "passage: "}
DIMENSION = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hidden size 32, a Dense module to 24."""
    return tiny_checkpoint(
        "bert", tmp_path_factory.mktemp("embedder") / "model", prompts=PROMPTS, dense=[TinyDense(DIMENSION)]
    )


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(folder, dtype="float32", threads=1)


@pytest.fixture(scope="module")
def reference(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def close(a: object, b: object) -> bool:
    return np.allclose(np.asarray(a), np.asarray(b), atol=1e-5)


def test_a_list_gives_one_row_a_text(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)

    assert vectors.shape == (len(TEXTS), DIMENSION)
    assert vectors.dtype == np.float32
    assert close(np.linalg.norm(vectors, axis=1), 1)


@pytest.mark.parametrize("single", ["a cat", {"text": "a cat"}, [5, 6, 7], (5, 6, 7), np.array([5, 6, 7])])
def test_a_single_item_gives_one_vector(embedder: Embedder, single: Any) -> None:
    assert embedder.embed(single).shape == (DIMENSION,)


@pytest.mark.parametrize("many", [["a cat"], [{"text": "a cat"}], [[5, 6, 7]], np.array([[5, 6, 7]])])
def test_a_list_of_one_is_a_list(embedder: Embedder, many: Any) -> None:
    assert embedder.embed(many).shape == (1, DIMENSION)


@pytest.mark.parametrize("empty", [[], (), np.array([]), np.array([], dtype=np.int64), np.array([], dtype=str)])
@pytest.mark.parametrize(
    ("options", "width", "dtype"),
    [
        ({}, DIMENSION, np.float32),
        ({"output_dtype": "int8"}, DIMENSION, np.int8),
        ({"output_dtype": "uint8"}, DIMENSION, np.uint8),
        ({"output_dtype": "binary"}, DIMENSION // 8, np.int8),
        ({"output_dtype": "ubinary"}, DIMENSION // 8, np.uint8),
    ],
)
def test_an_empty_list_gives_no_rows_of_the_same_kind(
    embedder: Embedder, empty: Any, options: Any, width: int, dtype: type
) -> None:
    vectors = embedder.embed(empty, **options)

    assert vectors.shape == (0, width)
    assert vectors.dtype == dtype


@pytest.mark.parametrize("name", [None, "query", "document"])
def test_vectors_are_those_of_sentence_transformers(
    embedder: Embedder, reference: SentenceTransformer, name: str | None
) -> None:
    assert close(embedder.embed(TEXTS, prompt_name=name), reference.encode(TEXTS, prompt_name=name))


def test_an_input_type_is_sentence_transformers_query_or_document(
    embedder: Embedder, reference: SentenceTransformer
) -> None:
    assert close(embedder.embed(TEXTS, input_type="query"), reference.encode_query(TEXTS))
    assert close(embedder.embed(TEXTS, input_type="document"), reference.encode_document(TEXTS))


def test_a_prompt_is_text_before_each_item(embedder: Embedder) -> None:
    with_prompt = embedder.embed(TEXTS, prompt="a fox: ")

    assert close(with_prompt, embedder.embed(["a fox: " + text for text in TEXTS]))
    assert not close(with_prompt, embedder.embed(TEXTS))


def test_a_default_prompt_that_the_pooling_leaves_out_is_sentence_transformers(tmp_path: Path) -> None:
    made = tiny_checkpoint(
        "bert", tmp_path / "model", prompts=PROMPTS, default_prompt_name="query", include_prompt=False
    )

    assert close(
        Embedder(made, dtype="float32", threads=1).embed(TEXTS),
        SentenceTransformer(str(made), device="cpu").encode(TEXTS),
    )


def test_a_prompt_that_the_pooling_leaves_out_cannot_be_cut_off(tmp_path: Path) -> None:
    made = Embedder(tiny_checkpoint("bert", tmp_path / "model", include_prompt=False), dtype="float32", threads=1)

    with pytest.raises(InvalidValue, match="'truncate' is 'start', which would cut off the prompt of 'texts'"):
        made.embed("the cat " * 100, prompt="search: ", truncate="start")


def test_a_long_text_is_refused_or_cut(embedder: Embedder, reference: SentenceTransformer) -> None:
    long = "the quick brown fox " * 50

    with pytest.raises(ContextLengthExceeded, match=r"'texts\[1\]' has 202 tokens"):
        embedder.embed(["a cat", long])
    assert close(embedder.embed([long], truncate="end"), reference.encode([long]))
    start = embedder.embed(long, truncate="start")
    assert close(start, embedder.embed(("x " * 9 + long)[18:], truncate="start"))
    assert not close(start, embedder.embed(long + "dog", truncate="start"))


def test_a_text_without_words_is_refused_where_it_is_too_long_to_read(embedder: Embedder) -> None:
    with pytest.raises(TooManyCharacters, match="'texts' are not within 1000000 characters"):
        embedder.embed("a" * 1_500_000, truncate="end")


def test_many_texts_have_no_limit_together(embedder: Embedder) -> None:
    assert len(embedder.embed(["a cat"] * 3000)) == 3000


def test_dimensions_cut_and_renormalise_where_they_may(folder: Path, embedder: Embedder) -> None:
    full = embedder.embed(TEXTS)
    cut = Embedder(folder, dtype="float32", threads=1, matryoshka=True).embed(TEXTS, dimensions=8)

    assert close(cut, full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True))
    with pytest.raises(DimensionsNotSupported):
        embedder.embed(TEXTS, dimensions=8)


def test_dimensions_hold_for_an_empty_list_too(folder: Path, embedder: Embedder) -> None:
    assert Embedder(folder, dtype="float32", threads=1, matryoshka=True).embed([], dimensions=8).shape == (0, 8)
    with pytest.raises(DimensionsNotSupported):
        embedder.embed([], dimensions=8)


def test_without_normalize_it_is_the_models_own_vector(tmp_path: Path) -> None:
    made = tiny_checkpoint("bert", tmp_path / "model", normalize=False)
    plain = Embedder(made, dtype="float32", threads=1).embed(TEXTS, normalize=False)

    assert close(plain, SentenceTransformer(str(made), device="cpu").encode(TEXTS))
    assert not close(np.linalg.norm(plain, axis=1), 1)


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
def test_other_types_of_vectors_are_near_the_floats(embedder: Embedder, output_dtype: OutputDtype) -> None:
    floats = embedder.embed(TEXTS)
    small = embedder.embed(TEXTS, output_dtype=output_dtype)

    match output_dtype:
        case "int8" | "uint8":
            back = small.astype(np.float32) - (128 if output_dtype == "uint8" else 0)
            assert np.allclose(back / 127, floats, atol=0.01)
        case _:
            bits = np.unpackbits(small.astype(np.int16).astype(np.uint8) ^ (128 if output_dtype == "binary" else 0))
            assert bits.tolist() == (floats > 0).astype(int).ravel().tolist()


def test_threads_get_their_own_vectors(embedder: Embedder) -> None:
    texts = [
        [f"{word} {number}" for number in range(20)] for word in ("cat", "dog", "fox", "mat", "how", "lazy", "a", "of")
    ]
    expected = [embedder.embed(batch) for batch in texts]

    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for vectors, right in zip(pool.map(embedder.embed, texts), expected, strict=True):
                assert close(vectors, right)


SAME: dict[str, Any] = {
    "tuple": ("a cat", "the dog"),
    "array": np.array(["a cat", "the dog"]),
    "array of objects": np.array(["a cat", "the dog"], dtype=object),
    "numpy strings": [np.str_("a cat"), np.str_("the dog")],
    "objects": [{"text": "a cat"}, {"text": "the dog"}],
}


@pytest.mark.parametrize("kind", SAME)
def test_texts_may_come_in_any_sequence(embedder: Embedder, kind: str) -> None:
    assert close(embedder.embed(SAME[kind]), embedder.embed(["a cat", "the dog"]))


SAME_IDS: dict[str, Any] = {
    "tuples": ((5, 6, 7), (8, 9, 10)),
    "array": np.array([[5, 6, 7], [8, 9, 10]]),
    "small unsigned array": np.array([[5, 6, 7], [8, 9, 10]], dtype=np.uint16),
    "list of arrays": [np.array([5, 6, 7], dtype=np.int32), np.array([8, 9, 10])],
    "numpy integers": [[np.int64(5), 6, 7], [8, 9, np.uint8(10)]],
    "ranges": [range(5, 8), range(8, 11)],
}


@pytest.mark.parametrize("kind", SAME_IDS)
def test_token_ids_may_come_in_any_sequence(embedder: Embedder, kind: str) -> None:
    assert close(embedder.embed(SAME_IDS[kind]), embedder.embed([[5, 6, 7], [8, 9, 10]]))


WRONG: dict[str, tuple[Any, str, str]] = {
    "bytes": (b"\x05\x06", "texts", "a Python bytes"),
    "a bytearray": (bytearray(b"\x05\x06"), "texts", "a Python bytearray"),
    "a memoryview": (memoryview(b"\x05\x06"), "texts", "a Python memoryview"),
    "a list of bytes": ([b"\x05\x06"], "texts[0]", "a Python bytes"),
    "bytes after a text": (["a", b"\x05"], "texts[1]", "a Python bytes"),
    "a list of memoryviews": ([memoryview(b"\x05")], "texts[0]", "a Python memoryview"),
    "numpy bytes": ([np.bytes_(b"\x05")], "texts[0]", "a Python bytes_"),
    "an array of bytes": (np.array([b"\x05"]), "texts", "an array of |S1"),
    "an array of objects with bytes": (np.array([b"\x05"], dtype=object), "texts[0]", "a Python bytes"),
    "nothing": (None, "texts", "a Python NoneType"),
    "a number": (5, "texts", "a Python int"),
    "a numpy number": (np.int64(5), "texts", "a Python int64"),
    "an array of one number": (np.array(5), "texts", "an integer"),
    "a set": ({"a", "b"}, "texts", "a Python set"),
    "a generator": ((text for text in TEXTS), "texts", "a Python generator"),
    "a set in a list": ([{5, 6}], "texts[0]", "a Python set"),
    "nothing in a list": (["a", None], "texts[1]", "null"),
    "true": ([True, False], "texts[0]", "true"),
    "numpy's true": ([np.bool_(True)], "texts[0]", "true"),
    "an array of booleans": (np.array([True]), "texts", "an array of bool"),
    "floats": ([1.0, 2.0], "texts[0]", "a number with a fraction"),
    "numpy floats": ([np.float32(1)], "texts[0]", "a number with a fraction"),
    "an array of floats": (np.array([1.0, 2.0]), "texts", "an array of float64"),
    "a list of arrays of floats": ([np.array([1.0])], "texts[0]", "an array of float64"),
    "an array of dates": (np.array(["2020-01-01"], dtype="M8[D]"), "texts", "an array of datetime64[D]"),
    "an array of three axes": (np.ones((1, 1, 1), dtype=int), "texts[0][0]", "an array"),
    "lists of texts": ([["a", "b"]], "texts[0][0]", "a string"),
    "texts and token ids": (["a", 5], "texts[1]", "an integer"),
    "an object without a string": ({"text": b"a"}, "texts.text", "an unknown value"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_anything_else_is_refused_with_its_place_and_type(embedder: Embedder, kind: str) -> None:
    value, param, got = WRONG[kind]

    with pytest.raises(InvalidType) as caught:
        embedder.embed(value)

    assert caught.value.param == param
    assert caught.value.message.endswith(f"but it is {got}.")


@pytest.mark.parametrize("value", ["", " \n", ["a", ""], [[5], []], np.ones((2, 0), dtype=int)])
def test_empty_items_are_refused(embedder: Embedder, value: Any) -> None:
    with pytest.raises(EmptyInput):
        embedder.embed(value)


def test_wrong_options_are_refused(embedder: Embedder) -> None:
    wrong: Any = "middle"
    with pytest.raises(InvalidValue, match="'truncate' is 'middle', but it must be one of 'none', 'end', 'start'"):
        embedder.embed("a cat", truncate=wrong)
    with pytest.raises(UnknownPrompt, match="this model declares 'query', 'document'"):
        embedder.embed("a cat", prompt_name="title")
    with pytest.raises(InvalidValue, match="token ids, which get no prompt"):
        embedder.embed([5, 6], prompt="query: ")
    with pytest.raises(InvalidTokenId, match=r"'texts\[1\]' is the token id 1000000"):
        embedder.embed([5, 1_000_000])


@pytest.mark.parametrize("truncate", ["none", "end", "start"])
def test_token_ids_are_used_as_they_are(embedder: Embedder, reference: SentenceTransformer, truncate: Truncate) -> None:
    ids = reference.tokenizer(TEXTS)["input_ids"]

    assert close(embedder.embed(ids, truncate=truncate), embedder.embed(TEXTS))


class NeverFinite:
    """NaN for each sequence that begins with token 7."""

    dtype, device, dimension = "float32", "cpu", DIMENSION

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        vectors = np.ones((batch.num_sequences, DIMENSION), dtype=np.float32)
        vectors[batch.token_ids[batch.cu_seqlens[:-1]] == 7] = np.nan
        return vectors

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        raise NotImplementedError


def test_a_vector_that_is_not_finite_is_named_and_never_returned(folder: Path) -> None:
    made = Embedder(folder, dtype="float32", threads=1, max_batch_tokens=4)
    made._runner = ModelRunner(NeverFinite())

    with pytest.raises(NonFiniteVector, match=r"'texts\[5\]'"):
        made.embed([[5, 6]] * 5 + [[7, 6]] + [[5, 6]] * 5)


def test_a_tokenizer_without_tokenizer_json_is_converted(folder: Path, embedder: Embedder, tmp_path: Path) -> None:
    old = tmp_path / "model"
    old.mkdir()
    for path in folder.iterdir():
        if path.name not in ("tokenizer.json", "tokenizer_config.json"):
            (old / path.name).symlink_to(path)
    vocabulary = sorted(embedder._sequences.tokenizer.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    (old / "vocab.txt").write_text("\n".join(token for token, _ in vocabulary), encoding="utf-8")
    (old / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')

    made = Embedder(old, dtype="float32", threads=1)

    assert not (old / "tokenizer.json").exists()
    texts = ["the cat sat on the mat", "what is a vector?"]
    assert close(made.embed(texts), embedder.embed(texts))


def test_images_of_every_python_kind_are_one(tmp_path: Path) -> None:
    embedder = Embedder(dual_checkpoint("clip", tmp_path / "model"), dtype="float32")
    pixels = Image.fromarray(noise(40, 60))
    path = tmp_path / "a.png"
    path.write_bytes(saved(pixels, "PNG"))
    forms = [path, str(path), path.as_uri(), path.read_bytes(), pixels, base64.b64encode(path.read_bytes()).decode()]
    vectors = embedder.embed([{"image": form} for form in forms])
    np.testing.assert_array_equal(vectors, np.repeat(vectors[:1], len(forms), axis=0))
    both = embedder.embed({"text": "a cat", "image": path})
    alone = embedder.embed("a cat") + vectors[0]
    np.testing.assert_allclose(both, alone / np.linalg.norm(alone), atol=1e-6)
    moving = embedder.embed({"video": video([noise(40, 60)] * 3, rate=1)})
    np.testing.assert_allclose(moving, vectors[0], atol=1e-5)


def test_what_is_no_image_here_is_named(tmp_path: Path) -> None:
    embedder = Embedder(dual_checkpoint("clip", tmp_path / "model"), dtype="float32")
    for form, error in (
        ("https://example.com/a.png", MediaNotAllowed),
        (tmp_path / "none.png", MediaUnreadable),
        (b"no image", MediaUnreadable),
        ("no such file.png", InvalidValue),
    ):
        with pytest.raises(error) as caught:
            embedder.embed([{"text": "a"}, {"image": form}])
        assert caught.value.param == "texts[1].image"
    with pytest.raises(MediaNotSupported):
        Embedder(tiny_checkpoint("bert", tmp_path / "text")).embed({"image": "x"})
