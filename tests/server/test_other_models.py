"""Folders as other people publish them, each served by a real server: its vectors are sentence-transformers' own.

One class a folder, so that a server ends when its class does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from checkpoints import TinyDense, read_json, tiny_checkpoint, write_json
from running_server import RunningServer
from texts import varied_texts

SMALLEST_COSINE = 0.999999
MAX_LENGTH = 64
"""Tokens; of tiny_checkpoint. Several TEXTS are longer with every tiny tokenizer."""
TEXTS = varied_texts(44)
PROMPTS = {"query": "search query: ", "document": "passage: "}
INSTRUCTIONS = {"query": "Instruct: find the document\nQuery:", "document": ""}
LIVELY = {"initializer_range": 0.1}
"""With the usual 0.02 a tiny encoder's first token hardly depends on the text: its cosines are 0.998 between texts."""
WINDOW = 8
"""Of the Mistral's attention, in tokens: some TEXTS are shorter, most are longer."""
BOS, EOS = 1, 2
"""Ids in the Mistral's vocabulary."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Served:
    """A folder and the server that serves it."""

    folder: Path
    url: str

    def post(self, route: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{route}", json=body, timeout=120)

    def embed(self, texts: list[str] = TEXTS, **fields: Any) -> Matrix:
        """float32 [len(texts), dimension]; too long texts are cut as sentence-transformers cuts them."""
        body = {"model": str(self.folder), "input": texts, "encoding_format": "float", "truncate": "end", **fields}
        response = self.post("/v1/embeddings", **body)
        assert response.status_code == 200, response.text
        return np.array([item["embedding"] for item in response.json()["data"]], dtype=np.float32)

    def refuse(self, **fields: Any) -> dict[str, Any]:
        """The error of a request that is the client's fault."""
        response = self.post("/v1/embeddings", **{"model": str(self.folder), "input": "a cat", **fields})
        assert response.status_code == 400, response.text
        return response.json()["error"]


@contextmanager
def serve(folder: Path, *arguments: str) -> Generator[Served]:
    with RunningServer(str(folder), "--dtype", "float32", *arguments) as server:
        yield Served(folder, server.url)


def reference(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Matrix:
    """What sentence-transformers' `encode` makes of the folder, in float32 and of unit length."""
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, normalize_embeddings=True, show_progress_bar=False, **options)


def cosines(got: Matrix, expected: Matrix) -> npt.NDArray[np.float64]:
    """Row by row, of unit vectors."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    return np.sum(got.astype(np.float64) * expected.astype(np.float64), axis=1)


def check_equal(got: Matrix, expected: Matrix) -> None:
    found = cosines(got, expected)
    assert found.min() >= SMALLEST_COSINE, f"row {found.argmin()}: {found.min()}"


def check_different(got: Matrix, other: Matrix) -> None:
    """No row passes for the other's, by far: what tells that the tests of equality could fail."""
    assert cosines(got, other).max() < 0.999


@pytest.fixture(scope="class")
def bge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models") / "bge-like"
    with serve(tiny_checkpoint("bert", folder, pooling="cls", prompts=PROMPTS, config=LIVELY)) as served:
        yield served


class TestABgeLikeFolder:
    """BERT, its first token, and prompts of which none is the default."""

    def test_no_prompt_is_added_unasked(self, bge: Served) -> None:
        check_equal(bge.embed(), reference(bge.folder))

    @pytest.mark.parametrize("kind", ["query", "document"])
    def test_input_type_and_prompt_name_add_the_declared_prompt(self, bge: Served, kind: str) -> None:
        expected = reference(bge.folder, prompt_name=kind)
        check_equal(bge.embed(prompt_name=kind), expected)
        check_equal(bge.embed(input_type=kind), expected)
        check_different(expected, reference(bge.folder))

    def test_a_prompt_of_the_request_s_own_is_added(self, bge: Served) -> None:
        check_equal(bge.embed(prompt="represent this: "), reference(bge.folder, prompt="represent this: "))

    def test_an_undeclared_prompt_name_is_refused_with_the_declared_ones(self, bge: Served) -> None:
        error = bge.refuse(prompt_name="title")
        assert (error["code"], error["param"]) == ("unknown_prompt", "prompt_name")
        assert all(name in error["message"] for name in PROMPTS)

    def test_model_info_tells_what_the_folder_declares(self, bge: Served) -> None:
        info = httpx.get(f"{bge.url}/model_info").json()
        assert info["model_type"] == "bert"
        assert info["max_model_len"] == MAX_LENGTH
        declared = info["embedding"]
        assert declared["pooling"] == ["cls"]
        assert declared["prompts"] == PROMPTS
        assert declared["default_prompt_name"] is None
        assert declared["supports_dimensions"] is False

    def test_the_folder_s_path_and_its_last_part_are_names_of_the_model(self, bge: Served) -> None:
        listed = httpx.get(f"{bge.url}/v1/models").json()["data"]
        assert [card["id"] for card in listed] == [str(bge.folder), "bge-like"]
        np.testing.assert_array_equal(bge.embed(["a cat"], model="bge-like"), bge.embed(["a cat"]))
        assert bge.post("/v1/embeddings", model="models/bge-like", input="a cat").status_code == 404


