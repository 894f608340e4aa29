"""The vectors that a user gets over HTTP are those of sentence-transformers."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from sentence_transformers import SentenceTransformer

from embedway import Embedder
from embedway.models.checkpoint_location import locate
from running_server import RunningServer
from texts import varied_texts

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SMALLEST_COSINE = 0.999999
SMALLEST_AUTO_COSINE = 0.9999
"""Where the type of the weights is the server's choice."""

Matrix = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return varied_texts(240)


@pytest.fixture(scope="module")
def reference(texts: list[str]) -> Matrix:
    folder: Path = locate(MODEL).folder
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


@pytest.fixture(scope="module")
def exact_server() -> Iterator[RunningServer]:
    with RunningServer("--dtype", "float32") as server:
        yield server


async def embed(client: httpx.AsyncClient, texts: list[str] | str) -> Matrix:
    body = {"model": MODEL, "input": texts, "encoding_format": "base64", "truncate": "end"}
    response = await client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in data])


def check_equal(got: Matrix, reference: Matrix, smallest: float = SMALLEST_COSINE) -> None:
    """Unit vectors, row by row those of the reference."""
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    cosines = np.sum(got.astype(np.float64) * reference.astype(np.float64), axis=1)
    assert cosines.min() >= smallest, f"text {cosines.argmin()}: {cosines.min()}"


async def test_as_a_user_starts_it(minilm_server: RunningServer, texts: list[str], reference: Matrix) -> None:
    async with httpx.AsyncClient(base_url=minilm_server.url, timeout=300) as client:
        check_equal(await embed(client, texts), reference, SMALLEST_AUTO_COSINE)


async def test_one_by_one(exact_server: RunningServer, texts: list[str], reference: Matrix) -> None:
    async with httpx.AsyncClient(base_url=exact_server.url, timeout=300) as client:
        check_equal(np.concatenate([await embed(client, text) for text in texts]), reference)


async def test_in_one_batch(exact_server: RunningServer, texts: list[str], reference: Matrix) -> None:
    async with httpx.AsyncClient(base_url=exact_server.url, timeout=300) as client:
        check_equal(await embed(client, texts), reference)


async def test_mixed_by_40_clients_at_once(exact_server: RunningServer, texts: list[str], reference: Matrix) -> None:
    async def one_client(client: httpx.AsyncClient, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(5):
            chosen = rng.sample(range(len(texts)), rng.choice([1, 1, 2, 7, 20]))
            check_equal(await embed(client, [texts[i] for i in chosen]), reference[chosen])

    limits = httpx.Limits(max_connections=40, max_keepalive_connections=40)
    async with httpx.AsyncClient(base_url=exact_server.url, timeout=300, limits=limits) as client:
        await asyncio.gather(*(one_client(client, seed) for seed in range(40)))


async def test_a_text_s_vector_does_not_depend_on_its_company(exact_server: RunningServer, texts: list[str]) -> None:
    async with httpx.AsyncClient(base_url=exact_server.url, timeout=300) as client:
        alone = np.concatenate([await embed(client, text) for text in texts[:60]])
        together = (await embed(client, texts))[:60]
        reversed_company = (await embed(client, texts[::-1]))[::-1][:60]
    assert np.abs(alone - together).max() <= 1e-6
    assert np.abs(alone - reversed_company).max() <= 1e-6


async def test_a_plain_string_and_an_object_with_the_same_text_are_the_same(minilm_server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=minilm_server.url, timeout=300) as client:
        for text in varied_texts(20):
            body = {"model": MODEL, "input": {"text": text}}
            as_object = (await client.post("/v1/embeddings", json=body)).json()["data"]
            as_string = (await client.post("/v1/embeddings", json={**body, "input": text})).json()["data"]
            assert as_object == as_string


def test_the_python_api_gives_the_same_vectors(texts: list[str], reference: Matrix) -> None:
    vectors = Embedder(MODEL, dtype="float32").embed(texts, truncate="end")
    check_equal(np.asarray(vectors, dtype=np.float32), reference)
