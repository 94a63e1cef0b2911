"""What the HTTP side counts, for Prometheus; the engine's own figures are in `evergreen.serving.metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS = Counter("evergreen_serving_requests", "Requests by what came of them.", ("model", "protocol", "status"))
SECONDS = Histogram(
    "evergreen_serving_seconds", "From a request to its answer.", ("model", "protocol"), buckets=_BUCKETS
)
ROWS = Counter("evergreen_serving_rows", "Rows that were answered.", ("model",))
REFUSED = Counter("evergreen_serving_refused_requests", "Requests that were refused.", ("model", "reason"))
UNAUTHENTICATED = Counter("evergreen_serving_unauthenticated", "Requests of nobody that is known.")
IN_FLIGHT = Gauge("evergreen_serving_in_flight", "Requests that are being answered.")
TOKENS_STALE = Gauge("evergreen_serving_tokens_stale", "1 while the table of tokens cannot be read.")
