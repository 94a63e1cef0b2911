"""What a server counts, for Prometheus; a label has few values: names of model.yaml, versions, and words of ours."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_MODEL = ["model"]

REQUESTS = Counter("evergreen_serving_requests", "Requests, by what came of them.", ["model", "protocol", "status"])
REFUSED = Counter("evergreen_serving_refused_requests", "Requests that were refused, and why.", ["model", "reason"])
SECONDS = Histogram(
    "evergreen_serving_seconds",
    "From a request to its answer.",
    ["model", "protocol"],
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
IN_FLIGHT = Gauge("evergreen_serving_in_flight", "Requests that are being answered.")
TOKENS_STALE = Gauge("evergreen_serving_tokens_stale", "1 while the table of tokens cannot be read.")
FOLLOWING_FAILED = Gauge(
    "evergreen_serving_following_failed", "1 while a model is not at what the registry says.", _MODEL
)
ANSWERED = Counter(
    "evergreen_serving_answered_rows", "Rows answered, by the version that did.", ["model", "version", "variant"]
)
UNAVAILABLE_FEATURES = Counter(
    "evergreen_serving_unavailable_features", "Looked up rows that were missing or stale.", ["model", "view", "kind"]
)
GRAPH_FAILED = Counter("evergreen_serving_graph_failed_requests", "Requests whose graph failed.", ["model", "version"])
WAITING = Gauge("evergreen_serving_waiting_rows", "Rows that wait for their answer.", _MODEL)
BATCH_ROWS = Histogram(
    "evergreen_serving_batch_rows", "Rows of a micro-batch.", _MODEL, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
)
BATCH_SECONDS = Histogram(
    "evergreen_serving_batch_seconds",
    "Duration of a micro-batch.",
    _MODEL,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5),
)
SHADOW_DROPPED = Counter("evergreen_serving_shadow_dropped_rows", "Rows that the shadow had no time for.", _MODEL)
LOG_DROPPED = Counter(
    "evergreen_serving_log_dropped_records", "Records of the prediction log that found no room.", _MODEL
)
LOG_TORN = Counter("evergreen_serving_log_torn_lines", "Lines of the log's spool that a kill cut off.", _MODEL)
