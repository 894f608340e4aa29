"""Where requests go, who may send them, and how many replicas there are, without a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from embedway.api_keys import ApiKeys
from embedway.config import load_settings

pytestmark = pytest.mark.filterwarnings("ignore")

names = st.lists(st.text("abcdef", min_size=4, max_size=6), min_size=2, max_size=6, unique=True)


@given(names, st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_a_replica_that_goes_moves_its_own_share_only(names: list[str], affinities: list[str]) -> None:
    from embedway.cluster.affinity_router import best_of

    for affinity in affinities:
        first = names[best_of(affinity, names)]
        for gone in names:
            left = [name for name in names if name != gone]
            assert gone == first or left[best_of(affinity, left)] == first


def test_affinities_are_spread_over_all_replicas() -> None:
    from embedway.cluster.affinity_router import best_of

    counts = [0] * 4
    for i in range(400):
        counts[best_of(f"request {i}", ["a", "b", "c", "d"])] += 1
    assert min(counts) > 60


def ranks(affinity: str, lengths: dict[str, int]) -> list[list[str]]:
    from embedway.cluster.affinity_router import AffinityRouter

    router: Any = object.__new__(AffinityRouter)
    router._replica_queue_len_cache = lengths
    replicas: list[Any] = [SimpleNamespace(replica_id=Id(name)) for name in lengths]
    request: Any = SimpleNamespace(kwargs={"affinity": affinity})
    chosen = asyncio.run(router.choose_replicas(replicas, request))
    return [[str(replica.replica_id) for replica in rank] for rank in chosen]


class Id(str):
    """A replica's, as the router sees it."""

    @property
    def unique_id(self) -> str:
        return str(self)


def test_equal_requests_go_to_one_replica_while_its_queue_is_short() -> None:
    [first] = {ranks("a text", {"a": 3, "b": 0, "c": 0})[0][0] for _ in range(20)}
    lengths = dict.fromkeys("abc", 0)
    for busy in (0, 8):
        assert ranks("a text", {**lengths, first: busy})[0] == [first]
    for _ in range(20):
        assert ranks("a text", {**lengths, first: 9})[0] != [first]


def test_requests_without_affinity_go_to_two_of_them_by_chance() -> None:
    seen = {tuple(sorted(ranks("", dict.fromkeys("abc", 0))[0])) for _ in range(100)}
    assert seen == {("a", "b"), ("a", "c"), ("b", "c")}


@pytest.mark.parametrize(("tokens", "replicas"), [(0, 1), (1, 1), (100, 1), (101, 2), (1000, 10)])
def test_replicas_follow_the_tokens_that_wait(tokens: float, replicas: int) -> None:
    from embedway.cluster.autoscaling import QUEUED_TOKENS, ByQueuedTokens

    context: Any = SimpleNamespace(aggregated_metrics={QUEUED_TOKENS: {"a": tokens / 4, "b": tokens * 3 / 4}})
    assert ByQueuedTokens(target_tokens=100)(context) == (replicas, {})
    nothing: Any = SimpleNamespace(aggregated_metrics=None)
    assert ByQueuedTokens()(nothing)[0] == 1


def test_replicas_get_the_keys_and_none_of_ray_s_settings(tmp_path: Path) -> None:
    from embedway.cluster.app import NOT_OF_A_REPLICA, plain
    from embedway.cluster.replica import own_key
    from embedway.cluster.serving import cluster_settings

    given = {"api_key": ["first", "second"], "admin_api_key": "third", "ray_replicas": "2-5", "ray_cpus": 3, "port": 1}
    cluster = cluster_settings(load_settings(given))
    assert (cluster.min_replicas, cluster.max_replicas, cluster.cpus) == (2, 5, 3)
    values = plain(load_settings(dict(cluster.settings)), without=NOT_OF_A_REPLICA)
    assert (values["api_key"], values["admin_api_key"]) == (["first", "second"], "third")
    assert not values.keys() & set(NOT_OF_A_REPLICA)
    (tmp_path / "keys").write_text("# ours\nof-the-file\n")
    assert [own_key(values), own_key({"api_key_file": str(tmp_path / "keys")}), own_key({})] == [
        "first",
        "of-the-file",
        None,
    ]


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/v1/models", {}, "invalid_api_key"),
        ("/v1/embeddings", {"authorization": "Bearer wrong"}, "invalid_api_key"),
        ("/nowhere", {"authorization": "Bearer right"}, "route_not_found"),
        ("/livez", {}, None),
    ],
)
def test_the_ingress_says_nothing_to_whom_it_does_not_know(
    path: str, headers: dict[str, str], code: str | None
) -> None:
    from embedway.cluster.ingress import Ingress

    front = Ingress({}, keys=ApiKeys.of(load_settings({"api_key": ["right"]})), max_body_mb=1)
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 1),
        "scheme": "http",
    }
    response = asyncio.run(front(Request(scope)))
    body = json.loads(bytes(response.body))
    assert body.get("error", {}).get("code") == code
