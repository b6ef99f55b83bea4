"""A real client and a registry whose storage is a container of Azure (azurite): redirected, and through us."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.azure import ACCOUNT_KEY, Container, a_container
from tests.clients.stores import go_there_and_back, push_in_pieces, serve
from tests.faults.ledger import Ledger, push_until_killed
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.live import Live

pytestmark = [pytest.mark.client, pytest.mark.slow]


@pytest.fixture
def container() -> Iterator[Container]:
    with a_container() as found:
        yield found


def start(path: Path, container: Container, *, workers: int = 3, redirect: bool = True, **azure: Any) -> Live:
    return serve(path, "azure", container.settings(**azure), workers=workers, redirect=redirect)


@pytest.mark.parametrize(
    ("redirect", "layout_of"), [(True, "3"), (False, "2.8")], ids=["redirected-3", "through-the-registry-2.8"]
)
def test_images_go_there_and_back(tmp_path: Path, container: Container, redirect: bool, layout_of: str) -> None:
    """A layer of several blocks."""
    if layout_of == "2.8":
        with container.client as client:
            client.upload_blob("/docker/registry/v2/made-by-2.8", b"")
    with start(tmp_path, container, redirect=redirect) as live:
        go_there_and_back(live, tmp_path, layer=20_000_000, redirected=redirect)
        assert ACCOUNT_KEY not in live.logs()
    names = set(container.blobs(begun=True))
    assert not [name for name in names if "/_uploads/" in name or name.startswith("_writing")]
    assert all(name.startswith("/docker/" if layout_of == "2.8" else "docker/") for name in names)


def test_a_layer_in_pieces_by_way_of_every_worker(tmp_path: Path, container: Container) -> None:
    """What a layer leaves is the layer."""
    with start(tmp_path, container, redirect=False) as live:
        sizes = (1, 700, 3_000_000, 9_000_001, 0, 9)
        push_in_pieces(live, sizes, range(3_000_000, 8_000_501), cancelled=9_000_000)
    assert sorted(name.rpartition("/")[2] for name in container.blobs(begun=True)) == ["data", "link"]


def test_a_failing_store_is_503_and_a_full_one_507(tmp_path: Path, container: Container) -> None:
    """Clients retry after the one and report the other to their user; the log has the service's answer."""
    with start(tmp_path, container, workers=1) as live:
        wire = Wire(live.host)
        manifest = wire.push_image("a/b", "v1", [b"a layer"])
        for code, status, expected in (("AuthenticationFailed", 403, 503), ("InsufficientStorage", 507, 507)):
            output = (status, code)
            container.server.trouble = lambda _, output=output: output
            assert wire.manifest("a/b", "v1").status == expected
            assert wire.start_upload("a/b").status == expected
            live.logged(code)
        container.server.trouble = None
        assert wire.manifest("a/b", "v1").body == manifest
        assert ACCOUNT_KEY not in live.logs()


def test_a_container_that_is_not_there_is_told_of_at_start(tmp_path: Path, container: Container) -> None:
    """Not at the first push of a colleague, an hour later."""
    with start(tmp_path, replace(container, name="moorage-is-not-there"), workers=2) as live:
        live.logged("there is no such container; it must be made beforehand")
        assert Wire(live.host).manifest("a/b", "v1").status == 503


def test_a_killed_server_loses_nothing_that_was_acknowledged(tmp_path: Path, container: Container) -> None:
    """SIGKILL in the midst of pushes, then another server on the same container."""
    ledger = Ledger.of(2)
    for number in range(2):
        with start(tmp_path, container, workers=2, redirect=False) as live:
            ledger.audit(Wire(live.host), everything=True)
            push_until_killed(
                live, ledger, str(number), 0.5 + number, [b"everybody has this layer" * 4000], after=1
            )
    with start(tmp_path, container, workers=2, redirect=False) as live:
        ledger.audit(Wire(live.host), everything=True)
    assert ledger.acknowledged >= 2
