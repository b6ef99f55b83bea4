"""`moorage why`: what keeps content, or what removed it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import push

from moorage.registry import layout
from moorage.registry.manifests import StoredManifests
from moorage.registry.trash import Earlier, Trash
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.builders import blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

APP = RepoName("team/app")
CHILD = image(blob(size=50))
WHOLE = index(CHILD)
GONE = image(blob(size=60))
AT = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A tagged index; a tag that a user deleted; content that was erased."""

    async def fill() -> None:
        driver = FilesystemDriver(tmp_path / "data")
        manifests = StoredManifests(driver)
        await push(driver, manifests, WHOLE, Tag("v1"), name=APP)
        await push(driver, manifests, GONE, Tag("old"), name=APP)
        trash = Trash(driver, keep_s=7 * 86400, now=lambda: AT)
        past = [Earlier(GONE.digest, AT - timedelta(days=1))]
        await trash.add_tag(APP, Tag("old"), GONE.digest, by="ann", reason="retention: rules[0]", earlier=past)
        await trash.add_tag(APP, Tag("bare"), GONE.digest, by="bob", reason="")
        await driver.delete([layout.tag_link(APP, Tag("old"))])
        await driver.clear(layout.tag(APP, Tag("old")))
        record = {
            "version": 1,
            "at": "2026-11-29T10:00:00",
            "by": "root",
            "what": "x",
            "digests": [str(_erased())],
        }
        await driver.write(layout.audit("20261129T100000.000000Z-00000000"), json.dumps(record).encode())
        await driver.close()

    asyncio.run(fill())
    path = tmp_path / "config.yml"
    path.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{tmp_path}/data'}},\n"
        "  maintenance: {garbagecollection: {deleteuntagged: true}}}\nhttp: {addr: '127.0.0.1:0'}\n"
    )
    return path


def _erased() -> Digest:
    return Digest.of(b"a leaked secret")


def test_a_tag(run: Run, config: Path) -> None:
    """The reason of every manifest that a tag names; and when the tag was set."""
    done = run("why", "-q", config, f"{APP}:v1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{APP}:v1: {WHOLE.digest}"
    assert f": set to {WHOLE.digest}" in lines[1]
    assert f"{APP}:" in lines
    assert "  manifest kept by tag v1" in lines
    assert any(line.startswith("  manifest kept by young until 20") for line in lines)


def test_a_manifest_of_an_index(run: Run, config: Path) -> None:
    done = run("why", "-q", "--json", config, f"{APP}@{CHILD.digest}")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["kept"], answer["digest"]) == (0, True, str(CHILD.digest))
    (found,) = answer["repositories"]
    assert {"kind": "index", "tag": None, "by": str(WHOLE.digest), "until": None} in found["manifest_kept_by"]
    assert [reason["kind"] for reason in found["layer_kept_by"]] == ["manifest"]


def test_a_deleted_tag(run: Run, config: Path) -> None:
    """Who deleted it, when, and by which rule; what it named stays until then."""
    done = run("why", "-q", config, f"{APP}:old")
    assert done.returncode == 0, "its manifest can be restored"
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{APP}:old: not there", f"  named last: {GONE.digest}"]
    assert f"  {AT:%Y-%m-%dT%H:%M:%SZ}: deleted by ann: retention: rules[0]" in lines
    assert any(line.startswith("  manifest kept by trash until 20") for line in lines)
    assert f"  deleted {AT:%Y-%m-%dT%H:%M:%SZ} (tag) by ann: retention: rules[0]" in lines


def test_a_deleted_tag_without_a_past(run: Run, config: Path) -> None:
    """Its record alone has the manifest."""
    lines = run("why", "-q", config, f"{APP}:bare").stdout.splitlines()
    assert lines[:2] == [f"{APP}:bare: not there", f"  named last: {GONE.digest}"]
    assert f"  deleted {AT:%Y-%m-%dT%H:%M:%SZ} (tag) by bob" in lines


def test_a_digest_in_the_whole_store(run: Run, config: Path) -> None:
    """The bytes of a layer: every repository that needs them, and their age."""
    layer = CHILD.parts[-1]
    done = run("why", config, str(layer.digest))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"  layer kept by manifest {CHILD.digest}" in lines
    assert any(line.startswith(f"bytes: {layer.size} B, written 20") for line in lines)
    assert "reading" in done.stderr
    answer = json.loads(run("why", "-q", "--json", config, str(layer.digest)).stdout)
    assert answer["bytes"]["size"] == layer.size
    assert [each["repository"] for each in answer["repositories"]] == [APP]


def test_erased_content_and_what_never_was(run: Run, config: Path) -> None:
    done = run("why", "-q", config, str(_erased()))
    assert done.returncode == 1
    assert "erased 2026-11-29T10:00:00 by root: x" in done.stdout
    assert done.stdout.endswith("nothing keeps it, and it is not there\n")
    never = run("why", "-q", config, f"{APP}:never")
    assert (never.returncode, never.stdout) == (
        1, f"{APP}:never: not there\nnothing keeps it, and it is not there\n",
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "team/app", "Team/app:v1", "team/app@sha256:1", "sha256:1", "team/app:a b"])
def test_what_is_no_reference_is_refused(run: Run, config: Path, text: str) -> None:
    """A typing error must not look like content that is gone."""
    done = run("why", config, text)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"expected team/app:TAG, team/app@DIGEST or a digest, found {text!r}\n"


def test_the_memory_of_one_process_is_refused(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.yml"
    other.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n")
    done = run("why", other, "a:b")
    assert done.returncode == 1
    assert "memory of one process" in done.stderr
