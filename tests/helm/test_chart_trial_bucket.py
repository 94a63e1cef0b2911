"""The bucket of a trial: made by the bootstrap on a real SeaweedFS, and what each identity may do in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chart_bootstrap import container_of, run, values_of
from chart_rendering import objects, pick

from installation import free_ports


@pytest.mark.integration
def test_the_bucket_of_a_trial_is_made_and_the_steps_may_write_into_it(tmp_path: Path) -> None:
    import base64

    import boto3
    from botocore.exceptions import ClientError

    found = objects("trial")
    (container,) = pick(found, "StatefulSet", "evergreen-seaweedfs")["spec"]["template"]["spec"]["containers"]
    identities = base64.b64decode(pick(found, "Secret", "evergreen-seaweedfs")["data"]["s3.json"])
    (tmp_path / "s3.json").write_bytes(identities)
    others = ("s3", "master", "volume", "filer", "admin")
    ports = free_ports(2 * len(others))
    here = {"-dir": str(tmp_path / "data"), "-ip.bind": "127.0.0.1"}
    here |= {"-s3.config": str(tmp_path / "s3.json")}
    options = dict(option.split("=", 1) for option in container["command"][2:]) | here
    twins = [f"-{name}.port{twin}" for twin in ("", ".grpc") for name in others]
    options |= {name: str(port) for name, port in zip(twins, ports, strict=True)}
    (tmp_path / "data").mkdir()
    server = subprocess.Popen(
        [
            str(Path(sys.executable).parent / container["command"][0]),
            container["command"][1],
            *(f"{name}={value}" for name, value in options.items()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        keys = {one["name"]: one["credentials"][0] for one in json.loads(identities)["identities"]}
        environment = {
            "EVERGREEN_BUCKET": values_of(container_of("trial", "bucket"))["EVERGREEN_BUCKET"],
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports[0]}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["platform"]["accessKey"],
            "AWS_SECRET_ACCESS_KEY": keys["platform"]["secretKey"],
        }
        for _ in range(2):
            done = run("bucket.py", environment)
            assert done.returncode == 0, done.stderr
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=keys["steps"]["accessKey"],
            aws_secret_access_key=keys["steps"]["secretKey"],
            region_name="us-east-1",
        )
        client.put_object(Bucket="evergreen", Key="evergreen/artifacts/x", Body=b"1")
        with pytest.raises(ClientError, match="AccessDenied"):
            client.create_bucket(Bucket="other")
        served = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=keys["serving"]["accessKey"],
            aws_secret_access_key=keys["serving"]["secretKey"],
            region_name="us-east-1",
        )
        assert served.get_object(Bucket="evergreen", Key="evergreen/artifacts/x")["Body"].read() == b"1"
        for folder in ("served", "feedback"):
            served.put_object(Bucket="evergreen", Key=f"evergreen/artifacts/{folder}/flight_delay/x", Body=b"1")
        found = served.list_objects_v2(Bucket="evergreen", Prefix="evergreen/artifacts/served/")["Contents"]
        assert [one["Key"] for one in found] == ["evergreen/artifacts/served/flight_delay/x"]
        client.put_object(Bucket="evergreen", Key="evergreen/lake/x", Body=b"1")
        with pytest.raises(ClientError, match="AccessDenied"):
            served.get_object(Bucket="evergreen", Key="evergreen/lake/x")
        for key in ("x", "runs/x", "served_not/x"):
            with pytest.raises(ClientError, match="AccessDenied"):
                served.put_object(Bucket="evergreen", Key=f"evergreen/artifacts/{key}", Body=b"2")
    finally:
        server.terminate()
        server.wait(20)
