"""The prediction log as a server writes it: at once to a local spool, and from there to the artifact store.

docs/decisions/prediction-log.md says what is lost when: nothing by a kill, and what finds no room is counted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import shutil
import threading
import time
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from evergreen.contract import ConfigurationError, described
from evergreen.serving.log_files import FEATURE, REQUEST
from evergreen.serving.log_tables import OUTCOME, as_parquet, file_key
from evergreen.serving.metrics import LOG_DROPPED, LOG_TORN
from evergreen.serving.online_features import OnlineFeatures
from evergreen.serving.spool import SERVER, Spool
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore, get_store

log = logging.getLogger(__name__)

ROTATE_SECONDS, ROTATE_BYTES = 10.0, 4_000_000
"""When a spool file is brought to the artifact store: the first of the two."""
_WARN_SECONDS = 60.0
_DROPPED = "dropped"
SET_ASIDE = ".aside"
"""The ending of a spool file of which no table can be made."""


class PredictionLog:
    """The log of one model, as this process writes it.

    Parameters
    ----------
    spec, keys
        The model, and its entity keys that are whole numbers.
    store
        Where the files go.
    spool
        Where they are until then.
    mask_key
        What masked values are digested with.
    """

    def __init__(
        self, spec: ModelSpec, keys: Sequence[str], store: ArtifactStore, spool: Spool, mask_key: bytes = b""
    ) -> None:
        self._spec, self._keys, self._store, self._spool = spec, keys, store, spool
        self._mask_key = mask_key
        self._masked = [f"{prefix}{name}" for name in spec.serving.masked for prefix in (REQUEST, FEATURE)]
        self._lock = threading.Lock()
        self._dropped = 0
        self._warned = -_WARN_SECONDS
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log-{spec.name}", daemon=True)

    @classmethod
    @contextmanager
    def of(cls, spec: ModelSpec, features: OnlineFeatures, models: int = 1) -> Iterator[PredictionLog]:
        """Yield the log of a model as the settings say; at the end everything is brought to the artifact store.

        ``models`` of a server share its spool evenly: one that writes much takes no other's room.

        Raises
        ------
        ConfigurationError
            If columns are to be masked that the model has not, or there is no key to mask with.
        """
        settings = get_settings()
        key = settings.serving_mask_key
        _check_masked(spec, has_key=key is not None)
        digest = hmac.digest(key.get_secret_value().encode(), b"evergreen prediction log", "sha256") if key else b""
        folder = settings.state_dir / "spool" / spec.name
        spool = Spool(folder, SERVER, settings.serving_spool_megabytes * 1_000_000 // models)
        whole = [name for name, kind in features.key_kinds.items() if kind == "integer"]
        written = cls(spec, whole, get_store(), spool, digest)
        written.start()
        try:
            yield written
        finally:
            written.close()

    def start(self) -> None:
        """Bring files to the artifact store from now on, those first that dead processes left."""
        self._thread.start()

    def append(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Keep records; returns whether there was room. What is kept survives a kill of this process."""
        import orjson

        if not records:
            return True
        lines = [orjson.dumps(self._masking(record)) for record in records]
        with self._lock:
            told = [orjson.dumps({_DROPPED: self._dropped})] if self._dropped else []
            if self._spool.append(told + lines):
                self._dropped = 0
                if self._spool.file_bytes > ROTATE_BYTES:
                    self._wake.set()
                return True
            self._dropped += len(records)
        LOG_DROPPED.labels(self._spec.name).inc(len(records))
        self._warn()
        return False

    def close(self) -> None:
        """Bring what is left to the artifact store; what it does not take stays in the spool for the next process."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        self._spool.close()

    def flush(self) -> None:
        """Bring everything that was kept until now to the artifact store, as far as that takes it."""
        self._spool.rotate()
        for file in self._spool.finished():
            if not self._bring(file):
                return
            self._spool.remove(file)

    def recover(self) -> None:
        """Bring the files of dead processes to the artifact store."""
        for files in self._spool.left():
            for file in files:
                if not self._bring(file):
                    return
                file.unlink()

    def _run(self) -> None:
        while not self._stop.is_set():
            for bring in (self.recover, self.flush):
                try:
                    bring()
                except Exception as error:  # the log's thread must go on, and what is its own does not wait for others'
                    log.warning("%s: the prediction log: %s", self._spec.name, described(error))
            self._wake.wait(ROTATE_SECONDS)
            self._wake.clear()

    def _bring(self, file: Path) -> bool:
        """Write a spool file's records to the artifact store; repeated, it writes the same files.

        A file of which no table can be made is kept beside the others, which it must not hold back.
        """
        try:
            tables = dict(self._tables(file))
        except Exception as error:  # of a damaged disk, or a defect: not the artifact store's
            aside = file.with_suffix(SET_ASIDE)
            log.error("%s: %s is kept as %s: %s", self._spec.name, file, aside.name, described(error))
            shutil.copyfile(file, aside)
            return True
        try:
            for key, content in tables.items():
                self._store.write(key, content)
        except Exception as error:  # away, full, forbidden: the spool keeps them
            log.warning(
                "%s: the artifact store does not take the prediction log: %s", self._spec.name, described(error)
            )
            return False
        return True

    def _tables(self, file: Path) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the content of each file of the log that a spool file comes to."""
        groups, counts = self._read(file)
        for number, ((experiment, day), records) in enumerate(sorted(groups.items())):
            told = {name: count for name, count in counts.items() if not number}
            key = file_key(self._spec.name, experiment, date.fromisoformat(day), file.stem)
            yield key, as_parquet(self._spec, self._keys, records, told)

    def _read(self, file: Path) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], Counted[str]]:
        """Return a file's records, by experiment and day, and how many are missing."""
        import orjson

        groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        counts: Counted[str] = Counted()
        for line in file.read_bytes().splitlines():
            if not line:
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                counts["torn"] += 1
                LOG_TORN.labels(self._spec.name).inc()
                continue
            if _DROPPED in record:
                counts[_DROPPED] += record[_DROPPED]
                continue
            experiment = "" if OUTCOME in record else record["experiment"]
            groups[experiment, record["event_timestamp"][:10]].append(record)
        return groups, counts

    def _masking(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        present = [name for name in self._masked if record.get(name) is not None]
        return {**record, **{name: self._digest(record[name]) for name in present}} if present else record

    def _digest(self, value: object) -> str:
        return hmac.new(self._mask_key, json.dumps(value).encode(), hashlib.sha256).hexdigest()

    def _warn(self) -> None:
        """Say at most once a minute that records are lost."""
        now = time.monotonic()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            log.warning("%s: the prediction log has no room: %d records were dropped", self._spec.name, self._dropped)


def _check_masked(spec: ModelSpec, *, has_key: bool) -> None:
    features = spec.features
    known = {*features.keys, *features.request_inputs, *(one for view in features.views for one in view.features)}
    if unknown := sorted(set(spec.serving.masked) - known):
        raise ConfigurationError(
            f"{spec.name}: serving.masked: {', '.join(unknown)}: the log has no such column.",
            f"It has: {', '.join(sorted(known))}.",
        )
    if spec.serving.masked and not has_key:
        raise ConfigurationError(
            f"{spec.name}: serving.masked names columns, and EVERGREEN_SERVING_MASK_KEY is not set.",
            "Make one with: openssl rand -hex 32; servers of one model must have the same.",
        )
