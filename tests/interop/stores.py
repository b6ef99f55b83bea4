"""A container of Azure and a bucket of Google for both registries: Moorage, and CNCF Distribution 2.8 or 3.

Debian's docker-registry is built without either driver, so these are programs of their own, `registry-2` and
`registry-3` (tools/install_test_programs.py --registries).  The tests that start them have the marker `built`; it
is deselected unless it is named (`-m built`): CI has no Go, and `test_recorded.py` has what they wrote.

2.8 insists on Azure's and Google's own names, and both versions on Google's: `clouds.py` leads them here.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.azure import ACCOUNT_KEY, Container, a_container
from tests.interop.clouds import a_cloud
from tests.interop.google import google
from tests.interop.kinds import Kinds
from tests.live import Live, require, start_moorage, start_reference
from tests.storage.gcs.bucket import Bucket, a_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["STORES", "Store", "a_store"]

STORES = ["azure-2", "azure-3", "gcs-2", "gcs-3"]


@dataclass(frozen=True)
class Store:
    """One container or bucket, and either registry over it; blobs come through the registry."""

    name: str
    path: Path
    held: Container | Bucket
    environment: Mapping[str, str]
    their_settings: Mapping[str, Any]

    @property
    def program(self) -> str:
        return require(f"registry-{self.name[-1]}", how="--registries")

    def theirs(self, **sections: Any) -> Live:
        storage = self._storage(self.their_settings)
        return start_reference(
            self.path / "theirs", program=self.program, environment=self.environment, storage=storage, **sections
        )

    def ours(self, *, workers: int = 2, **sections: Any) -> Live:
        storage = self._storage(self.held.settings())
        return start_moorage(self.path / "ours", storage=storage, http={"workers": workers}, **sections)

    def _storage(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        kind = self.name.partition("-")[0]
        return {"filesystem": None, kind: dict(settings), "redirect": {"disable": True}}

    def names(self) -> dict[str, int]:
        """Every object and its size."""
        return self.held.blobs(begun=True) if isinstance(self.held, Container) else self.held.keys()


@contextmanager
def a_store(name: str, path: Path) -> Iterator[Store]:
    """A new one; `name` is one of STORES."""
    with ExitStack() as stack:
        if name in {"gcs-2", "gcs-3"}:
            bucket = stack.enter_context(a_bucket())
            bucket.server.lenient = True
            hosts = ("www.googleapis.com", "storage.googleapis.com", "accounts.google.com")
            cloud = stack.enter_context(a_cloud(path, google().port, *hosts))
            (path / "key.json").write_text(json.dumps(bucket.server.key_file()))
            settings = {"bucket": bucket.name, "keyfile": str(path / "key.json")}
            yield Store(name, path, bucket, cloud.environment, settings)
        elif name == "azure-2":
            container = stack.enter_context(a_container(by_name=True))
            container.server.trouble = Kinds(container.server.account)
            host = f"{container.server.account}.blob.core.windows.net"
            cloud = stack.enter_context(a_cloud(path, container.server.port, host))
            settings = {
                "accountname": container.server.account,
                "accountkey": ACCOUNT_KEY,
                "container": container.name,
            }
            yield Store(name, path, container, cloud.environment, settings)
        else:
            container = stack.enter_context(a_container())
            container.server.trouble = Kinds(container.server.account)
            settings = container.settings(credentials={"type": "shared_key"})
            yield Store(name, path, container, {}, settings)
