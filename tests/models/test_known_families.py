from __future__ import annotations

import pytest

from embedway.models.known_families import find_family


@pytest.mark.parametrize(
    ("name", "model_type", "pooling"),
    [
        ("BAAI/bge-small-en-v1.5", "bert", "cls"),
        ("BAAI/bge-large-zh", "bert", "cls"),
        ("BAAI/bge-m3", "xlm-roberta", "cls"),
        ("BAAI/bge-en-icl", "mistral", "lasttoken"),
        ("intfloat/e5-base-v2", "bert", "mean"),
        ("intfloat/multilingual-e5-large-instruct", "xlm-roberta", "mean"),
        ("intfloat/e5-mistral-7b-instruct", "mistral", "lasttoken"),
        ("Qwen/Qwen3-Embedding-0.6B", "qwen3", "lasttoken"),
        ("thenlper/gte-base", "bert", "mean"),
        ("Alibaba-NLP/gte-base-en-v1.5", "new", "cls"),
        ("Alibaba-NLP/gte-modernbert-base", "modernbert", "cls"),
        ("facebook/contriever-msmarco", "bert", "mean"),
        ("Snowflake/snowflake-arctic-embed-m-v2.0", "gte", "cls"),
        ("mixedbread-ai/mxbai-embed-large-v1", "bert", "cls"),
        ("mixedbread-ai/mxbai-embed-xsmall-v1", "bert", "mean"),
        ("nomic-ai/nomic-embed-text-v1.5", "nomic_bert", "mean"),
        ("sentence-transformers/all-mpnet-base-v2", "mpnet", "mean"),
        ("/models/all_MiniLM_L6_v2/", "bert", "mean"),
    ],
)
def test_a_known_model_has_its_authors_pooling(name: str, model_type: str, pooling: str) -> None:
    family = find_family(name, model_type)
    assert family is not None
    assert family.pooling == pooling


def test_gte_qwen2_is_bidirectional() -> None:
    family = find_family("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "qwen2")
    assert family is not None
    assert (family.pooling, family.bidirectional) == ("lasttoken", True)


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("google-bert/bert-base-uncased", "bert"),
        ("BAAI/bge-reranker-base", "xlm-roberta"),
        ("BAAI/bge-small-en-v1.5", "qwen3"),
        ("me/my-bge-small-en-v1.5", "bert"),
        ("me/bge-small-en-v1.5/experiment", "bert"),
    ],
)
def test_other_models_are_not_guessed(name: str, model_type: str) -> None:
    assert find_family(name, model_type) is None
