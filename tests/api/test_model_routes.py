"""Which models an operator may have loaded, and with which settings; what then happens is in tests/faults."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


async def load(client: httpx.AsyncClient, **body: Any) -> tuple[int, str, str]:
    """Status, code, field."""
    answer = await client.post("/load_model", json=body, headers={"Authorization": "Bearer secret"})
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


SHUTTING_DOWN = (503, "shutting_down", None)
"""What an application without a supervisor says of an order that it would have passed on"""


async def test_folders_are_loaded_from_a_model_root_only(connect: Connect, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "good", root / "leads-out", outside):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (root / "leads-out" / "model.safetensors").symlink_to(outside / "config.json")
    async with connect(admin_api_key="secret") as client:
        assert await load(client, model=str(root / "good")) == (403, "path_not_allowed", "model")
    async with connect(admin_api_key="secret", model_root=[str(root)]) as client:
        assert await load(client, model=str(root / "good")) == SHUTTING_DOWN
        for folder in (outside, root / ".." / "outside", root / "leads-out", "/etc"):
            assert await load(client, model=str(folder)) == (403, "path_not_allowed", "model")
        assert await load(client, model=str(root / "nothing")) == (400, "invalid_value", "model")


async def test_a_model_of_the_start_may_come_back_and_ids_may_come(connect: Connect) -> None:
    async with connect(admin_api_key="secret", model_path=MODEL) as client:
        for name in (MODEL, "org/another"):
            assert await load(client, model=name) == SHUTTING_DOWN


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "not an id"}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": MODEL, "alias": ["a", " "]}, "alias"),
        ({"model": MODEL, "settings": {"trust_remote_code": True}}, "settings.trust_remote_code"),
        ({"model": MODEL, "settings": {"lora-root": "/"}}, "settings.lora_root"),
        ({"model": MODEL, "settings": {"chat_template": "/etc/passwd"}}, "settings.chat_template"),
        ({"model": MODEL, "settings": {"dtype": "int3"}}, "settings"),
        ({"model": MODEL, "settings": ["dtype"]}, "settings"),
        ({"model": MODEL, "settings": {"served_model_name": "a" * 5000}}, "settings"),
        ({"model": MODEL, "settings": {"served_model_name": "a" * 70_000}}, "body"),
    ],
)
async def test_a_request_that_cannot_be_meant_is_refused_by_its_field(
    connect: Connect, body: dict[str, Any], param: str
) -> None:
    async with connect(admin_api_key="secret") as client:
        status, _, found = await load(client, **body)
    assert (status, found) == (400, param)


async def test_a_probe_without_a_key_is_told_no_names(connect: Connect) -> None:
    async with connect(api_key=["key"]) as client:
        refused = await client.get("/readyz", params={"model": "none"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert MODEL not in refused.text
        assert (await client.get("/readyz", params={"model": MODEL})).json() == {"status": "ready"}


async def test_routes_that_act_on_one_model_take_its_name_and_refuse_others(connect: Connect) -> None:
    headers = {"Authorization": "Bearer secret"}
    async with connect(admin_api_key="secret", alias=["another name"]) as client:
        for path in ("/model_info", "/server_info", "/health", "/readyz", "/health_generate"):
            assert (await client.get(path, params={"model": "another name"})).status_code == 200
            assert (await client.get(path, params={"model": "none"})).status_code == 404
        for path, body in {
            "/encode": {"text": "a"},
            "/tokenize": {"prompt": "a"},
            "/detokenize": {"tokens": [7592]},
        }.items():
            assert (await client.post(path, json={**body, "model": "another name"})).status_code == 200
            assert (await client.post(path, json={**body, "model": "none"})).status_code == 404
        assert (await client.post("/flush_cache?model=another+name", headers=headers)).status_code == 200
        for path, body in {
            "/flush_cache?model=none": {},
            "/restart_engines?model=none": {},
            "/unload_model": {"model": "none"},
            "/load_lora_adapter": {"model": "none", "lora_name": "a", "lora_path": "/a"},
            "/unload_lora_adapter": {"model": "none", "lora_name": "a"},
        }.items():
            assert (await client.post(path, json=body, headers=headers)).status_code == 404
