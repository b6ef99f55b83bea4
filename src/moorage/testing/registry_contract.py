"""Contract suite that every implementation of `registry.interface.Registry` passes.  It joins with one fixture:

    class TestMyRegistry(RegistryContract):
        @pytest.fixture
        def connect(self, tmp_path: Path) -> Callable[[], Registry]:
            return lambda: MyRegistry(tmp_path)

`connect` makes a registry of the same, at first empty, content each time it is called, as each process of a server
does; deletions must be allowed.  A registry that takes no pushes passes `PullContract`, with a fixture `publish`
that fills it (`registry_fixtures.py`).

This file joins `pull_contract.py` (blobs, manifests, lists) and `push_contract.py` (uploads, mounts, pushes,
deletions).
"""

from __future__ import annotations

import pytest

from moorage.testing.pull_contract import PullContract, content_of
from moorage.testing.push_contract import DeleteContract, ManifestPushContract, UploadPushContract

__all__ = ["PullContract", "RegistryContract", "content_of"]


class RegistryContract(PullContract, UploadPushContract, ManifestPushContract, DeleteContract):
    """All promises of `registry/interface.py`; see the module docstring."""

    pytestmark = pytest.mark.asyncio
