"""Garbage collection beside a real server: by the command, and by the housekeeper."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.live import with_constants
from tests.server.serving import ROOT, Served, serving, until
from tests.wire import Wire

from moorage.registry import layout
from moorage.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

NAME = "team/app"
SOON = {"moorage.registry.collection_state.RENEW_S": 0.5}
"""A collection waits twice until every process must have seen what it has written."""
SHARED, OLD, NEW = b"a shared layer", b"a layer of the old image", b"a layer of the new image"


def _push(served: Served) -> None:
    """Two images; the tag of the first is deleted, with its manifest."""
    wire = Wire(f"127.0.0.1:{served.port}")
    old = Digest.of(wire.push_image(NAME, "old", [SHARED, OLD]))
    wire.push_image(NAME, "new", [SHARED, NEW])
    assert wire.delete_manifest(NAME, old).status == 202


def _blob(served: Served, data: bytes) -> Path:
    return served.home / "data" / layout.blob_data(Digest.of(data))


def _is_whole(served: Served) -> None:
    wire = Wire(f"127.0.0.1:{served.port}")
    assert wire.manifest(NAME, "new").status == 200
    for layer in (SHARED, NEW):
        assert wire.blob(NAME, Digest.of(layer)).body == layer


def test_the_command_collects_beside_a_server(tmp_path: Path) -> None:
    """What the deleted image alone needed goes; the other image is pulled whole, and pushes of both work."""
    storage = {"delete": {"enabled": True, "undo": "0s"}}
    env = with_constants(tmp_path / "custom", SOON)
    with serving(tmp_path / "home", module="tests.server.registry", env=env, storage=storage) as served:
        _push(served)
        command = [sys.executable, "-c", "from moorage.cli import main; main()", "garbage-collect"]
        flags = ["--grace", "0s", "--wait", "0s", str(served.home / "config.yml")]
        result = subprocess.run(
            [*command, *flags],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
            env={**os.environ, **env},
        )
        assert result.returncode == 0, result.stderr
        assert "eligible for deletion" in result.stdout
        assert not _blob(served, OLD).exists()
        _is_whole(served)
        wire = Wire(f"127.0.0.1:{served.port}")
        wire.push_image(NAME, "old", [SHARED, OLD])
        assert wire.blob(NAME, Digest.of(OLD)).body == OLD
        assert served.stop() == 0


def test_the_housekeeper_collects(tmp_path: Path) -> None:
    """No worker spends time on it: the line in the log names none."""
    collection = {"enabled": True, "interval": "1s", "grace": "0s", "wait": "0s"}
    storage = {"delete": {"enabled": True, "undo": "0s"}, "maintenance": {"garbagecollection": collection}}
    env = with_constants(tmp_path / "custom", SOON)
    with serving(tmp_path / "home", module="tests.server.registry", env=env, storage=storage) as served:
        served.helper("housekeeper")
        _push(served)
        until(lambda: not _blob(served, OLD).exists(), "the collection", lambda: served.err)
        served.logged("garbage collected")
        (line, *_) = (line for line in served.err.splitlines() if "garbage collected" in line)
        assert " worker=" not in line
        _is_whole(served)
        assert (served.home / "data" / "docker/registry/v2/_moorage/nodes").is_dir()
        assert served.stop() == 0
