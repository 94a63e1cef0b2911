"""What the engines of a server count; whoever publishes it reads prometheus_client's registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_MODEL = ["model"]

FOLLOWING_FAILED = Gauge("evergreen_following_failed", "1 while a model is not at what the registry says.", _MODEL)
ANSWERED = Counter(
    "evergreen_answered_rows", "Rows answered, by the version that did.", ["model", "version", "variant"]
)
REFUSED = Counter("evergreen_refused_requests", "Requests refused, and why.", ["model", "why"])
UNAVAILABLE_FEATURES = Counter(
    "evergreen_unavailable_features", "Looked up rows that were missing or stale.", ["model", "view", "kind"]
)
GRAPH_FAILED = Counter("evergreen_graph_failed_requests", "Requests whose graph raised.", ["model", "version"])
WAITING = Gauge("evergreen_waiting_rows", "Rows that wait for their answer.", _MODEL)
BATCH_ROWS = Histogram(
    "evergreen_batch_rows", "Rows of a micro-batch.", _MODEL, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
)
BATCH_SECONDS = Histogram(
    "evergreen_batch_seconds",
    "Duration of a micro-batch.",
    _MODEL,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5),
)
SHADOW_DROPPED = Counter("evergreen_shadow_dropped_rows", "Rows that the shadow had no time for.", _MODEL)
LOG_DROPPED = Counter("evergreen_log_dropped_records", "Records of the prediction log that found no room.", _MODEL)
LOG_TORN = Counter("evergreen_log_torn_lines", "Lines of the log's spool that a kill cut off.", _MODEL)
