"""Whether requests are traced: nothing of OpenTelemetry's SDK is imported where they are not."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from embedway.errors import TracingNotInstalled

if TYPE_CHECKING:
    from embedway.observability.request_tracer import RequestTracer

logger = logging.getLogger("embedway.api")

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracer_of(endpoint: str | None) -> RequestTracer | None:
    """What sends traces to `endpoint`, or to that of OpenTelemetry's own variables; None where there is neither.

    Raises TracingNotInstalled. Variables alone, which a platform may give to all that it runs, end no server.
    """
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    if endpoint is None and not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    try:
        from embedway.observability.request_tracer import RequestTracer
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("opentelemetry"):
            raise
        if endpoint is not None:
            raise TracingNotInstalled(package=error.name) from error
        logger.warning("nothing is traced: %s needs 'embedway[otel]'", ENDPOINT_VARIABLES[1])
        return None
    return RequestTracer.exporting_to(endpoint)