@pytest.fixture(scope="class")
def xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tiny_checkpoint("xlm-roberta", tmp_path_factory.mktemp("models") / "xlm-r", config=LIVELY)) as served:
        yield served


class TestAnXlmRobertaFolder:
    """As multilingual-e5: the mean of the tokens."""

    def test_the_mean_is_sentence_transformers_own(self, xlm_roberta: Served) -> None:
        check_equal(xlm_roberta.embed(), reference(xlm_roberta.folder))


@pytest.fixture(scope="class")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models") / "roberta-dense"
    tiny_checkpoint(
        "roberta", folder, dense=(TinyDense(24),), prompts=PROMPTS, default_prompt_name="document", config=LIVELY
    )
    with serve(folder) as served:
        yield served


class TestARobertaFolderWithADenseModule:
    """A Dense module behind the pooling, and a prompt that goes before every text."""

    def test_vectors_have_the_dense_module_s_length_and_values(self, roberta: Served) -> None:
        vectors = roberta.embed(prompt="")
        assert vectors.shape == (len(TEXTS), 24)
        check_equal(vectors, reference(roberta.folder, prompt=""))

    def test_the_default_prompt_is_added_unasked(self, roberta: Served) -> None:
        expected = reference(roberta.folder, prompt=PROMPTS["document"])
        check_equal(roberta.embed(), expected)
        check_equal(reference(roberta.folder), expected)
        check_different(expected, reference(roberta.folder, prompt=""))

    def test_another_prompt_takes_the_default_one_s_place(self, roberta: Served) -> None:
        check_equal(roberta.embed(input_type="query"), reference(roberta.folder, prompt_name="query"))


