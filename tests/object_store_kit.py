"""A real S3 that checks signatures: SeaweedFS, on free ports of loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from evergreen_airflow.kubelet import guardian
from installation import free_ports

BUCKET = "artifacts"
KEY, SECRET = "key", "secret"
PORTS = ("master", "filer", "volume", "admin", "s3")


@dataclass(frozen=True)
class ObjectStore:
    """Where it listens, and its process."""

    endpoint: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a client is told by variables."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "EVERGREEN_S3_ENDPOINT": self.endpoint,
        }

    def client(self) -> Any:
        """Return a boto3 client of its account."""
        account = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, **account)

    def wait(self) -> None:
        """Wait until it can be written to: it answers before it has its bucket, with AccessDenied."""
        client, deadline = self.client(), time.monotonic() + 240
        while True:
            try:
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
                break
            except (BotoCoreError, ClientError):
                assert self.process.poll() is None, self.log.read_text()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        client.delete_object(Bucket=BUCKET, Key="ready")


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Serve one bucket to one account; it ends with this process, however this ends."""
    # no administrator: whose first write to a missing bucket would create it
    allowed = [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")]
    account = {"name": "steps", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": allowed}
    (folder / "s3.json").write_text(json.dumps({"identities": [account]}))
    ports = free_ports(2 * len(PORTS))
    options = [f"-{name}.port={port}" for name, port in zip(PORTS, ports, strict=False)]
    options += [f"-{name}.port.grpc={port}" for name, port in zip(PORTS, ports[len(PORTS) :], strict=True)]
    options += [f"-s3.config={folder / 's3.json'}", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    options += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={BUCKET}"]
    weed = Path(sys.executable).with_name("weed")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(guardian.__file__), "--", str(weed), "mini", *options],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        try:
            store = ObjectStore(f"http://127.0.0.1:{ports[PORTS.index('s3')]}", process, folder / "log")
            store.wait()
            yield store
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)
