"""Read-only mode is switched while the registry serves: SIGHUP after an edit of the configuration."""

from __future__ import annotations

import http.client
import signal
from typing import TYPE_CHECKING

import pytest
from tests.server.serving import LIMIT_S, Served, serving, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def _begin_upload(served: Served) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
    try:
        connection.request("POST", "/v2/team/app/blobs/uploads/")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_read_only_mode_is_switched_on_and_off_by_a_reload(tmp_path: Path) -> None:
    """For a backup or a move of the store: pulls continue, and nothing restarts.

    Background work that writes ends as well: the housekeeper purges uploads, and is not needed without.
    """
    with serving(tmp_path / "home", module="tests.server.registry") as served:
        served.helper("housekeeper")
        assert _begin_upload(served)[0] == 202
        before = set(served.children())

        served.configure(storage={"maintenance": {"readonly": {"enabled": True}}})
        served.signal(signal.SIGHUP)
        until(lambda: not before & set(served.all_children()), "the old workers to end", lambda: served.err)
        until(lambda: len(served.all_children()) == 3, "the housekeeper to end", lambda: served.err)
        for _ in range(8):  # both workers
            status, text = _begin_upload(served)
            assert status == 405
            assert "UNSUPPORTED" in text
        assert served.get("/v2/")[0] == 200
        read_only = set(served.children())

        served.configure()
        served.signal(signal.SIGHUP)
        until(lambda: not read_only & set(served.all_children()), "the workers to end", lambda: served.err)
        served.helper("housekeeper")
        assert {_begin_upload(served)[0] for _ in range(8)} == {202}
        assert served.stop() == 0
