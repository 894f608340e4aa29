"""/v1/files and /v1/batches over the fake model: fields, limits, owners, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from openai.types import Batch, FileObject

from embedway.batches.storage import DATABASE_NAME, make_data_dir
from embedway.models.interface import PackedBatch
from fake_model import FakeModel
from stored_batches import jsonl, read_jsonl, request_line

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
LINES = [request_line(str(i), f"text {i}", MODEL) for i in range(5)]


def form(data: bytes, **fields: str) -> dict[str, Any]:
    return {"files": {"file": ("in.jsonl", data)}, "data": {"purpose": "batch", **fields}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    """Made by the supervisor, where there is one."""
    make_data_dir(tmp_path / "data")


async def upload(client: httpx.AsyncClient, data: bytes, headers: dict[str, str] | None = None) -> str:
    response = await client.post("/v1/files", **form(data), headers=headers)
    assert response.status_code == 200, response.text
    return response.json()["id"]


async def create(client: httpx.AsyncClient, file_id: str, **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", None)
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h", **fields}
    return await client.post("/v1/batches", json=body, headers=headers)


async def ended(client: httpx.AsyncClient, batch_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    async def poll() -> dict[str, Any]:
        while True:
            batch = (await client.get(f"/v1/batches/{batch_id}", headers=headers)).json()
            if batch["status"] not in ("validating", "in_progress", "finalizing", "cancelling"):
                return batch
            await asyncio.sleep(0.02)

    return await asyncio.wait_for(poll(), 60)


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    return error["message"]


ROUTES = [
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/file-1"),
    ("GET", "/v1/files/file-1/content"),
    ("DELETE", "/v1/files/file-1"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/batches/batch_1"),
    ("POST", "/v1/batches/batch_1/cancel"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_folder_every_route_says_which_flag_opens_it(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    assert "--data-dir" in check_error(await client.request(method, path), 404, "batches_not_served")


async def test_a_batch_s_answers_are_those_of_requests(connect: Connect, tmp_path: Path) -> None:
    fields = [
        {"input": "a"},
        {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 4},
        {"input": ""},
        {"input": [101, 102], "rid": "own", "timeout_ms": 60_000, "priority": 2**63 - 1},
        {"input": "a", "dimensions": 9999},
        {"messages": [{"role": "user", "content": "a"}]},
        {"input": "a " * 20_000, "truncate": "end"},
    ]
    bodies = [{"model": MODEL, **one} for one in fields]
    data = jsonl({**request_line(str(i)), "body": body} for i, body in enumerate(bodies))
    async with connect(data_dir=str(tmp_path / "data"), matryoshka=True, request_timeout=1e-6) as client:
        batch = await ended(client, (await create(client, await upload(client, data))).json()["id"])
        files = [(await client.get(f"/v1/files/{batch[name]}/content")).content for name in OUTPUTS]
    async with connect(matryoshka=True) as client:
        expected = [await client.post("/v1/embeddings", json=body) for body in bodies]
    lines = {line["custom_id"]: line["response"] for line in read_jsonl(b"".join(files))}
    for i, response in enumerate(expected):
        line = lines[str(i)]
        assert (line["status_code"], line["body"]) == (response.status_code, response.json())
    assert [line["custom_id"] for line in read_jsonl(files[1])] == ["2", "4"]
    assert lines["3"]["request_id"] == "own"
    assert batch["request_counts"] == {"total": 7, "completed": 5, "failed": 2}
    tokens = sum(response.json().get("usage", {"total_tokens": 0})["total_tokens"] for response in expected)
    assert batch["usage"]["input_tokens"] == batch["usage"]["total_tokens"] == tokens


OUTPUTS = ("output_file_id", "error_file_id")


async def test_objects_have_every_field_of_openai_s(connect: Connect, tmp_path: Path) -> None:
    async with connect(data_dir=str(tmp_path / "data")) as client:
        file = (await client.post("/v1/files", **form(jsonl(LINES), **LIFE))).json()
        response = await create(
            client, file["id"], metadata={"a": "b"}, output_expires_after={"anchor": "created_at", "seconds": 3600}
        )
        new, batch = response.json(), await ended(client, response.json()["id"])
        output = (await client.get(f"/v1/files/{batch['output_file_id']}")).json()
        listed = (await client.get("/v1/files", params={"purpose": "batch_output"})).json()
    assert set(FileObject.model_fields) == set(file)
    assert set(Batch.model_fields) == set(new) == set(batch)
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(jsonl(LINES)), "in.jsonl", "batch")
    assert file["expires_at"] == file["created_at"] + 7200
    assert (new["status"], new["output_file_id"], new["metadata"]) == ("validating", None, {"a": "b"})
    assert new["expires_at"] == new["created_at"] + 24 * 3600
    assert (batch["status"], batch["model"], batch["error_file_id"]) == ("completed", MODEL, None)
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert output["expires_at"] == output["created_at"] + 3600
    assert output["purpose"] == "batch_output"
    assert listed["data"] == [output]


LIFE = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}


async def test_lists_come_in_pages(connect: Connect, tmp_path: Path) -> None:
    async with connect(data_dir=str(tmp_path / "data")) as client:
        ids = [await upload(client, b"") for _ in range(5)]
        first = (await client.get("/v1/files", params={"limit": 2, "order": "asc"})).json()
        rest = (await client.get("/v1/files", params={"after": first["last_id"], "order": "asc"})).json()
        newest = (await client.get("/v1/files", params={"limit": 1})).json()
        batches = [(await create(client, ids[0])).json()["id"] for _ in range(3)]
        page = (await client.get("/v1/batches", params={"limit": 2})).json()
        last = (await client.get("/v1/batches", params={"limit": 2, "after": page["last_id"]})).json()
        wrong = await client.get("/v1/batches", params={"after": "batch_nobody"})
        for batch_id in batches:
            await ended(client, batch_id)
    assert [file["id"] for file in first["data"]] == ids[:2]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
    assert [file["id"] for file in rest["data"]] == ids[2:]
    assert not rest["has_more"]
    assert newest["data"][0]["id"] == ids[-1]
    assert [batch["id"] for batch in page["data"] + last["data"]] == batches[::-1]
    assert (page["has_more"], last["has_more"]) == (True, False)
    check_error(wrong, 404, "batch_not_found")


async def test_what_cannot_be_a_batch_is_refused_with_its_field(connect: Connect, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"endpoint": "/v1/chat/completions"}, "invalid_value", "endpoint"),
        ({"completion_window": "1h"}, "invalid_value", "completion_window"),
        ({"metadata": "a"}, "invalid_type", "metadata"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "invalid_value", "metadata.a"),
        ({"metadata": {"a" * 65: ""}}, "invalid_value", "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "invalid_value", "metadata"),
        ({"output_expires_after": 5}, "invalid_type", "output_expires_after"),
        ({"output_expires_after": {"anchor": "x"}}, "invalid_value", "output_expires_after.anchor"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "invalid_value",
            "output_expires_after.seconds",
        ),
        ({"user": "x" * 70_000}, "invalid_value", "body"),
    ]
    async with connect(data_dir=str(tmp_path / "data")) as client:
        file_id = await upload(client, jsonl(LINES))
        for fields, code, param in cases:
            check_error(await create(client, file_id, **fields), 400, code, param)
        check_error(await create(client, "file-nobody"), 404, "file_not_found", "input_file_id")
        check_error(await client.post("/v1/batches", content=b"{}"), 415, "unsupported_media_type")
        for query in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}):
            check_error(await client.get("/v1/batches", params=query), 400, "invalid_value", "limit")
        check_error(await client.get("/v1/files", params={"order": "up"}), 400, "invalid_value", "order")
        check_error(await client.get("/v1/files", params={"purpose": "x"}), 400, "invalid_value", "purpose")
        batch = await ended(client, (await create(client, file_id)).json()["id"])
        check_error(await create(client, batch["output_file_id"]), 400, "invalid_value", "input_file_id")
        check_error(await client.post(f"/v1/batches/{batch['id']}/cancel"), 409, "batch_has_ended")


async def test_a_file_with_faults_fails_its_batch_with_their_lines(connect: Connect, tmp_path: Path) -> None:
    async with connect(data_dir=str(tmp_path / "data")) as client:
        data = jsonl([LINES[0], LINES[0], {**LINES[1], "url": "/x"}])
        batch = await ended(client, (await create(client, await upload(client, data))).json()["id"])
        other = jsonl([request_line("a", model="nobody")])
        unknown = await ended(client, (await create(client, await upload(client, other))).json()["id"])
    errors = [(error["line"], error["code"]) for error in batch["errors"]["data"]]
    assert errors == [(2, "duplicate_custom_id"), (3, "invalid_url")]
    assert batch["status"] == "failed"
    assert batch["failed_at"] is not None
    assert [error["code"] for error in unknown["errors"]["data"]] == ["model_not_found"]


async def test_a_file_in_use_stays_and_any_other_can_be_deleted(connect: Connect, tmp_path: Path) -> None:
    async with connect(data_dir=str(tmp_path / "data"), with_engine=False) as client:  # so the batch goes on and on
        file_id = await upload(client, jsonl(LINES))
        batch_id = (await create(client, file_id)).json()["id"]
        message = check_error(await client.delete(f"/v1/files/{file_id}"), 409, "file_in_use")
        assert batch_id in message
        cancelling = (await client.post(f"/v1/batches/{batch_id}/cancel")).json()
        again = (await client.post(f"/v1/batches/{batch_id}/cancel")).json()
        batch = await ended(client, batch_id)
        deleted = (await client.delete(f"/v1/files/{file_id}")).json()
        check_error(await client.get(f"/v1/files/{file_id}"), 404, "file_not_found")
        check_error(await client.delete(f"/v1/files/{file_id}"), 404, "file_not_found")
        left = {path.name for path in (tmp_path / "data" / "files").glob("*")}
    assert cancelling["status"] == "cancelling"
    assert again["status"] in ("cancelling", "cancelled")
    assert batch["status"] == "cancelled"
    assert batch["cancelling_at"] <= batch["cancelled_at"]
    assert deleted == {"id": file_id, "object": "file", "deleted": True}
    assert left == {batch[name] for name in OUTPUTS if batch[name]}


async def test_a_key_sees_its_own_files_and_batches_only(connect: Connect, tmp_path: Path) -> None:
    ours, theirs = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    async with connect(data_dir=str(tmp_path / "data"), api_key=["one", "two"], fair_share="keys") as client:
        file_id = await upload(client, jsonl(LINES), ours)
        batch_id = (await create(client, file_id, headers=ours)).json()["id"]
        batch = await ended(client, batch_id, ours)
        output = batch["output_file_id"]
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content", f"/v1/files/{output}/content"):
            check_error(await client.get(path, headers=theirs), 404, "file_not_found")
        check_error(await client.delete(f"/v1/files/{file_id}", headers=theirs), 404, "file_not_found")
        check_error(await client.get(f"/v1/batches/{batch_id}", headers=theirs), 404, "batch_not_found")
        check_error(await client.post(f"/v1/batches/{batch_id}/cancel", headers=theirs), 404, "batch_not_found")
        check_error(await create(client, file_id, headers=theirs), 404, "file_not_found", "input_file_id")
        for path in ("/v1/files", "/v1/batches"):
            assert (await client.get(path, headers=theirs)).json()["data"] == []
            assert (await client.get(path, headers=ours)).json()["data"] != []
            assert (await client.get(path)).status_code == 401


async def test_a_damaged_database_is_a_503_of_these_routes_only(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "data" / DATABASE_NAME).write_bytes(b"this is no database, and never was one. " * 200)
    async with connect(data_dir=str(tmp_path / "data")) as client:
        for method, path in ROUTES:
            arguments = form(b"{}") if path == "/v1/files" and method == "POST" else {}
            if path == "/v1/batches" and method == "POST":
                response = await create(client, "file-1")
            else:
                response = await client.request(method, path, **arguments)
            message = check_error(response, 503, "batch_storage_unavailable")
            assert response.headers["retry-after"]
            assert str(tmp_path) not in message
        answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert answer.status_code == 200


async def test_lines_wait_where_there_is_too_much_to_do(connect: Connect, tmp_path: Path) -> None:
    """All but one are refused at first: of bulk, there may be one request at a time."""
    lines = [request_line(str(i), f"text {i}", MODEL) for i in range(3)]
    async with connect(data_dir=str(tmp_path / "data"), max_queued_requests=1) as client:
        batch = await ended(client, (await create(client, await upload(client, jsonl(lines)))).json()["id"])
        refused = (await client.get("/metrics")).text
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert 'embedway_requests_refused_total{class="bulk",cause="requests"} 0' not in refused
    assert 'embedway_batch_lines_total{outcome="completed"} 3' in refused


class GatedModel(FakeModel):
    """Its batches wait until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        self.gate.wait()
        return super().embed(batch)


async def queued(client: httpx.AsyncClient, number: int) -> None:
    """Wait until so many requests are queued in the engine."""

    async def poll() -> None:
        while f'embedway_engine_queued_requests{{replica="0"}} {number}' not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), 60)


async def test_a_query_passes_all_lines_of_batches_whatever_priority_they_claim(
    connect: Connect, tmp_path: Path
) -> None:
    model, claimed = GatedModel(), {"model": MODEL, "priority": 2**63 - 1}
    lines = [{**request_line(str(i)), "body": {**claimed, "input": [101] * 200}} for i in range(9)]
    async with connect(data_dir=str(tmp_path / "data"), model=model, cache_mb=0) as client:
        try:
            batch_id = (await create(client, await upload(client, jsonl(lines)))).json()["id"]
            await queued(client, 8)  # a batch of the engine's takes one of them, which waits at the gate
            query = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": [777]}))
            await queued(client, 9)
        finally:
            model.gate.set()
        assert (await query).status_code == 200
        batch = await ended(client, batch_id)
    assert batch["request_counts"]["completed"] == 9
    assert [777 in run.token_ids for run in model.batches].index(True) == 1
