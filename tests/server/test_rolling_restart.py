"""A reload that something comes between."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from tests.server.serving import Served, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "home") as served:
        yield served


def test_a_stop_during_a_reload_is_a_clean_one(served: Served) -> None:
    """No worker is started: it would find the sockets closed, and the status would be that of a failure."""
    (served.home / "start-later").touch()
    served.signal(signal.SIGHUP)
    served.seen("starting")
    served.signal(signal.SIGTERM)
    served.logged("stopping")
    (served.home / "start-later").unlink()
    assert served.ended() == 0, served.err


def test_a_place_whose_old_and_new_worker_both_die_is_filled_again(served: Served) -> None:
    """Or the server would have one worker fewer until the next reload; with one worker, none."""
    workers: dict[int, int] = {}

    def both_have_answered() -> bool:
        reported = json.loads(served.get()[2])
        workers[reported["number"]] = reported["pid"]
        return len(workers) == 2

    until(both_have_answered, "an answer of each worker")
    (served.home / "start-later").touch()
    served.signal(signal.SIGHUP)
    served.seen("starting")
    (fresh,) = set(served.children()) - set(workers.values())
    os.kill(workers[0], signal.SIGKILL)
    served.logged("a worker died")
    os.kill(fresh, signal.SIGKILL)
    served.logged("the old ones stay")
    (served.home / "start-later").unlink()
    until(lambda: len(served.children()) == 2, "two workers", lambda: served.err)


def test_a_reload_that_finds_nobody_serving_is_taken(tmp_path: Path) -> None:
    """An operator who mends what kept the workers from starting must not have to restart the server as well."""
    with serving(tmp_path / "home", http={"workers": 1}) as served:
        (served.home / "do-not-start").touch()
        os.kill(served.children()[0], signal.SIGKILL)
        served.logged("waiting before the next try")
        (served.home / "do-not-start").unlink()
        served.configure(log={"accesslog": {"disabled": False}})
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        until(served.children, "the worker")
        os.kill(served.children()[0], signal.SIGKILL)
        served.logged("a worker died", times=2)
        # The one after it is made from the new configuration, too.
        until(served.children, "another worker")
        assert served.get("/hello?new=1")[0] == 200
        until(lambda: "/hello?new=1" in served.out, "the access log")
