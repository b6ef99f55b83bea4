"""`moorage usage`: the bytes of each repository."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import push

from moorage.registry.manifests import StoredManifests
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.builders import Built, blob, image
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

ONE = image(blob(size=2000))
TWO = image(blob(size=50))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A store in which two repositories share an image, and one has another."""

    async def fill() -> None:
        driver = FilesystemDriver(tmp_path / "data")
        manifests = StoredManifests(driver)
        for name, tag, whole in (("a/one", "v1", ONE), ("b/two", "v1", ONE), ("b/two", "v2", TWO)):
            await push(driver, manifests, whole, Tag(tag), name=RepoName(name))
        await driver.close()

    asyncio.run(fill())
    path = tmp_path / "config.yml"
    path.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{tmp_path}/data'}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
    )
    return path


def size(whole: Built) -> int:
    return sum(part.size for part in whole.closure)


def test_json_has_every_repository_and_a_sum(run: Run, config: Path) -> None:
    """For scripts that charge teams."""
    done = run("usage", "--json", "--quiet", config)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, summary = map(json.loads, done.stdout.splitlines())
    unique = second["unique"] or first["unique"]
    assert first == {
        "repository": "b/two", "total": size(ONE) + unique, "shared": size(ONE), "unique": unique, "tags": 2,
        "missing": 0,
    }  # fmt: skip
    assert (second["repository"], second["total"], second["unique"]) == ("a/one", size(ONE), 0)
    assert summary["summary"] == {
        "repositories": 2, "total": 2 * size(ONE) + unique, "stored": size(ONE) + unique, "tags": 3, "missing": 0,
    }  # fmt: skip


def test_a_table_for_a_prefix(run: Run, config: Path) -> None:
    """The answer to a team that asks where its quota has gone."""
    done = run("usage", config, "a/")
    assert done.returncode == 0, done.stderr
    header, row, total = done.stdout.splitlines()
    assert header.split() == ["REPOSITORY", "TOTAL", "SHARED", "UNIQUE", "TAGS"]
    assert row.split()[0] == "a/one"
    assert len(row) == len(header), "a name that is shorter than its header"
    assert row.split()[-3:] == ["0", "B", "1"]
    assert total.startswith("1 repository, 1 tag: ")
    assert "repositories read: 2" in done.stderr


def test_refusals(run: Run, config: Path, tmp_path: Path) -> None:
    """A prefix without repositories is a typing error, and a volume that is not mounted is no empty registry."""
    done = run("usage", "-q", config, "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "there is no repository nothing, and none below it\n"
    other = tmp_path / "other.yml"
    other.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n")
    assert "memory of one process" in run("usage", other).stderr
    other.write_text(config.read_text().replace("/data", "/missing"))
    assert "is its volume mounted" in run("usage", other).stderr
