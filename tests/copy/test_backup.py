"""The file-by-file backup of docs/backup.md: copied in that order beside pushes, it is whole when restored."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.copy.worlds import serving
from tests.fsck.test_damage import checked

from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.builders import image

if TYPE_CHECKING:
    from tests.http.client import Client

    from moorage.testing.builders import Built

NAME: Final = "team/app"
TREE: Final = Path("docker/registry/v2")
PAGE: Final = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()


def test_the_page_copies_links_before_what_they_name() -> None:
    """The other order loses the blobs of images that are pushed in between, and keeps their tags."""
    first, second = (line.split()[-1] for line in PAGE.splitlines() if line.startswith("rsync -a --delete"))
    assert (first, second) == (f"/backup/{TREE}/repositories/", f"/backup/{TREE}/blobs/")


async def pulled(client: Client, tag: str, built: Built) -> bool:
    """Whether the image is there; then all of it is."""
    answer = await client.manifest(tag, NAME)
    if answer.status_code == 404:
        return False
    assert answer.content == built.data
    for part in built.blobs:
        assert (await client.blob(part, NAME)).content == part.data
    return True


async def test_what_is_pushed_during_a_copy_is_in_it_or_not_but_never_torn(tmp_path: Path) -> None:
    """A restored registry would list images that cannot be pulled."""
    source, target = tmp_path / "source", tmp_path / "backup"
    driver = FilesystemDriver(source)
    client = serving(driver)
    images = [image(seed=seed) for seed in range(40)]
    pushed: dict[str, Built] = {}

    async def push_one() -> None:
        number = len(pushed)
        await client.push(images[number], f"v{number}", name=NAME)
        pushed[f"v{number}"] = images[number]

    for _ in range(3):
        await push_one()
    for part in ("repositories", "blobs"):
        for folder, folders, files in os.walk(source / TREE / part):
            folders.sort()  # rsync's order, on any file system
            for file in files:
                copy = target / Path(folder, file).relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder, file), copy)
            if files and len(pushed) < len(images):
                await push_one()
    await driver.close()

    restored = FilesystemDriver(target)
    try:
        await checked(restored, repair=True, digests=True)
        assert not (await checked(restored, digests=True))[0].kinds
        after = serving(restored)
        there = {tag for tag, built in pushed.items() if await pulled(after, tag, built)}
        assert {"v0", "v1", "v2"} < there < pushed.keys()
        assert set((await after.get(f"/v2/{NAME}/tags/list")).json()["tags"]) == there
    finally:
        await restored.close()
