"""A registry whose storage is an object store, and what must hold for every store."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING, Any

from tests.clients.layouts import Layout, tar_of
from tests.live import Live, require, start_moorage
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["go_there_and_back", "push_in_pieces", "serve"]


def serve(path: Path, driver: str, section: Mapping[str, Any], *, workers: int, redirect: bool) -> Live:
    """`section` is `storage.DRIVER`."""
    storage = {"filesystem": None, driver: dict(section), "redirect": {"disable": not redirect}}
    return start_moorage(path / "registry", storage=storage, http={"workers": workers})


def go_there_and_back(live: Live, path: Path, *, layer: int, redirected: bool) -> None:
    """An index of two platforms by skopeo, digests compared end to end; `layer` bytes of one layer are random."""
    layout = Layout(path / "layout")
    big = tar_of({"big": random.Random(1).randbytes(layer)})
    images = [layout.image([tar_of({"arch": a.encode()}), big], architecture=a) for a in ("amd64", "arm64")]
    layout.tag("v1", layout.index(images))
    there = f"docker://{live.host}/a/b:v1"
    _skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout.path}:v1", there)
    _skopeo("copy", "--all", "--src-tls-verify=false", there, f"oci:{path / 'back'}:v1")
    sent = {path.name: path.read_bytes() for path in (layout.path / "blobs" / "sha256").iterdir()}
    back = {path.name: path.read_bytes() for path in (path / "back" / "blobs" / "sha256").iterdir()}
    assert back.items() <= sent.items()
    assert len(back) == 8
    largest = max(back, key=lambda name: len(back[name]))
    answer = Wire(live.host).blob("a/b", f"sha256:{largest}")
    assert answer.status == (307 if redirected else 200)
    assert Wire(live.host).send("GET", "/v2/_catalog").json() == {"repositories": ["a/b"]}


def _skopeo(*arguments: str) -> None:
    done = subprocess.run(
        [require("skopeo"), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def push_in_pieces(live: Live, sizes: Sequence[int], middle: range, cancelled: int) -> None:
    """Each PATCH on a connection of its own, so to any process; ranges of the blob come back right, `middle` too.

    Another upload, of `cancelled` bytes, is taken back.
    """
    pieces = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    data = b"".join(pieces)
    wire = Wire(live.host)
    location = wire.start_upload("in/pieces").headers["location"]
    for piece in pieces:
        answer = wire.patch(location, piece)
        assert answer.status == 202, answer
        location = answer.headers["location"]
    assert wire.finish(location, Digest.of(data)).status == 201
    assert wire.send("GET", location).status == 404
    path = f"/v2/in/pieces/blobs/{Digest.of(data)}"
    between = f"{middle.start}-{middle.stop - 1}", data[middle.start : middle.stop]
    for span, expected in (("0-0", data[:1]), between, ("-9", data[-9:])):
        part = wire.send("GET", path, headers={"Range": f"bytes={span}"})
        assert (part.status, part.body) == (206, expected)
    assert wire.send("GET", path, headers={"Range": f"bytes={len(data)}-"}).status == 416
    begun = wire.patch(wire.start_upload("in/pieces").headers["location"], b"x" * cancelled)
    assert wire.send("DELETE", begun.headers["location"]).status == 204
