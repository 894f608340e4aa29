"""What a server writes down, and what it must not."""

from __future__ import annotations

import base64
import json
import socket

import httpx

from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MARKER = "marker-7391-secret"
KEY, ADMIN_KEY = "key-4410-secret", "admin-8826-secret"


def test_a_line_is_logged_for_each_request_at_any_level_without_what_is_secret_in_it() -> None:
    flags = ["--log-level", "error", "--log-requests", "--admin-api-key", ADMIN_KEY]
    environment = {"EMBEDWAY_API_KEY": f"another,{KEY}"}
    with RunningServer(*flags, environment=environment) as server, httpx.Client(base_url=server.url) as client:
        for model in (MODEL, "m\n2026 ERROR [api] forged"):
            body = {"model": model, "input": MARKER, "user": MARKER}
            client.post("/v1/embeddings", json=body, headers={"Authorization": f"Bearer {KEY}", "X-Other": MARKER})
        environments = [child.environ() for child in server.children("embedway.api.server")]
    log = [line for line in server.log if "embedway.requests" in line]
    lines = [json.loads(line.partition("embedway.requests: ")[2]) for line in log]
    assert [(line["status"], line["key_number"]) for line in lines] == [(200, 2), (404, 2)]
    assert not any(line.startswith("2026 ERROR") for line in server.log)
    for secret in (MARKER, KEY, ADMIN_KEY):
        assert secret not in "".join(server.log)
    assert environments
    assert KEY not in str(environments)


def test_neither_texts_nor_media_nor_keys_are_logged_at_any_level() -> None:
    in_base64 = base64.b64encode(MARKER.encode()).decode()
    bodies: list[dict[str, object]] = [
        {"model": MODEL, "input": MARKER},
        {"model": MODEL, "input": [MARKER] * 300, "truncate": "end"},
        {"model": MODEL, "input": MARKER * 1000},
        {"model": MODEL, "input": MARKER, "prompt": MARKER, "dimensions": 0},
        {"model": MARKER, "input": "a"},
        {"model": MODEL, "input": "a", "user": MARKER, "lora_path": MARKER},
        {"model": MODEL, "input": [MARKER, 5]},
        {"model": MODEL, "input": [{"image": f"data:image/png;base64,{in_base64}"}]},
        {"model": MODEL, "input": [{"image": f"https://127.0.0.1/{MARKER}"}]},
        {"text": MARKER},
        {"prompt": MARKER},
    ]
    flags = ["--log-level", "debug", "--api-key", KEY, "--admin-api-key", ADMIN_KEY]
    with RunningServer(*flags) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        statuses = set()
        for key in (KEY, ADMIN_KEY, MARKER):
            headers = {"Authorization": f"Bearer {key}"}
            for path in ("/v1/embeddings", "/encode", "/tokenize", f"/{MARKER}", f"/v1/models/{MARKER}?{MARKER}"):
                for body in bodies:
                    statuses.add(client.post(path, json=body, headers=headers).status_code)
            client.post("/v1/embeddings", content=f'{{"input": "{MARKER}', headers=headers)
            load = {"lora_name": "a", "lora_path": "/no/such"}
            statuses.add(client.post("/load_lora_adapter", json=load, headers=headers).status_code)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(f"{MARKER} /{MARKER} HTTP/1.1\r\n\r\n".encode())
            assert connection.recv(2**16)
        assert {200, 400, 401, 404} <= statuses
    log = "".join(server.log)
    assert "DEBUG" in log
    for secret in (MARKER, in_base64, KEY, ADMIN_KEY):
        assert secret not in log
