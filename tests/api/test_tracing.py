"""Requests as an OpenTelemetry collector sees them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import httpx
import pytest

from embedway.errors import TracingNotInstalled
from embedway.observability.request_tracer import RequestTracer
from embedway.observability.tracing import tracer_of
from otlp_collector import Collector, attributes_of, collecting

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # pragma: allowlist secret
SERVER_KIND, ERROR = 2, 2
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


async def traced(connect: Connect, *asked: tuple[str, dict[str, str], object], **settings: object) -> Collector:
    """What the collector has got of requests (path, headers, body)."""
    with collecting() as collector:
        tracer = RequestTracer.exporting_to(collector.url)
        async with connect(tracer=tracer, **settings) as client:
            for path, headers, body in asked:
                await client.post(path, headers=headers, json=body)
        tracer.close()
    return collector


async def test_a_request_is_a_span_of_the_client_s_trace_with_its_stages_below(connect: Connect) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1", "X-Request-Id": "mine"}
    before = time.time_ns()
    collector = await traced(connect, ("/v1/embeddings", headers, {"model": MODEL, "input": ["hello world", "b"]}))
    (root,) = collector.named("POST /v1/embeddings")
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.kind) == (TRACE, PARENT, SERVER_KIND)
    assert root.trace_state == "a=1"
    stages = sorted(collector.children_of(root), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == ["parse", "tokenize", "queue", "compute", "encode"]
    for one, following in pairwise(stages):
        assert one.end_time_unix_nano <= following.start_time_unix_nano
    assert len(collector.spans) == 6
    assert {span.trace_id for span in stages} == {root.trace_id}
    for span in stages:
        assert before <= root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano <= time.time_ns()
        where = "engine" if span.name in ("queue", "compute") else "api"
        assert attributes_of(span) == {"embedway.process": where}
    shown = attributes_of(root)
    assert (shown["embedway.request_id"], shown["http.response.status_code"]) == ("mine", 200)
    assert (shown["gen_ai.request.model"], shown["embedway.items"], shown["gen_ai.usage.input_tokens"]) == (MODEL, 2, 7)
    assert "hello" not in str(collector.spans)
    assert collector.paths == ["/v1/traces"]
    assert collector.services[0]["service.name"] == "embedway"


async def test_what_the_client_does_not_sample_is_not_sent(connect: Connect) -> None:
    body = {"model": MODEL, "input": "a"}
    unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    collector = await traced(connect, ("/v1/embeddings", unsampled, body), ("/v1/embeddings", {}, body))
    assert [span.parent_span_id for span in collector.named("POST /v1/embeddings")] == [b""]
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


async def test_the_sampler_is_opentelemetry_s_own(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "search")
    body, headers = {"model": MODEL, "input": "a"}, {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    collector = await traced(connect, ("/v1/embeddings", {}, body), ("/v1/embeddings", headers, body))
    assert [span.trace_id.hex() for span in collector.named("POST /v1/embeddings")] == [TRACE]
    assert collector.services[0]["service.name"] == "search"


async def test_a_refused_request_has_the_stages_that_it_came_to_and_a_fault_is_an_error(connect: Connect) -> None:
    collector = await traced(
        connect,
        ("/v1/embeddings", {}, {"model": MODEL, "input": ""}),
        ("/v1/embeddings", {"traceparent": "nonsense"}, {"model": MODEL, "input": "a"}),
        with_engine=False,
    )
    refused, failed = collector.named("POST /v1/embeddings")
    assert [span.name for span in collector.children_of(refused)] == ["parse"]
    assert (attributes_of(refused)["http.response.status_code"], refused.status.code) == (400, 0)
    assert (attributes_of(failed)["http.response.status_code"], failed.status.code) == (503, ERROR)


def test_nothing_is_traced_unless_somebody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracer_of(None) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as inner:
            inner.setenv(name, value)
            assert tracer_of("http://127.0.0.1:9") is None
    tracer = tracer_of(None)
    assert tracer is not None
    tracer.close()


def test_without_the_extra_the_flag_ends_the_start_and_a_variable_is_only_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "embedway.observability.request_tracer", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingNotInstalled, match=r"embedway\[otel\]"):
        tracer_of("http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert tracer_of(None) is None
    assert "nothing is traced" in caplog.text
