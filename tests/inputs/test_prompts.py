"""Which prompt is chosen, and how many tokens of it the pooling leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sentence_transformers import SentenceTransformer

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import InvalidValue, UnknownPrompt
from embedway.inputs.prompts import choose_prompt, excluded_tokens
from embedway.inputs.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from embedway.model_spec import ModelSpec

PROMPTS = {"query": "query: ", "document": "text: ", "title": "title: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("bert", tmp_path_factory.mktemp("prompts") / "model")


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return tiny_spec(folder)


def chosen(spec: ModelSpec, prompts: dict[str, str], default: str | None = None, **given: str) -> str:
    spec = msgspec.structs.replace(spec, prompts=prompts, default_prompt_name=default)
    options: dict[str, Any] = {"input_type": None, "prompt_name": None, "prompt": None, **given}
    return choose_prompt(spec, **options)


def test_without_a_wish_it_is_the_default_prompt_if_one_is_declared(spec: ModelSpec) -> None:
    assert chosen(spec, PROMPTS) == ""
    assert chosen(spec, PROMPTS, "title") == "title: "


def test_a_prompt_is_used_as_it_is(spec: ModelSpec) -> None:
    assert chosen(spec, PROMPTS, "title", prompt="Instruct: ") == "Instruct: "
    assert chosen(spec, PROMPTS, "title", prompt="") == ""


def test_a_declared_name_gives_its_prompt(spec: ModelSpec) -> None:
    assert chosen(spec, PROMPTS, "title", prompt_name="query") == "query: "


def test_an_unknown_name_tells_the_declared_ones(spec: ModelSpec) -> None:
    with pytest.raises(UnknownPrompt, match="'nope', but this model declares 'query', 'document', 'title'"):
        chosen(spec, PROMPTS, prompt_name="nope")
    with pytest.raises(UnknownPrompt, match="'query', but this model declares no prompts"):
        chosen(spec, {}, prompt_name="query")


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        (PROMPTS, "query: ", "text: "),
        ({"passage": "passage: ", "corpus": "corpus: "}, "", "passage: "),
        ({"corpus": "corpus: "}, "", "corpus: "),
        ({"title": "title: "}, "", ""),
        ({}, "", ""),
    ],
)
def test_an_input_type_takes_the_first_of_its_names(
    spec: ModelSpec, prompts: dict[str, str], query: str, document: str
) -> None:
    default = "title" if "title" in prompts else None
    assert chosen(spec, prompts, default, input_type="query") == query
    assert chosen(spec, prompts, default, input_type="document") == document


def test_an_unknown_input_type_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(InvalidValue, match="'input_type' is 'search', but it must be 'query' or 'document'"):
        chosen(spec, PROMPTS, input_type="search")


@pytest.mark.parametrize(
    ("given", "at_fault"),
    [
        ({"input_type": "query", "prompt_name": "query"}, "prompt_name"),
        ({"prompt_name": "query", "prompt": ""}, "prompt"),
        ({"input_type": "query", "prompt": "x", "prompt_name": "title"}, "prompt_name"),
    ],
)
def test_two_wishes_are_refused(spec: ModelSpec, given: dict[str, str], at_fault: str) -> None:
    with pytest.raises(InvalidValue, match="send one of them") as caught:
        chosen(spec, PROMPTS, **given)

    assert caught.value.param == at_fault


@pytest.mark.parametrize("prompts", [PROMPTS, {"title": "title: "}, {}, {"query": "", "document": ""}])
def test_the_choice_is_that_of_sentence_transformers(
    folder: Path, spec: ModelSpec, prompts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    default = "title" if "title" in prompts else None
    model = SentenceTransformer(str(folder), device="cpu", prompts=dict(prompts), default_prompt_name=default)
    used: list[str] = []
    preprocess = model.preprocess
    monkeypatch.setattr(
        model, "preprocess", lambda *texts, prompt, **kwargs: used.append(prompt or "") or preprocess(*texts, **kwargs)
    )

    model.encode_query("cat")
    model.encode_document("cat")
    model.encode("cat")

    assert used == [
        chosen(spec, prompts, default, input_type="query"),
        chosen(spec, prompts, default, input_type="document"),
        chosen(spec, prompts, default),
    ]


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen3", "llama"])
@pytest.mark.parametrize("prompt", ["query: ", "Represent the sentence for search:", "the " * 100])
def test_left_out_tokens_are_counted_as_by_sentence_transformers(tmp_path: Path, family: str, prompt: str) -> None:
    folder = tiny_checkpoint(family, tmp_path / "model", include_prompt=False)
    spec = tiny_spec(folder)
    reference = SentenceTransformer(str(folder), device="cpu")

    counted = excluded_tokens(spec, TextTokenizer.load(spec), prompt)

    assert counted == reference.preprocess(["a cat"], prompt=prompt)["prompt_length"]


def test_nothing_is_left_out_where_the_prompt_is_pooled(spec: ModelSpec) -> None:
    tokenizer = TextTokenizer.load(spec)

    assert excluded_tokens(spec, tokenizer, "query: ") == 0
    assert excluded_tokens(msgspec.structs.replace(spec, include_prompt=False), tokenizer, "") == 0
