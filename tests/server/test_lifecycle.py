"""A server's life as its operator sees it: start, refuse to start, drain, survive."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from running_server import RunningServer
from server_under_load import loaded

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def embedway(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedway", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--no-such-flag"], "--no-such-flag"),
        (["serve", "--port", "many"], "--port"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--dtype", "int3"], "--dtype"),
        (["serve", "--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["serve", "/no/such/folder"], "/no/such/folder"),
        (["serve", "nobody/nothing"], "nobody/nothing"),
        (["serve", "--max-length", "100000", "--port", "0"], "--max-length"),
        (["serve", "--device", "cuda:77", "--port", "0"], "cuda:77"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_what_cannot_start_says_why_in_one_line_with_status_2(arguments: list[str], says: str) -> None:
    ended = embedway(*arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = embedway("serve", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "cannot listen" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_broken_setting_in_the_environment_is_named() -> None:
    ended = embedway("serve", EMBEDWAY_PORT="many")
    assert ended.returncode == 2
    assert "--port" in ended.stderr


def test_help_groups_the_flags_and_shows_defaults() -> None:
    ended = embedway("serve", "--help", COLUMNS="200")
    assert ended.returncode == 0
    for word in ("Model", "Server", "Requests", "Engine", "--served-model-name", "30000", "127.0.0.1", "--truncate"):
        assert word in ended.stdout


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "embedway.yaml"
    config.write_text("max-items: 3\ntruncate: end\nserved_model_name: [from-file]\nlog-level: warning\n")
    environment = {"EMBEDWAY_MAX_ITEMS": "4", "EMBEDWAY_TRUNCATE": "start"}
    with RunningServer("--config", str(config), "--max-items", "5", environment=environment) as server:
        settings = httpx.get(f"{server.url}/server_info").json()["settings"]
        assert (settings["max_items"], settings["truncate"]) == (5, "start")
        assert settings["served_model_name"] == ["from-file"]


def test_the_banner_tells_what_is_served(minilm_server: RunningServer) -> None:
    banner = "".join(minilm_server.log)
    for fact in (MODEL, "mean", "384", "256 tokens", " on cpu, 1 threads", minilm_server.url, "curl "):
        assert fact in banner


def test_every_child_process_ends_with_the_supervisor_even_a_killed_one() -> None:
    server = RunningServer()
    try:
        children = [*server.children("embedway.engine.loop"), *server.children("embedway.api.server")]
        assert len(children) == 2
        server.process.kill()
        for child in children:
            child.wait(30)
    finally:
        server.stop()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_no_accepted_request_is_lost_when_the_server_is_told_to_end(signal_number: signal.Signals) -> None:
    with RunningServer() as server:
        async with loaded(server, 10) as tasks:
            server.process.send_signal(signal_number)
            answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 10
        assert server.process.wait(60) == 0


async def test_a_killed_engine_costs_nobody_a_request() -> None:
    with RunningServer() as server:
        [engine] = server.children("embedway.engine.loop")
        async with loaded(server, 10) as tasks:
            engine.kill()
            answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 10


def test_an_api_process_that_is_killed_comes_back() -> None:
    with RunningServer() as server:
        [api] = server.children("embedway.api.server")
        api.kill()
        api.wait(30)
        # The supervisor holds the port: a client waits for the successor and is not refused.
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": "a"}, timeout=60)
        assert answer.status_code == 200


async def test_several_api_workers_and_replicas_serve_one_port() -> None:
    with RunningServer("--api-workers", "2", "--replicas", "2") as server:
        assert len(server.children("embedway.api.server")) == 2
        assert len(server.children("embedway.engine.loop")) == 2
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            body = {"model": MODEL, "input": "the same text"}
            answers = await asyncio.gather(*(client.post("/v1/embeddings", json=body) for _ in range(40)))
            vectors = np.array([answer.json()["data"][0]["embedding"] for answer in answers])
            np.testing.assert_allclose(vectors, vectors[:1].repeat(40, axis=0), atol=1e-6)
            counted = sum(
                float(line.split()[-1])
                for line in (await client.get("/metrics")).text.splitlines()
                if line.startswith("embedway_items_total")
            )
            assert counted == 40  # of both processes, whichever answers


def test_a_key_closes_the_server(tmp_path: Path) -> None:
    with RunningServer(environment={"EMBEDWAY_API_KEY": "first,second"}) as server:
        body = {"model": MODEL, "input": "a"}
        assert httpx.post(f"{server.url}/v1/embeddings", json=body).status_code == 401
        for key in ("first", "second"):
            header = {"Authorization": f"Bearer {key}"}
            assert httpx.post(f"{server.url}/v1/embeddings", json=body, headers=header).status_code == 200
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert "first" not in "".join(server.log)


@pytest.mark.parametrize(
    "raw", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_gets_the_error_body_too(minilm_server: RunningServer, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", minilm_server.port), timeout=30) as connection:
        connection.sendall(raw)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "malformed_http"


def test_a_server_that_is_ready_has_nothing_left_to_load_for_a_request_with_a_deadline() -> None:
    with RunningServer(environment={"PYTHONPROFILEIMPORTTIME": "1"}) as server:
        server.log.clear()
        body = {"model": MODEL, "input": ["some words " * 40] * 400}
        answer = httpx.post(
            f"{server.url}/v1/embeddings", json=body, headers={"X-Request-Timeout-Ms": "60000"}, timeout=60
        )
    assert answer.status_code == 200
    assert [line for line in server.log if "import time:" in line and "anyio" in line] == []
