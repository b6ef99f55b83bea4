"""A mirror of two worker processes over real registries: pulled through, shared, killed, cut off."""

from __future__ import annotations

import http.client
import json
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.layouts import Layout, tar_of
from tests.live import SECRET, start_moorage, start_reference
from tests.ports import free_port
from tests.proxy.connections import downloader, part_of, readers_of_all_workers, written
from tests.proxy.pages import explained
from tests.upstream.faulty import FaultyRegistry, Gate
from tests.wire import Wire

from moorage.wiring.http import instance_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.live import Live
    from tests.proxy.conftest import Skopeo

pytestmark = [pytest.mark.client, pytest.mark.slow, pytest.mark.xdist_group("mirror")]

PLAIN: Final = ("--src-tls-verify=false", "--dest-tls-verify=false")
BIG: Final = 8 << 20


@dataclass(frozen=True)
class Site:
    """A mirror of registries below the names of the fields, and of itself below `itself/`."""

    mirror: Live
    reference: Live
    stopped: Live
    moorage: Live
    faulty: FaultyRegistry

    def gets(self, blob: str) -> list[dict[str, str]]:
        """Return the headers of the requests for a blob that the faulty registry has received."""
        found = [one for one in self.faulty.received if one.method == "GET" and one.target.endswith(blob)]
        return [dict(one.headers) for one in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("mirror")
    with ExitStack() as stack:
        reference = stack.enter_context(start_reference(folder / "reference"))
        stopped = stack.enter_context(start_reference(folder / "stopped"))
        port = free_port()
        back = {"upstreams": [{"prefix": "back", "remoteurl": f"http://127.0.0.1:{port}"}]}
        http = {"workers": 1, "secret": "a secret of another registry"}
        moorage = stack.enter_context(start_moorage(folder / "moorage", http=http, proxy=back))
        faulty = stack.enter_context(FaultyRegistry().in_thread())
        urls = {
            "reference": reference.url, "stopped": stopped.url, "moorage": moorage.url, "faulty": faulty.url,
            "itself": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        upstreams = [{"prefix": prefix, "remoteurl": url} for prefix, url in urls.items()]
        mirror = start_moorage(folder / "mirror", port=port, proxy={"upstreams": upstreams})
        yield Site(stack.enter_context(mirror), reference, stopped, moorage, faulty)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An index of two platforms, with layers of some size."""
    layout = Layout(tmp_path / "layout")
    images = [
        layout.image([tar_of({"noise": os.urandom(300_000), "arch": name.encode()})], architecture=name)
        for name in ("amd64", "arm64")
    ]
    layout.tag("v1", layout.index(images))
    return layout


@pytest.mark.parametrize("upstream", ["reference", "moorage"])
def test_an_image_goes_through_the_mirror_unchanged(
    site: Site, skopeo: Skopeo, layout: Layout, upstream: str, tmp_path: Path
) -> None:
    """A digest that changed is another image."""
    source: Live = getattr(site, upstream)
    skopeo("copy", "--all", *PLAIN, f"oci:{layout.path}:v1", f"docker://{source.host}/team/app:v1")
    name = f"{upstream}/team/app"
    skopeo("copy", "--all", *PLAIN, f"docker://{site.mirror.host}/{name}:v1", f"oci:{tmp_path}/pulled:v1")
    [pulled] = json.loads((tmp_path / "pulled" / "index.json").read_text())["manifests"]
    [pushed] = json.loads((layout.path / "index.json").read_text())["manifests"]
    assert pulled["digest"] == pushed["digest"]
    assert {path.name for path in (tmp_path / "pulled" / "blobs" / "sha256").iterdir()} == {
        path.name for path in (layout.path / "blobs" / "sha256").iterdir()
    }
    assert Wire(site.mirror.host).tags(name) == ["v1"]


def test_clients_of_all_workers_share_one_download(site: Site) -> None:
    """Each process has a cache of its own in memory; the blob must leave the upstream once all the same."""
    data, gate = os.urandom(BIG), Gate()
    digest = site.faulty.add_blob("team/shared", data)
    site.faulty.fail(f"/blobs/{digest}", method="GET", hold=gate, hold_at=BIG // 2)
    readers = readers_of_all_workers(site.mirror, each=4)
    try:
        # The first bytes come while the upstream holds the last ones back.
        first = [reader.begin(f"/v2/faulty/team/shared/blobs/{digest}") for reader in readers]
        gate.release()
        assert all(begun + reader.rest() == data for begun, reader in zip(first, readers, strict=True))
    finally:
        gate.release()
        for reader in readers:
            reader.close()
    assert len(readers) == 8
    assert len(site.gets(digest)) == 1
    assert Wire(site.mirror.host).blob("faulty/team/shared", digest).body == data
    assert len(site.gets(digest)) == 1


def test_another_worker_continues_the_download_of_one_that_is_killed(site: Site) -> None:
    """The kernel may end any process; clients of the others must not notice, nor the upstream send all again."""
    data, gate = os.urandom(BIG), Gate()
    digest = site.faulty.add_blob("team/killed", data)
    site.faulty.fail(f"/blobs/{digest}", method="GET", hold=gate, hold_at=BIG // 2, times=1)
    readers = readers_of_all_workers(site.mirror, each=2)
    try:
        first = [reader.begin(f"/v2/faulty/team/killed/blobs/{digest}") for reader in readers]
        part = part_of(site.mirror, digest)
        written(part, BIG // 4)
        killed = downloader(part)
        assert killed in {reader.worker for reader in readers}
        os.kill(killed, signal.SIGKILL)
        for begun, reader in zip(first, readers, strict=True):
            if reader.worker == killed:
                with pytest.raises((http.client.IncompleteRead, OSError)):
                    reader.rest()
            else:
                assert begun + reader.rest() == data
    finally:
        gate.release()
        for reader in readers:
            reader.close()
    [first_get, second_get] = site.gets(digest)
    assert "range" not in first_get
    start = int(second_get["range"].removeprefix("bytes=").removesuffix("-"))
    assert BIG // 4 <= start <= BIG // 2, "what was in the spool is not requested again"
    assert Wire(site.mirror.host).blob("faulty/team/killed", digest).body == data
    assert len(site.gets(digest)) == 2


def test_pulls_continue_while_the_upstream_is_stopped(
    site: Site, skopeo: Skopeo, layout: Layout, tmp_path: Path
) -> None:
    """That is what a mirror is for; the tag has a mark that it could not be checked."""
    wire, name = Wire(site.mirror.host), "stopped/library/app"
    image = f"docker://{site.mirror.host}/{name}:v1"
    skopeo("copy", "--all", *PLAIN, f"oci:{layout.path}:v1", f"docker://{site.stopped.host}/library/app:v1")
    skopeo("copy", "--all", *PLAIN, image, f"oci:{tmp_path}/first:v1")
    answer = wire.manifest(name, "v1")
    assert (answer.status, "warning" in answer.headers) == (200, False)
    site.stopped.kill()

    stale = wire.manifest(name, "v1")
    assert (stale.status, stale.body) == (200, answer.body)
    assert stale.headers["warning"].startswith(f'110 moorage "{explained("Response is Stale")}: ')
    skopeo("copy", "--all", *PLAIN, image, f"oci:{tmp_path}/second:v1")
    first, second = ((tmp_path / folder / "index.json").read_text() for folder in ("first", "second"))
    assert first == second
    assert wire.tags(name) == ["v1"]
    missing = wire.manifest(name, "never-pulled")
    assert (missing.status, missing.codes) == (502, ["UNAVAILABLE"])
    message = missing.json()["errors"][0]["message"]
    assert site.stopped.host in message
    assert explained("the upstream registry failed") in message
    assert "Connection refused" in message
    site.mirror.logged("a cached tag is served without having been checked")


def test_a_push_into_the_mirror_is_refused_in_words_that_clients_print(
    site: Site, skopeo: Skopeo, layout: Layout
) -> None:
    """A push that went nowhere would be missed at the next deployment."""
    target = f"docker://{site.mirror.host}/faulty/team/pushed:v1"
    remedy = explained("push to that registry instead")
    words = f"faulty/team/pushed is a mirror of team/pushed at {site.faulty.host}; {remedy}"
    assert words in skopeo("copy", *PLAIN, f"oci:{layout.path}:v1", target, fails=True)
    refused = Wire(site.mirror.host).start_upload("faulty/team/pushed")
    assert (refused.status, refused.codes) == (405, ["UNSUPPORTED"])
    assert refused.json()["errors"][0]["message"] == f"mirrored repositories are read-only: {words}"
    assert not [one for one in site.faulty.received if one.method not in {"GET", "HEAD"}]


def test_a_mirror_of_itself_answers_an_error(site: Site) -> None:
    """Requests that go around hold connections until something is exhausted."""
    wire = Wire(site.mirror.host, timeout_s=10)
    refused = wire.manifest("itself/library/app", "v1")
    assert refused.status == 502
    words = explained("the upstream registry of this mirror is the mirror itself")
    assert words in refused.json()["errors"][0]["message"]
    via = {"Via": f"1.1 {instance_of(SECRET.encode())}"}
    looped = wire.send("GET", "/v2/library/app/manifests/v1", None, via)
    assert (looped.status, looped.codes) == (508, ["UNSUPPORTED"])


@pytest.mark.parametrize("path", ["manifests/v1", f"blobs/sha256:{'a' * 64}", "tags/list"])
def test_mirrors_of_each_other_answer_an_error(site: Site, path: str) -> None:
    """Each would wait for the other one until its time limit."""
    refused = Wire(site.mirror.host, timeout_s=10).send("GET", f"/v2/moorage/back/library/app/{path}")
    assert refused.status == 502
    assert "loop detected" in refused.json()["errors"][0]["message"]
