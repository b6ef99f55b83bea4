"""A data directory that disappears, as clients see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.client import codes

from moorage.storage.filesystem import FilesystemDriver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.conftest import Serve

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("empty", [False, True], ids=["moved away", "unmounted"])
async def test_clients_get_503_from_the_first_request_on(serve: Serve, tmp_path: Path, empty: bool) -> None:
    """Before any monitor notices: not 404 for images that are there, nor 201 for a push that will be lost."""
    root = tmp_path / "data"
    root.mkdir()
    client = serve(driver=FilesystemDriver(root))
    await client.location()
    assert (await client.send("HEAD", f"/v2/a/blobs/{DIGEST}")).status_code == 404
    root.rename(tmp_path / "away")
    if empty:
        root.mkdir()
    for path in ("a/manifests/t", f"a/blobs/{DIGEST}", "a/tags/list", "_catalog", f"a/referrers/{DIGEST}"):
        answer = await client.get(f"/v2/{path}")
        assert (answer.status_code, codes(answer)) == (503, ["UNAVAILABLE"]), path
    for method, path in (("POST", "blobs/uploads/"), ("DELETE", f"blobs/{DIGEST}"), ("DELETE", "manifests/t")):
        answer = await client.send(method, f"/v2/a/{path}")
        assert (answer.status_code, codes(answer)) == (503, ["UNAVAILABLE"]), path
    assert list(tmp_path.rglob("data/*")) == []  # noqa: ASYNC240  a test