@pytest.fixture(scope="class")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with an EOS in `tokenizer.json`, too, which sentence-transformers needs."""
    folder = tmp_path_factory.mktemp("models") / "complete"
    return tiny_checkpoint("mistral", folder, pooling="lasttoken", config={"sliding_window": WINDOW})


@pytest.fixture(scope="class")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models") / "e5-like"
    tiny_checkpoint("mistral", folder, pooling="lasttoken", config={"sliding_window": WINDOW})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    flags = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True}
    write_json(path, **{**read_json(path), **flags})
    with serve(folder) as served:
        yield served


class TestAnE5MistralLikeFolder:
    """Mistral pooled at its EOS, which `tokenizer_config.json` declares and `tokenizer.json` does not add."""

    def test_every_text_ends_in_eos(self, mistral: Served) -> None:
        lists = mistral.post("/tokenize", prompt=TEXTS).json()["tokens"]
        assert [(ids[0], ids[-1]) for ids in lists] == [(BOS, EOS)] * len(TEXTS)
        assert min(map(len, lists)) < WINDOW < MAX_LENGTH < max(map(len, lists))

    def test_the_vector_is_taken_at_eos(self, mistral: Served, complete: Path) -> None:
        """Of short texts, of those longer than the window and of those that are cut: they keep their EOS."""
        check_equal(mistral.embed(), reference(complete))

    def test_its_own_ids_give_the_same_vector(self, mistral: Served) -> None:
        text = "what is a dog"
        ids = mistral.post("/tokenize", prompt=text).json()["tokens"]
        as_ids = mistral.post("/v1/embeddings", model=str(mistral.folder), input=ids).json()["data"][0]["embedding"]
        np.testing.assert_allclose(as_ids, mistral.embed([text])[0], atol=1e-6)

    def test_a_cut_text_is_exactly_as_long_as_the_model_reads(self, mistral: Served) -> None:
        body = {"model": str(mistral.folder), "input": "a dog " * 100, "truncate": "end"}
        assert mistral.post("/v1/embeddings", **body).json()["usage"]["prompt_tokens"] == MAX_LENGTH

    def test_the_window_matters(self, complete: Path, tmp_path: Path) -> None:
        """Else the tests above would pass without one."""
        unlimited = tiny_checkpoint("mistral", tmp_path / "unlimited", pooling="lasttoken")
        long = [text for text in TEXTS if len(text) > 4 * WINDOW]
        check_different(reference(complete, long), reference(unlimited, long))


@pytest.fixture(scope="class")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models") / "qwen3-like"
    tiny_checkpoint(
        "qwen3",
        folder,
        pooling="lasttoken",
        prompts=INSTRUCTIONS,
        config={"matryoshka_dimensions": [8, 16]},
        causal_lm=True,
    )
    with serve(folder) as served:
        yield served


class TestAQwen3EmbeddingLikeFolder:
    """Qwen3 pooled at the token that `tokenizer.json` adds, with an instruction for queries and Matryoshka lengths."""

    def test_documents_and_queries_are_sentence_transformers_own(self, qwen3: Served) -> None:
        check_equal(qwen3.embed(input_type="document"), reference(qwen3.folder, prompt_name="document"))
        check_equal(qwen3.embed(input_type="query"), reference(qwen3.folder, prompt_name="query"))

    @pytest.mark.parametrize("dimensions", [8, 16, 32])
    def test_declared_lengths_are_cut_and_normalised_anew(self, qwen3: Served, dimensions: int) -> None:
        check_equal(qwen3.embed(dimensions=dimensions), reference(qwen3.folder, truncate_dim=dimensions))

    @pytest.mark.parametrize("dimensions", [12, 33])
    def test_other_lengths_are_refused(self, qwen3: Served, dimensions: int) -> None:
        error = qwen3.refuse(dimensions=dimensions)
        assert (error["code"], error["param"]) == ("dimensions_not_supported", "dimensions")

    def test_model_info_lists_the_lengths(self, qwen3: Served) -> None:
        declared = httpx.get(f"{qwen3.url}/model_info").json()["embedding"]
        assert declared["matryoshka_dimensions"] == [8, 16]
        assert declared["supports_dimensions"] is True


def as_before_sentence_transformers(folder: Path) -> Path:
    """BERT as it was published in its early days: `vocab.txt` for a tokenizer, and nothing about pooling."""
    tiny_checkpoint("bert", folder, config=LIVELY)
    vocab = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    for name in ("tokenizer.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    return folder


def test_a_folder_of_unknown_pooling_is_refused_in_one_line_that_names_the_flag(tmp_path: Path) -> None:
    folder = as_before_sentence_transformers(tmp_path / "old-bert")
    with pytest.raises(RuntimeError, match="did not start") as refused:
        RunningServer(str(folder))
    _, line = str(refused.value).splitlines()
    assert line.startswith("Error: ")
    assert "--pooling" in line
    assert str(folder) in line


@pytest.fixture(scope="class")
def old_bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = as_before_sentence_transformers(tmp_path_factory.mktemp("models") / "old-bert")
    with serve(folder, "--pooling", "mean") as served:
        yield served


class TestAFolderWithoutTokenizerJsonOrPooling:
    """Its tokenizer is converted; the operator names the pooling."""

    def test_its_vectors_are_sentence_transformers_own(self, old_bert: Served) -> None:
        check_equal(old_bert.embed(), reference(old_bert.folder))

    def test_the_folder_is_left_as_it_was(self, old_bert: Served) -> None:
        assert not (old_bert.folder / "tokenizer.json").exists()

    def test_the_same_weights_pooled_otherwise_give_other_vectors(self, old_bert: Served, tmp_path: Path) -> None:
        longer = [text for text in TEXTS if len(text) > 1]
        by_first_token = tiny_checkpoint("bert", tmp_path / "cls", pooling="cls", config=LIVELY)
        check_different(old_bert.embed(longer), reference(by_first_token, longer))


@pytest.fixture(scope="class")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tiny_checkpoint("bert", tmp_path_factory.mktemp("models") / "bert", config=LIVELY)
    with serve(folder, "--dtype", "bfloat16") as served:
        yield served


class TestBfloat16:
    def test_vectors_are_close_to_those_of_float32_but_not_equal(self, halved: Served) -> None:
        found = cosines(halved.embed(), reference(halved.folder))
        assert 0.999 <= found.min() < SMALLEST_COSINE
