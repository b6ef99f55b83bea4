"""A data directory that disappears or holds special files, as clients see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.http.client import NAME, codes

from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.builders import image

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


async def test_tags_that_are_special_files_are_left_out_of_the_list(serve: Serve, tmp_path: Path) -> None:
    """One such entry made the whole list 503, or blocked the worker that read it."""
    client = serve(driver=FilesystemDriver(tmp_path))
    await client.push(image(), "kept")
    tags = tmp_path / "docker/registry/v2/repositories" / NAME / "_manifests/tags"
    for tag in ("fifo", "loop"):
        (tags / tag / "current").mkdir(parents=True)
    os.mkfifo(tags / "fifo/current/link")
    (tags / "loop/current/link").symlink_to("link")
    (tags / "around").symlink_to("around")
    for query in ("", "?n=10"):
        answer = await client.get(f"/v2/{NAME}/tags/list{query}")
        assert (answer.status_code, answer.json()["tags"]) == (200, ["kept"])
    for tag in ("fifo", "loop", "around"):
        answer = await client.manifest(tag)
        assert (answer.status_code, codes(answer)) == (404, ["MANIFEST_UNKNOWN"])
