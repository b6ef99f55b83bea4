"""The S3 store that both registries use: moto in one process on the load's cores, or the one in the environment.

    MOORAGE_S3_ENDPOINT       http://127.0.0.1:8000: a store that is not the limit (Ceph's radosgw, MinIO)
    MOORAGE_S3_ACCESS_KEY, MOORAGE_S3_SECRET_KEY, MOORAGE_S3_REGION     the account to use there

The same variables as the tests', see tests/s3.py.  boto3 only makes and empties buckets, outside what is measured.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from bench import servers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MOTO", "Store", "a_store", "from_environment"]

MOTO: Final = str(Path(sys.executable).with_name("moto_server"))


@dataclass(frozen=True, slots=True)
class Store:
    """An account in a store.  `pid` is the process that answers at `endpoint`, if it runs on this machine."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    pid: int | None

    def cpu_s(self) -> float | None:
        """Processor seconds that the process behind the endpoint has used, nothing behind it."""
        return None if self.pid is None else servers.cpu_s([self.pid])

    @contextmanager
    def bucket(self) -> Iterator[str]:
        """A new bucket, removed with all it holds."""
        name = f"moorage-bench-{secrets.token_hex(6)}"
        client = self._client()
        client.create_bucket(Bucket=name)
        try:
            yield name
        finally:
            for entry in client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
                client.abort_multipart_upload(Bucket=name, Key=entry["Key"], UploadId=entry["UploadId"])
            self.empty(name)
            client.delete_bucket(Bucket=name)
            client.close()

    def empty(self, bucket: str) -> None:
        """Delete every object, one by one: not all stores take the list."""
        client = self._client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=entry["Key"])

    def sections(self, bucket: str, *, redirect: bool, endpoint: str = "") -> dict[str, Any]:
        """Return the configuration of storage in `bucket`, the same for all sides."""
        parameters = {
            "bucket": bucket,
            "region": self.region,
            "regionendpoint": endpoint or self.endpoint,
            "accesskey": self.access_key,
            "secretkey": self.secret_key,
            # Distribution 3 puts the bucket into the host name otherwise.
            "forcepathstyle": True,
        }
        storage = {
            "s3": parameters,
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
            "redirect": {"disable": not redirect},
        }
        return {"storage": storage}

    def _client(self) -> Any:
        import boto3  # noqa: PLC0415  of three rows
        from botocore.config import Config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


def from_environment() -> bool:
    """Return whether the environment names a store, so that moto is not needed."""
    return "MOORAGE_S3_ENDPOINT" in os.environ


@contextmanager
def a_store(root: Path, cpus: Sequence[int]) -> Iterator[Store]:
    """The store for one row: both sides, all rounds.  Raises ServerFailed."""
    endpoint = os.environ.get("MOORAGE_S3_ENDPOINT")
    if endpoint is None:
        with servers.start_moto(MOTO, root, cpus) as moto:
            yield Store(f"http://127.0.0.1:{moto.port}", "AK", "SK", "us-east-1", moto.process.pid)
        return
    address = urlsplit(endpoint)
    local = address.hostname in {"127.0.0.1", "localhost"}
    yield Store(
        endpoint,
        os.environ.get("MOORAGE_S3_ACCESS_KEY", "AK"),
        os.environ.get("MOORAGE_S3_SECRET_KEY", "SK"),
        os.environ.get("MOORAGE_S3_REGION", "us-east-1"),
        servers.listener(address.port or 80) if local else None,
    )
