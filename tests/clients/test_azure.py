"""A real client and a registry whose storage is a container of Azure (azurite): redirected, and through us."""

from __future__ import annotations

import random
import subprocess
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.azure import ACCOUNT_KEY, Container, a_container
from tests.clients.layouts import Layout, tar_of
from tests.faults.ledger import Ledger, push_until_killed
from tests.live import Live, require, start_moorage
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.client, pytest.mark.slow]


@pytest.fixture
def container() -> Iterator[Container]:
    with a_container() as found:
        yield found


def start(path: Path, container: Container, *, workers: int = 3, redirect: bool = True, **azure: Any) -> Live:
    storage = {"filesystem": None, "azure": container.settings(**azure), "redirect": {"disable": not redirect}}
    return start_moorage(path / "registry", storage=storage, http={"workers": workers})


def skopeo(*arguments: str | Path) -> None:
    command = [require("skopeo"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layout_of", ["3", "2.8"])
@pytest.mark.parametrize("redirect", [True, False], ids=["redirected", "through-the-registry"])
def test_images_go_there_and_back(tmp_path: Path, container: Container, redirect: bool, layout_of: str) -> None:
    """An index of two platforms with a layer of several blocks, digests compared end to end."""
    if layout_of == "2.8":
        with container.client as client:
            client.upload_blob("/docker/registry/v2/made-by-2.8", b"")
    layout = Layout(tmp_path / "layout")
    big = tar_of({"big": random.Random(1).randbytes(20_000_000)})
    images = [layout.image([tar_of({"arch": a.encode()}), big], architecture=a) for a in ("amd64", "arm64")]
    layout.tag("v1", layout.index(images))
    with start(tmp_path, container, redirect=redirect) as live:
        there = f"docker://{live.host}/a/b:v1"
        skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout.path}:v1", there)
        skopeo("copy", "--all", "--src-tls-verify=false", there, f"oci:{tmp_path / 'o'}:v1")
        sent = {path.name: path.read_bytes() for path in (layout.path / "blobs" / "sha256").iterdir()}
        back = {path.name: path.read_bytes() for path in (tmp_path / "o" / "blobs" / "sha256").iterdir()}
        assert back.items() <= sent.items()
        assert len(back) == 8
        largest = max(back, key=lambda name: len(back[name]))
        answer = Wire(live.host).blob("a/b", f"sha256:{largest}")
        assert answer.status == (307 if redirect else 200)
        assert Wire(live.host).send("GET", "/v2/_catalog").json() == {"repositories": ["a/b"]}
        assert ACCOUNT_KEY not in live.logs()
    names = set(container.blobs(begun=True))
    assert not [name for name in names if "/_uploads/" in name or name.startswith("_writing")]
    assert all(name.startswith("/docker/" if layout_of == "2.8" else "docker/") for name in names)


def test_a_layer_in_pieces_by_way_of_every_worker(tmp_path: Path, container: Container) -> None:
    """Each PATCH on a connection of its own, so to any process; ranges of the blob come back right."""
    pieces = [bytes([65 + number]) * size for number, size in enumerate((1, 700, 3_000_000, 9_000_001, 0, 9))]
    data = b"".join(pieces)
    with start(tmp_path, container, redirect=False) as live:
        wire = Wire(live.host)
        location = wire.start_upload("in/pieces").headers["location"]
        for piece in pieces:
            answer = wire.patch(location, piece)
            assert answer.status == 202, answer
            location = answer.headers["location"]
        assert wire.finish(location, Digest.of(data)).status == 201
        assert wire.send("GET", location).status == 404
        path = f"/v2/in/pieces/blobs/{Digest.of(data)}"
        spans = (("0-0", data[:1]), ("3000000-8000500", data[3_000_000:8_000_501]), ("-9", data[-9:]))
        for span, expected in spans:
            part = wire.send("GET", path, headers={"Range": f"bytes={span}"})
            assert (part.status, part.body) == (206, expected)
        assert wire.send("GET", path, headers={"Range": f"bytes={len(data)}-"}).status == 416
        cancelled = wire.patch(wire.start_upload("in/pieces").headers["location"], b"x" * 9_000_000)
        assert wire.send("DELETE", cancelled.headers["location"]).status == 204
    assert sorted(name.rpartition("/")[2] for name in container.blobs(begun=True)) == ["data", "link"]


def test_a_failing_store_is_503_and_a_full_one_507(tmp_path: Path, container: Container) -> None:
    """Clients try again after the one and tell their user of the other; the log says what the service said."""
    with start(tmp_path, container, workers=1) as live:
        wire = Wire(live.host)
        manifest = wire.push_image("a/b", "v1", [b"a layer"])
        for code, status, expected in (("AuthenticationFailed", 403, 503), ("InsufficientStorage", 507, 507)):
            said = (status, code)
            container.server.trouble = lambda _, said=said: said
            assert wire.manifest("a/b", "v1").status == expected
            assert wire.start_upload("a/b").status == expected
            assert code in live.logs()
        container.server.trouble = None
        assert wire.manifest("a/b", "v1").body == manifest
        assert ACCOUNT_KEY not in live.logs()


def test_a_container_that_is_not_there_is_told_of_at_start(tmp_path: Path, container: Container) -> None:
    """Not at the first push of a colleague, an hour later."""
    with start(tmp_path, replace(container, name="moorage-is-not-there"), workers=2) as live:
        for _ in range(400):
            if "there is no such container" in live.logs():
                break
            threading.Event().wait(0.05)
        assert "there is no such container; it must be made beforehand" in live.logs()
        assert Wire(live.host).manifest("a/b", "v1").status == 503


def test_a_killed_server_loses_nothing_that_was_acknowledged(tmp_path: Path, container: Container) -> None:
    """SIGKILL in the midst of pushes, then another server on the same container."""
    ledger = Ledger.of(2)
    for number in range(2):
        with start(tmp_path, container, workers=2, redirect=False) as live:
            ledger.audit(Wire(live.host), everything=True)
            push_until_killed(live, ledger, str(number), 2 + number, [b"everybody has this layer" * 4000])
    with start(tmp_path, container, workers=2, redirect=False) as live:
        ledger.audit(Wire(live.host), everything=True)
    assert ledger.acknowledged >= 1
