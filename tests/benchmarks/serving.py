"""``make bench BENCH=--only=serving``: the server on one core, asked by another process on the other.

The champion is a real one, trained on six weeks of flights; the rows are the flights of its last day, asked about the
day after, with features from PostgreSQL. `mlflow models serve` answers for the same version on the same core, in the
same run; it is given the features, as it looks up none. Airflow and its fellows are suspended meanwhile.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from evergreen.contract import Window
from installation import TWO_WEEKS, Installation, free_ports, installed
from isolation import inside
from rollout_kit import begin_rollout, end_rollout, signing
from small_model import scaled_models

MODEL = "flight_delay"
SERVER_CORE, CLIENT_CORE = 0, 1
RATE, SECONDS, CONNECTIONS = 500, 20, 32
OVERLOAD = 3
ROUNDS = 3
"""How often two are measured in turns, where one is compared with the other."""
_KEPT = ("postgres", "mlflow")
_HERE, _BIN = Path(__file__).parent, Path(sys.executable).parent
_Started = tuple[int, float, psutil.Process]


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Return what docs/performance.md says of serving."""
    with installed(scaled_models) as made:
        say("training a champion on six weeks of flights ...")
        made.run(*TWO_WEEKS, "--in-process", timeout=1800)
        with inside(made.environment):  # a rollout is begun as its step does it: signed
            key = signing()
        with inside({**made.environment, **key}), _alone(made):
            from evergreen.serving.tokens import create_token

            asked, given, version = _rows()
            headers = {"Authorization": f"Bearer {create_token('bench', 'bench')}"}
            return {
                **_ours(asked, headers, say),
                **_canary_with_log(made, asked, headers, version, say),
                **_mlflow(given, version, say),
                **_graph_alone(version),
            }


@contextmanager
def _alone(made: Installation) -> Iterator[None]:
    """Suspend the services that serving does not need."""
    supervisor = psutil.Process(json.loads((made.state / "run" / "status.json").read_text())["pid"])
    status = json.loads((made.state / "run" / "status.json").read_text())
    kept = {service["pid"] for service in status["services"] if service["name"] in _KEPT}
    kept |= {child.pid for pid in kept for child in psutil.Process(pid).children(recursive=True)}
    others = [one for one in supervisor.children(recursive=True) if one.pid not in kept]
    guards = {one.pid for pid in kept for one in psutil.Process(pid).parents()}
    suspended = [one for one in (supervisor, *others) if one.pid == supervisor.pid or one.pid not in guards]
    for one in suspended:
        with suppress(psutil.Error):
            one.suspend()
    try:
        yield
    finally:
        for one in reversed(suspended):
            with suppress(psutil.Error):
                one.resume()


def _rows() -> tuple[list[str], list[str], str]:
    """Return bodies for our server and for MLflow's, of the same flights, and the champion's version."""
    from evergreen.catalog import load_model
    from evergreen.features.feature_store import training_set
    from evergreen.training.registry import CHAMPION, alias_number

    spec = load_model(MODEL)
    day = date(2013, 2, 11)
    frame = training_set(spec, Window(start=day, end=day), labelled=False).dropna(subset=list(spec.features.inputs))
    names = dict.fromkeys([*spec.features.keys, *spec.features.request_inputs])
    at = f"{day + timedelta(days=1)}T12:00:00Z"
    asked = [json.dumps({**row, "event_timestamp": at}) for row in frame[list(names)].to_dict("records")]
    given = [json.dumps({"dataframe_records": [row]}) for row in frame[list(spec.features.inputs)].to_dict("records")]
    return asked, given, str(alias_number(MODEL, CHAMPION))


def _ours(bodies: Sequence[str], headers: Mapping[str, str], say: Callable[[str], None]) -> dict[str, Any]:
    path = f"/models/{MODEL}/predict"
    say("starting the server ...")
    with _serving(bodies, headers) as (port, start, server):
        memory = server.memory_info().rss / 2**20
        say(f"asking {RATE} times a second ...")
        steady = _load(port, path, headers, bodies, RATE, SECONDS)
        say(_shown(steady))
        say("asking as often as it answers ...")
        most = _load(port, path, headers, bodies, 0, SECONDS / 2)
        say(_shown(most))
        say(f"asking {OVERLOAD} times as often ...")
        rate = OVERLOAD * most["requests_per_second"]
        over = _load(port, path, headers, bodies, rate, SECONDS / 2, connections=256)
        say(_shown(over))
    return {
        "start_to_first_answer_s": start,
        "memory_mib": memory,
        f"at_{RATE}_a_second": _shown(steady),
        "capacity": _shown(most),
        "overload": _shown(over),
    }


