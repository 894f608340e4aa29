"""A request → its spans, sent over OTLP: one of the server's, and below it one of each stage.

All are made in the API process once the request is over, of moments that were measured for the metrics anyway. The
engine's stages are there, too: its answer says how long they took, so it needs neither exporter nor context. Spans are
sent by a thread of the SDK's, in batches; what it cannot send in time is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from embedway.version import __version__

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from embedway.observability.request_log import RequestRecord
    from embedway.observability.stage_clock import Stage

TRACES_PATH = "/v1/traces"
CONTEXT_HEADERS = ("traceparent", "tracestate")
ENGINE_STAGES = frozenset({"queue", "compute"})
ATTRIBUTES = {
    "request_id": "embedway.request_id",
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "key_number": "embedway.key_number",
    "model": "gen_ai.request.model",
    "adapter": "embedway.adapter",
    "items": "embedway.items",
    "tokens": "gen_ai.usage.input_tokens",
    "priority": "embedway.priority",
}
"""A record's field → its name by OpenTelemetry's conventions, where these have one. Texts are in no span."""


class RequestTracer:
    """Of one API process. Ended by `close`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("embedway", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def exporting_to(cls, endpoint: str | None) -> RequestTracer:
        """`endpoint` is the collector's base URL; None: the SDK reads it from OTEL_EXPORTER_OTLP_ENDPOINT, as it does
        all else (sampler, headers, certificates, service name)."""
        url = None if endpoint is None else endpoint.rstrip("/") + TRACES_PATH
        provider = TracerProvider(resource=_resource())
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        return cls(provider)

    def trace(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        record: RequestRecord,
        began: float,
        stages: Iterable[tuple[Stage, float, float]],
    ) -> None:
        """A request that is over: `headers` as ASGI has them, `began` and `stages` by `time.perf_counter`.

        A parent in `traceparent` is the client's span, and its decision to sample holds.
        """
        offset = time.time_ns() - time.perf_counter_ns()

        def at(moment: float) -> int:
            return int(moment * 1e9) + offset

        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            context=self._propagator.extract(_carrier(headers)),
            kind=SpanKind.SERVER,
            attributes=_attributes(record),
            start_time=at(began),
        )
        if span.is_recording():
            inside = set_span_in_context(span)
            for stage, stage_began, stage_ended in stages:
                where: dict[str, AttributeValue] = {"embedway.process": "engine" if stage in ENGINE_STAGES else "api"}
                child = self._tracer.start_span(stage, inside, attributes=where, start_time=at(stage_began))
                child.end(at(stage_ended))
            if record.status == 0 or record.status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end(at(began + record.seconds))

    def close(self) -> None:
        """Send what waits. Blocks."""
        self._provider.shutdown()


def _resource() -> Resource:
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):  # nobody named it
        resource = resource.merge(Resource({"service.name": "embedway"}))
    return resource


def _carrier(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in headers:
        if (name := key.decode("latin-1")) in CONTEXT_HEADERS:
            text = value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def _attributes(record: RequestRecord) -> dict[str, AttributeValue]:
    known = ((name, getattr(record, field)) for field, name in ATTRIBUTES.items())
    return {name: value for name, value in known if value is not None}
