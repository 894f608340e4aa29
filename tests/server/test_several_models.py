"""MiniLM and a tiny random BERT in one server, as a user starts it; OpenAI's client, unmodified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest
from playwright.sync_api import expect

from checkpoints import tiny_checkpoint
from chromium import chromium, watched_page
from embedway import Embedder
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ADMIN = {"Authorization": "Bearer secret"}
TEXTS = ["the quick brown fox", "a cat sat on the mat", "embedding"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for i, name in enumerate(("tiny", "late")):
        tiny_checkpoint("bert", root / name, seed=i)
    return [root / "tiny", root / "late"]


@pytest.fixture(scope="module")
def server(folders: list[Path]) -> Iterator[RunningServer]:
    aliases = ["--alias", "text-embedding-3-small=tiny", "--alias", "text-embedding-3-large"]
    flags = ["--dtype", "float32", "--admin-api-key", "secret", "--model-root", str(folders[0].parent)]
    with RunningServer(MODEL, str(folders[0]), *aliases, *flags) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def embed(client: openai.OpenAI, model: str) -> npt.NDArray[np.float32]:
    answer = client.embeddings.create(model=model, input=TEXTS)
    assert answer.model == model
    return np.array([item.embedding for item in answer.data], np.float32)


def expected(model: str | Path) -> npt.NDArray[np.float32]:
    return np.asarray(Embedder(str(model), dtype="float32").embed(TEXTS), np.float32)


def test_each_name_gets_the_vectors_of_its_model(client: openai.OpenAI, folders: list[Path]) -> None:
    names = {MODEL: (MODEL, "text-embedding-3-large"), folders[0]: ("tiny", str(folders[0]), "text-embedding-3-small")}
    for model, own_names in names.items():
        vectors = expected(model)
        for name in own_names:
            np.testing.assert_allclose(embed(client, name), vectors, atol=1e-6)
    listed = [card.id for card in client.models.list()]
    assert listed == [MODEL, "text-embedding-3-large", str(folders[0]), "tiny", "text-embedding-3-small"]
    with pytest.raises(openai.NotFoundError, match=f"Served: {MODEL}, text-embedding-3-large, "):
        embed(client, "gpt-5")


def test_a_model_is_loaded_and_unloaded_while_the_server_runs(
    server: RunningServer, client: openai.OpenAI, folders: list[Path]
) -> None:
    body = {"model": str(folders[1]), "alias": "late one", "settings": {"cache_mb": 1, "max_length": 16}}
    loaded = httpx.post(f"{server.url}/load_model", json=body, headers=ADMIN, timeout=120)
    assert loaded.status_code == 200, loaded.text
    assert (loaded.json()["model"]["id"], loaded.json()["model"]["max_model_len"]) == (str(folders[1]), 16)
    np.testing.assert_allclose(embed(client, "late one"), expected(folders[1]), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="at most 16 tokens"):
        client.embeddings.create(model="late", input="a " * 40)
    assert len(server.children("embedway.engine.loop")) == 3
    unloaded = httpx.post(f"{server.url}/unload_model", json={"model": "late"}, headers=ADMIN, timeout=120)
    assert unloaded.status_code == 200, unloaded.text
    assert len(server.children("embedway.engine.loop")) == 2
    with pytest.raises(openai.NotFoundError):
        embed(client, "late one")
    np.testing.assert_allclose(embed(client, "tiny"), expected(folders[0]), atol=1e-6)


def test_the_playground_follows_the_model_that_is_chosen(server: RunningServer) -> None:
    with chromium() as browser, watched_page(browser, server.url) as page:
        expect(page.locator("#model-facts")).to_contain_text("384 dimensions")
        page.locator("#model").select_option("tiny")
        expect(page.locator("#model-facts")).to_contain_text("32 dimensions")
        with page.expect_response("**/v1/embeddings") as answered:
            page.locator("#embed").click()
        assert answered.value.json()["model"] == "tiny"


def test_the_metrics_tell_whose_engine_has_which_number(server: RunningServer) -> None:
    metrics = httpx.get(f"{server.url}/metrics").text
    assert f'embedway_engine_info{{replica="0",model="{MODEL}"}} 1.0' in metrics
    assert 'embedway_engine_info{replica="1",model="' in metrics
    assert 'embedway_engine_ready{replica="1"} 1.0' in metrics
