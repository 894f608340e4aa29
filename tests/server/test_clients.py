"""The clients that people use, as they come, against a running server."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from embedway import Embedder
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a cat sat on the mat", "eine Katze", "🐈"]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def expected(minilm_server: RunningServer) -> np.ndarray:
    """In the type that the server has chosen: measured twice, the choice may differ."""
    [engine] = httpx.get(f"{minilm_server.url}/server_info").json()["engines"]
    return np.asarray(Embedder(MODEL, dtype=engine["dtype"]).embed(TEXTS))


def check(vectors: object, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(vectors, dtype=np.float32), expected, atol=2e-6)


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openai_s_client(minilm_server: RunningServer, expected: np.ndarray, fields: dict[str, str]) -> None:
    """Without a format the client asks for base64 itself, and decodes it."""
    with openai.OpenAI(base_url=f"{minilm_server.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(model=MODEL, input=TEXTS, **fields)  # ty: ignore[invalid-argument-type]
    embeddings = [item.embedding for item in answer.data]
    if fields.get("encoding_format") == "base64":
        embeddings = [np.frombuffer(base64.b64decode(str(e)), dtype="<f4") for e in embeddings]
    check(embeddings, expected)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    assert answer.model == MODEL


async def test_openai_s_async_client(minilm_server: RunningServer, expected: np.ndarray) -> None:
    async with openai.AsyncOpenAI(base_url=f"{minilm_server.url}/v1", api_key="none") as client:
        answers = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in TEXTS))
    check([answer.data[0].embedding for answer in answers], expected)


def test_openai_s_client_sends_ids_and_raises_its_own_errors(minilm_server: RunningServer) -> None:
    with openai.OpenAI(base_url=f"{minilm_server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model=MODEL, input=[[101, 4937, 102], [101, 102]])
        assert [item.index for item in answer.data] == [0, 1]
        with pytest.raises(openai.BadRequestError, match="vocabulary") as refused:
            client.embeddings.create(model=MODEL, input=[[99999]])
        assert refused.value.code == "invalid_token_id"
        with pytest.raises(openai.NotFoundError, match="gpt-4"):
            client.embeddings.create(model="gpt-4", input="a")
        assert MODEL in [model.id for model in client.models.list()]
        assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.filterwarnings("ignore")  # of the client's own libraries
def test_langchain(minilm_server: RunningServer, expected: np.ndarray) -> None:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    embeddings = OpenAIEmbeddings(
        base_url=f"{minilm_server.url}/v1",
        api_key=SecretStr("none"),
        model=MODEL,
        check_embedding_ctx_length=False,
    )
    check(embeddings.embed_documents(TEXTS), expected)
    check([embeddings.embed_query(TEXTS[0])], expected[:1])


@pytest.mark.filterwarnings("ignore")  # of the client's own libraries
def test_llama_index(minilm_server: RunningServer, expected: np.ndarray) -> None:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embeddings = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{minilm_server.url}/v1", api_key="none")
    check(embeddings.get_text_embedding_batch(TEXTS), expected)
    check([embeddings.get_query_embedding(TEXTS[0])], expected[:1])


def run(command: list[str], server: RunningServer) -> str:
    environment = {**os.environ, "EMBEDWAY_URL": server.url}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("example", "shows"), [("similarity", "cat and feline"), ("rag", "SGLang is a fast"), ("clustering", "Group 3")]
)
def test_the_examples_do_what_they_say(minilm_server: RunningServer, example: str, shows: str) -> None:
    assert shows in run([sys.executable, str(EXAMPLES / f"{example}.py")], minilm_server)


def test_curl(minilm_server: RunningServer) -> None:
    answers = [json.loads(line) for line in run(["bash", str(EXAMPLES / "embed.sh")], minilm_server).splitlines()]
    assert [len(answer["data"]) for answer in answers] == [1, 2, 1]
    assert answers[0]["usage"]["prompt_tokens"] == 11


def test_the_readme_s_curl_line_works(minilm_server: RunningServer) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    command = readme[readme.index("curl http://127.0.0.1:30000/v1/embeddings") :].partition("\n```")[0]
    answer = json.loads(
        run(["bash", "-c", command.replace("http://127.0.0.1:30000", minilm_server.url)], minilm_server)
    )
    assert len(answer["data"][0]["embedding"]) == 384
