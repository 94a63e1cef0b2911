"""Traces of requests, where an OTLP endpoint is configured the usual way; nothing of it is imported otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configured_tracer() -> Tracer | None:
    """Return what traces are made with, or None where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is not set.

    Everything else about it, headers and names and sampling, is said by OpenTelemetry's own variables too.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "evergreen-serving"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("evergreen.serving")


@contextmanager
def traced(tracer: Tracer | None, method: str, headers: Mapping[bytes, bytes], state: dict[str, Any]) -> Iterator[None]:
    """Trace a request as part of its client's trace; what is known of it at the end is in ``state``.

    Parameters
    ----------
    tracer
        None traces nothing.
    method, headers
        Of the request; ``traceparent`` names the client's span.
    state
        ``model``, ``protocol``, ``status`` and ``request_id`` become attributes. No value of the request does.
    """
    if tracer is None:
        yield
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    context = extract({name.decode(): value.decode(errors="replace") for name, value in headers.items()})
    with tracer.start_as_current_span(f"{method} predictions", context, SpanKind.SERVER) as span:
        yield
        span.set_attribute("http.request.method", method)
        for name in ("model", "protocol", "status", "request_id"):
            if name in state:
                span.set_attribute(f"evergreen.{name}", state[name])
