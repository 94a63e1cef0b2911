"""Create the trial's bucket as soon as its S3 answers. An existing one is kept."""

import os
import time

PATIENCE = 300.0  # seconds


def main() -> None:
    """Do it."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = os.environ["EVERGREEN_BUCKET"]
    client = boto3.client(
        "s3", config=Config(s3={"addressing_style": "path"}, connect_timeout=5, retries={"total_max_attempts": 1})
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=bucket)
            print(f"bucket {bucket} is there", flush=True)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"The bucket {bucket} could not be created: {error}") from None
            print(f"waiting for S3: {error}", flush=True)
            time.sleep(2)


if __name__ == "__main__":
    main()
