"""The application on a cluster of three small nodes, two of which have room for a replica."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedway import Embedder
from embedway.config import DEFAULT_MODEL
from embedway.observability.families import BATCH_TOKENS
from free_port import free_port

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S="0.3")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of threads and processes that end at once

TEXTS = [f"the text of number {i}" for i in range(24)]
SETTINGS: dict[str, Any] = {"dtype": "float32", "threads": 1, "alias": ["small"], "cache_mb": 0}
MEMORY = 80 << 20
PATIENCE = 90.0


@dataclass
class RunningCluster:
    cluster: Any
    url: str

    def deploy(self, **changes: Any) -> None:
        """The application with these settings of the cluster; returns once it answers."""
        from ray import serve

        from embedway.cluster.app import ClusterSettings, build

        values = {"settings": SETTINGS, "cpus": 1.0, "ingress_cpus": 0.0, "upscale_delay_s": 0.2, **changes}
        values["ingress_resources"] = {"node:__internal_head__": 0.001}  # where the proxy is
        serve.run(build(ClusterSettings.model_validate(values)), name="embedway", route_prefix="/")

    def replicas(self) -> list[psutil.Process]:
        """The processes of the model's replicas."""
        return [process for process in psutil.process_iter() if is_replica(process)]


def is_replica(process: psutil.Process) -> bool:
    try:
        return "ServeReplica:embedway:model_0" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def running() -> Iterator[RunningCluster]:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY, resources={"worker": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
    running = RunningCluster(cluster, f"http://127.0.0.1:{port}")
    running.deploy(min_replicas=2, max_replicas=2)
    try:
        yield running
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(zip(TEXTS, Embedder(dtype="float32").embed(TEXTS), strict=True))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ── the routes of one server ──


def test_vectors_are_those_of_one_server(running: RunningCluster, expected: dict[str, np.ndarray]) -> None:
    body = {"model": "small", "input": TEXTS, "encoding_format": "float"}
    answer = httpx.post(f"{running.url}/v1/embeddings", json=body, headers={"X-Request-Id": "mine"})
    assert answer.status_code == 200
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.json()["usage"]["prompt_tokens"] > len(TEXTS)
    found = [entry["embedding"] for entry in answer.json()["data"]]
    np.testing.assert_allclose(found, [expected[text] for text in TEXTS], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/embeddings", {"model": "nobody", "input": "a"}, 404, "model_not_found"),
        ("POST", "/v1/embeddings", {"input": "a"}, 400, "missing_field"),
        ("POST", "/v1/embeddings", {"model": "small", "input": ""}, 400, "empty_input"),
        ("POST", "/v1/embeddings", {"model": f"{DEFAULT_MODEL}:nobody", "input": "a"}, 404, "adapter_not_found"),
        ("POST", "/v1/embeddings", [1], 400, "invalid_type"),
        ("GET", "/v1/embeddings", None, 405, "method_not_allowed"),
        ("GET", "/nowhere", None, 404, "route_not_found"),
        ("POST", "/encode", {"text": "a"}, 200, None),
        ("POST", "/tokenize", {"prompt": "a"}, 200, None),
        ("POST", "/v1/detokenize", {"tokens": [101]}, 200, None),
        ("GET", "/server_info?model=nobody", None, 404, "model_not_found"),
        ("POST", "/flush_cache", None, 403, "admin_only"),
        ("GET", "/flush_cache", None, 405, "method_not_allowed"),
        ("POST", "/v1/load_lora_adapter", {}, 404, "route_not_found"),
        ("GET", "/v1/models", None, 200, None),
        ("GET", "/v1/models/small", None, 200, None),
        ("GET", "/model_info", None, 200, None),
        ("GET", "/health", None, 200, None),
        ("GET", "/readyz", None, 200, None),
        ("GET", "/livez", None, 200, None),
    ],
)
def test_routes_and_errors_are_those_of_one_server(
    running: RunningCluster, method: str, path: str, body: object, status: int, code: str | None
) -> None:
    answer = httpx.request(method, running.url + path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    if code is not None:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == code


def test_every_replica_has_its_part_of_the_metrics_and_of_the_server_s_state(running: RunningCluster) -> None:
    for i in range(20):  # two at random each time: both get some
        body = {"model": "small", "input": f"a text of number {i}"}
        assert httpx.post(f"{running.url}/v1/embeddings", json=body).status_code == 200
    metrics = httpx.get(f"{running.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    [tokens] = [family for family in text_string_to_metric_families(metrics.text) if family.name == BATCH_TOKENS]
    sums = {sample.labels["server"]: sample.value for sample in tokens.samples if sample.name.endswith("_sum")}
    info = httpx.get(f"{running.url}/server_info?model=small").json()
    assert info["model"]["name"] == DEFAULT_MODEL
    assert len(sums) == len(info["servers"]) == 2
    assert sums.keys() == info["servers"].keys()
    assert all(info["servers"][server]["engines"][0]["tokens"] == total for server, total in sums.items())
    assert all(total > 0 for total in sums.values())


# ── nothing is lost ──


class Load:
    """Clients that ask one text after the other, and look at each answer."""

    def __init__(self, url: str, expected: dict[str, np.ndarray]) -> None:
        self.url, self.expected, self.num_answers = url, expected, 0
        self.ended = False

    @contextlib.asynccontextmanager
    async def running(self, num_clients: int = 4) -> AsyncGenerator[None]:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            clients = [asyncio.create_task(self._ask(client, i)) for i in range(num_clients)]
            try:
                await self.more(8)
                yield
                await self.more(8)
            finally:
                self.ended = True
                await asyncio.gather(*clients)

    async def more(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted, deadline = self.num_answers + count, time.monotonic() + PATIENCE
        while self.num_answers < wanted:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def _ask(self, client: httpx.AsyncClient, i: int) -> None:
        while not self.ended:
            text = TEXTS[i % len(TEXTS)]
            i += 1
            answer = await client.post(f"{self.url}/v1/embeddings", json={"model": "small", "input": text})
            assert answer.status_code == 200, answer.text
            np.testing.assert_allclose(answer.json()["data"][0]["embedding"], self.expected[text], atol=1e-5)
            self.num_answers += 1


async def test_a_killed_replica_loses_no_request_and_comes_back(
    running: RunningCluster, expected: dict[str, np.ndarray]
) -> None:
    load = Load(running.url, expected)
    async with load.running():
        before = {process.pid for process in running.replicas()}
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        await load.more(20)
    until(lambda: len({process.pid for process in running.replicas()} - {min(before)}) == 2)


async def test_a_rolling_update_loses_no_request(running: RunningCluster, expected: dict[str, np.ndarray]) -> None:
    before = {process.pid for process in running.replicas()}
    load = Load(running.url, expected)
    async with load.running():
        changed = {**SETTINGS, "max_items": 100}
        await asyncio.to_thread(running.deploy, settings=changed, min_replicas=2, max_replicas=2)
    until(lambda: not before & {process.pid for process in running.replicas()})
    many = {"model": "small", "input": ["a"] * 101}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{running.url}/v1/embeddings", json=many)
    assert answer.json()["error"]["code"] == "too_many_items"


async def test_a_node_that_goes_loses_no_request(running: RunningCluster, expected: dict[str, np.ndarray]) -> None:
    load = Load(running.url, expected)
    async with load.running():
        node = running.cluster.list_all_nodes()[-1]
        await asyncio.to_thread(running.cluster.remove_node, node, allow_graceful=False)
        await load.more(20)
    assert len(running.replicas()) == 1
    running.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    until(lambda: len(running.replicas()) == 2)


async def test_an_operator_flushes_the_cache_of_every_replica_and_ends_requests(running: RunningCluster) -> None:
    """With an admin's key, which the replicas look at."""
    changed = {**SETTINGS, "cache_mb": 8, "admin_api_key": "operator"}
    await asyncio.to_thread(running.deploy, settings=changed, min_replicas=2, max_replicas=2)
    headers = {"Authorization": "Bearer operator"}

    async with httpx.AsyncClient(timeout=PATIENCE, base_url=running.url) as client:

        async def cached() -> list[int]:
            servers = (await client.get("/server_info")).json()["servers"]
            return [server["engines"][0]["cached_vectors"] for server in servers.values()]

        for i in range(30):
            body = {"model": "small", "input": f"a text of number {i}"}
            assert (await client.post("/v1/embeddings", json=body)).status_code == 200
        while sum(await cached()) < 30 or 0 in await cached():  # an engine tells of itself once a while
            await asyncio.sleep(0.05)
        refused = await client.post("/flush_cache", headers={"Authorization": "Bearer nobody"})
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert (await client.post("/flush_cache", headers=headers)).text == "Cache flushed.\n"
        while await cached() != [0, 0]:
            await asyncio.sleep(0.05)

        lists = [[f"some words of text {i} {j} " * 30 for j in range(512)] for i in range(4)]
        bodies = [{"model": "small", "input": texts} for texts in lists]
        requests = [asyncio.create_task(client.post("/v1/embeddings", json=body)) for body in bodies]
        answers: list[httpx.Response] = []
        while not answers or not all(request.done() for request in requests):
            await asyncio.sleep(0.05)
            assert (await client.post("/abort_request", headers=headers, json={"abort_all": True})).status_code == 200
            answers = [request.result() for request in requests if request.done()]
        assert {answer.json()["error"]["code"] for answer in answers} == {"request_aborted"}


async def test_replicas_come_and_go_with_the_tokens_that_wait(
    running: RunningCluster, expected: dict[str, np.ndarray]
) -> None:
    running.deploy(min_replicas=1, max_replicas=2, target_tokens=1000, downscale_delay_s=1.0)
    until(lambda: len(running.replicas()) == 1)
    body = {"model": "small", "input": ["some words of a text " * 40] * 64}
    async with httpx.AsyncClient(timeout=PATIENCE) as client:

        async def ask() -> None:
            while len(running.replicas()) < 2:
                assert (await client.post(f"{running.url}/v1/embeddings", json=body)).status_code == 200

        await asyncio.gather(*(ask() for _ in range(3)))
    until(lambda: len(running.replicas()) == 1)