def _canary_with_log(
    made: Installation, bodies: Sequence[str], headers: Mapping[str, str], version: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return what a canary of half of the entities, with the log on, costs beside a champion alone without a log.

    Each is measured ``ROUNDS`` times, in turns. The challenger is the champion's own version, so that both do the same.
    """
    path = Path(made.environment["EVERGREEN_MODELS_DIR"]) / MODEL / "model.yaml"
    written = path.read_text()
    rates: dict[bool, list[float]] = {False: [], True: []}
    for canary in [False, True] * ROUNDS:
        say(f"asking {'a canary with its log on' if canary else 'a champion without a log'} ...")
        spec = yaml.safe_load(written)
        path.write_text(yaml.safe_dump({**spec, "serving": {**spec.get("serving", {}), "log": canary}}))
        begun = begin_rollout(MODEL, version, version, strategy="canary", steps=[50]) if canary else None
        with _serving(bodies, headers) as (port, _, _):
            told = _load(port, f"/models/{MODEL}/predict", headers, bodies, 0, SECONDS / 2)
        if begun is not None:
            end_rollout(begun)
        rates[canary].append(told["requests_per_second"])
        say(_shown(told))
    path.write_text(written)
    plain, logged = (statistics.median(rates[canary]) for canary in (False, True))
    return {
        "champion_without_log_per_s": plain,
        "canary_with_log_per_s": logged,
        "canary_with_log_costs": 1 - logged / plain,
    }


def _serving(bodies: Sequence[str], headers: Mapping[str, str]) -> AbstractContextManager[_Started]:
    command = ["-m", "evergreen", "serve", f"--model={MODEL}"]
    return _on_one_core(command, f"/models/{MODEL}/predict", bodies[0], headers)


def _mlflow(bodies: Sequence[str], version: str, say: Callable[[str], None]) -> dict[str, Any]:
    say("asking mlflow models serve ...")
    command = ["-m", "mlflow", "models", "serve", f"--model-uri=models:/{MODEL}/{version}", "--env-manager=local"]
    found = {}
    with _on_one_core([*command, "--workers=1"], "/invocations", bodies[0], {}) as (port, start, server):
        found["mlflow_start_s"] = start
        found["mlflow_memory_mib"] = sum(one.memory_info().rss for one in [server, *server.children(True)]) / 2**20
        for connections in (1, 4, 16):
            told = _load(port, "/invocations", {}, bodies, 0, SECONDS / 2, connections)
            found[f"mlflow_{connections}_connections"] = _shown(told)
            say(_shown(told))
    return found


def _graph_alone(version: str) -> dict[str, float]:
    """Return how many single rows a second ONNX Runtime answers, and what one more loaded graph takes."""
    from evergreen.serving.following import load_variant

    graph = load_variant(MODEL, version).graph
    row = {name: [0.5] for name in graph.numeric} | {name: ["UA"] for name in graph.categorical}
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 2:
        graph.run(row)
        count += 1
    before = psutil.Process().memory_info().rss
    more = [load_variant(MODEL, version) for _ in range(10)]
    taken = (psutil.Process().memory_info().rss - before) / len(more) / 2**20
    return {"onnx_runtime_alone_per_s": count / 2, "memory_of_a_model_mib": taken}


@contextmanager
def _on_one_core(command: Sequence[str], path: str, body: str, headers: Mapping[str, str]) -> Iterator[_Started]:
    """Run a server on one core; yields its port, and the seconds until its first answer."""
    (port,) = free_ports(1)
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            [sys.executable, *command, f"--port={port}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}"},  # where mlflow looks for uvicorn
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )
        try:
            while True:
                assert started.poll() is None, (log.seek(0), log.read()[-2000:])
                with suppress(httpx.TransportError):
                    answer = httpx.post(
                        f"http://127.0.0.1:{port}{path}",
                        content=body,
                        headers={"Content-Type": "application/json", **headers},
                        timeout=30,
                    )
                    if answer.status_code == 200:
                        break
                    assert answer.status_code == 503, answer.text
                time.sleep(0.02)
            yield port, time.perf_counter() - began, psutil.Process(started.pid)
        finally:
            started.terminate()
            started.wait(60)


def _load(
    port: int,
    path: str,
    headers: Mapping[str, str],
    bodies: Sequence[str],
    rate: float,
    seconds: float,
    connections: int = CONNECTIONS,
) -> dict[str, Any]:
    """Ask from a process of its own, on the other core."""
    plan = {
        "host": "127.0.0.1",
        "port": port,
        "path": path,
        "headers": dict(headers),
        "bodies": list(bodies),
        "rate": rate,
        "seconds": seconds,
        "connections": connections,
        "cores": [CLIENT_CORE],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(plan), encoding="utf-8")
        done = subprocess.run([sys.executable, _HERE / "load.py", file], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _shown(told: Mapping[str, Any]) -> str:
    """Return a measurement in a line."""
    parts = [f"{told['requests_per_second']:.0f}/s answered"]
    for status, latency in sorted(told["latency_ms"].items()):
        parts.append(f"{status}: {latency['count']}, p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms")
    return "; ".join(parts)
