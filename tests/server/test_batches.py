"""OpenAI's client and its batches against a real server, which loses its processes meanwhile."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest
from openai.types import Batch

from running_server import RunningServer
from stored_batches import jsonl, read_jsonl, request_line

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
API, ENGINE = "embedway.api.server", "embedway.engine.loop"
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def client_of() -> Iterator[Callable[[RunningServer], openai.OpenAI]]:
    clients: list[openai.OpenAI] = []

    def made(server: RunningServer) -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5))
        return clients[-1]

    yield made
    for client in clients:
        client.close()


def until(find: Callable[[], Any]) -> Any:
    """What it finds, as soon as that is something."""
    give_up_at = time.monotonic() + TIMEOUT_SECONDS
    while not (found := find()):
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    return found


def ended(client: openai.OpenAI, batch_id: str) -> Batch:
    def look() -> Batch | None:
        batch = client.batches.retrieve(batch_id)
        return None if batch.status in ("validating", "in_progress", "finalizing", "cancelling") else batch

    return until(look)


def create(client: openai.OpenAI, lines: list[dict[str, Any]]) -> Batch:
    file = client.files.create(file=("in.jsonl", io.BytesIO(jsonl(lines))), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[Any]:
    return [] if file_id is None else read_jsonl(client.files.content(file_id).read())


def runner_of(server: RunningServer) -> psutil.Process | None:
    """The API process that has the runner's lock."""
    with contextlib.suppress(psutil.Error):  # one of them is dying
        for process in server.children(API):
            if any(file.path.endswith("runner.lock") for file in process.open_files()):
                return process
    return None


def kill_all(server: RunningServer) -> None:
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=30)
    server.stop()


def test_a_batch_outlives_the_process_that_runs_it_and_then_the_whole_server(
    data_dir: Path, client_of: Callable[[RunningServer], openai.OpenAI]
) -> None:
    """The engine is stopped, so that the batch is half done for certain: what needs no engine comes first."""
    refused = [request_line(f"refused {i}", "", MODEL) for i in range(20)]
    texts = [request_line(f"text {i}", f"This is text {i}.", MODEL) for i in range(60)]
    server = RunningServer("--data-dir", str(data_dir), "--api-workers", "2")
    try:
        client = client_of(server)
        first = until(lambda: runner_of(server))
        for engine in server.children(ENGINE):
            engine.send_signal(signal.SIGSTOP)
        batch = create(client, refused + texts)

        def counts() -> tuple[int, int]:
            found = client.batches.retrieve(batch.id).request_counts
            assert found is not None
            return found.completed, found.failed

        until(lambda: counts() == (0, 20))
        first.kill()
        first.wait(30)  # until then it may still be found to hold the file
        second = until(lambda: runner_of(server))
        assert second.pid != first.pid
        assert counts() == (0, 20)
        assert client.batches.retrieve(batch.id).status == "in_progress"
    finally:
        kill_all(server)
    with RunningServer("--data-dir", str(data_dir)) as server:
        client = client_of(server)
        batch = ended(client, batch.id)
        output, errors = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
        direct = client.embeddings.create(model=MODEL, input=[line["body"]["input"] for line in texts])
    assert batch.status == "completed"
    assert [line["custom_id"] for line in output] == [line["custom_id"] for line in texts]
    assert [line["custom_id"] for line in errors] == [line["custom_id"] for line in refused]
    vectors = [line["response"]["body"]["data"][0]["embedding"] for line in output]
    np.testing.assert_allclose(vectors, [item.embedding for item in direct.data], atol=1e-5)
    assert {line["response"]["status_code"] for line in errors} == {400}


def run_example(server: RunningServer) -> str:
    """What the program of docs/batch-api.md prints."""
    page = (Path(__file__).parents[2] / "docs" / "batch-api.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    code = code.replace("http://127.0.0.1:30000", server.url)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


def test_openai_s_client_has_all_of_its_calls(
    data_dir: Path, client_of: Callable[[RunningServer], openai.OpenAI]
) -> None:
    with RunningServer("--data-dir", str(data_dir), "--max-batch-file-mb", "1") as server:
        client = client_of(server)
        file = client.files.create(
            file=("my batch.jsonl", io.BytesIO(jsonl([request_line("a", "a", MODEL)]))),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (file.filename, file.expires_at) == ("my batch.jsonl", file.created_at + 3600)
        assert client.files.retrieve(file.id) == file
        assert file in client.files.list(purpose="batch", limit=1)
        assert json.loads(client.files.content(file.id).text)["custom_id"] == "a"
        assert run_example(server).splitlines() == ["completed 2", "doc-1 384", "doc-2 384"]
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"name": "nightly"}
        )
        assert batch.id in [one.id for one in client.batches.list(limit=1)]
        batch = ended(client, batch.id)
        assert (batch.status, batch.metadata) == ("completed", {"name": "nightly"})
        [line] = lines_of(client, batch.output_file_id)
        assert (line["custom_id"], line["response"]["status_code"], line["error"]) == ("a", 200, None)
        with pytest.raises(openai.ConflictError, match="completed"):
            client.batches.cancel(batch.id)
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        large = io.BytesIO(b"x" * (3 << 20))
        with pytest.raises(openai.APIStatusError, match="--max-batch-file-mb") as too_large:
            client.files.create(file=("large", large), purpose="batch")
        assert too_large.value.status_code == 413
        for engine in server.children(ENGINE):
            engine.send_signal(signal.SIGSTOP)
        try:
            running = create(client, [request_line("a", "another text", MODEL)])
            assert client.batches.cancel(running.id).status == "cancelling"
            running = ended(client, running.id)
        finally:
            for engine in server.children(ENGINE):
                engine.send_signal(signal.SIGCONT)
        assert running.status == "cancelled"
