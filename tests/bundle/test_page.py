"""Every command of docs/air-gapped.md is run, in the order of the page, between two registries."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.daemons import dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import Live, require, start_moorage
from tests.operations.pages import Block, block, blocks, run_block
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = "docs/air-gapped.md"
PATH: Final = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SAVED: Final = "docker save"
"""The block for which an engine is started."""

pytestmark = [pytest.mark.client, pytest.mark.slow]


class Sites:
    """Two running registries, and a folder in which the commands run."""

    def __init__(self, folder: Path, here: Live, there: Live) -> None:
        self.folder = folder
        self.here = here
        self.there = there
        self.disk = folder / "media"
        self.disk.mkdir()
        for name, root in (("here", here.root), ("there", there.root), ("new", folder / "new")):
            root.mkdir(exist_ok=True)
            storage = f"storage: {{filesystem: {{rootdirectory: {root}}}}}"
            (folder / f"{name}.yml").write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:0'}}\n")

    def adapt(self, text: str, *, config: str = "here") -> str:
        """Replace the names and paths of the page."""
        places = {
            "https://registry.example.com": self.here.url,
            "https://registry.site": self.there.url,
            "registry.example.com": self.here.host,
            "registry.site": self.there.host,
            "/etc/moorage/config.yml": str(self.folder / f"{config}.yml"),
            "/etc/moorage/site.yml": str(self.folder / "there.yml"),
            "/etc/moorage/new.yml": str(self.folder / "new.yml"),
            "/var/lib/moorage": str(self.there.root),
            "/var/lib/site": str(self.folder / "new"),
            "/media/disk": str(self.disk),
            "moorage export --output bundle.tar": "moorage export --plain-http --output bundle.tar",
            "skopeo copy": "skopeo --insecure-policy copy --src-tls-verify=false --dest-tls-verify=false",
        }
        for theirs, ours in places.items():
            text = text.replace(theirs, ours)
        return text.replace(
            "--src-tls-verify=false --dest-tls-verify=false --all oci", "--dest-tls-verify=false --all oci"
        )

    def run(self, found: Block, *, config: str = "here", **environment: str) -> str:
        adapted = Block(found.page, found.language, self.adapt(found.text, config=config))
        home = {"HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder)}
        return run_block(adapted, {}, folder=self.folder, environment={"PATH": PATH, **home, **environment})

    def write(self, found: Block, **values: str) -> None:
        """Write a block as the file that its first line names."""
        name = found.text.partition("\n")[0].removeprefix("# ")
        text = self.adapt(found.text)
        for theirs, ours in values.items():
            text = text.replace(theirs, ours)
        (self.folder / name).write_text(text)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("page")
    layout = Layout(folder / "layout")
    base = tar_of({"base": os.urandom(2_000_000)})
    for tag, data in (("1.0", b"1"), ("1.1", b"2"), ("1.2", b"3")):
        layers = [base, tar_of({"app": data})]
        layout.tag(tag, layout.index([layout.image(layers, architecture=name) for name in ("amd64", "arm64")]))
    busybox = layout.tag("busybox", layout.image([tar_of({"busybox": b"box"})]))
    with start_moorage(folder / "here") as here, start_moorage(folder / "there") as there:
        found = Sites(folder, here, there)
        for tag in ("1.0", "1.1", "1.2"):
            found.run(
                Block(PAGE, "sh", f"skopeo copy -q --all oci:layout:{tag} docker://{here.host}/team/app:{tag}\n")
            )
        found.run(Block(PAGE, "sh", f"skopeo copy -q oci:layout:busybox docker://{here.host}/base/busybox:1\n"))
        found.write(block(PAGE, "# images.txt"), **{"sha256:DIGEST": busybox["digest"]})
        found.write(block(PAGE, "# pods.yaml"))
        found.write(block(PAGE, "# disk.yml"))
        yield found


def digest_of(live: Live, name: str, tag: str) -> str:
    return Wire(live.host).manifest(name, tag).headers["docker-content-digest"]


def test_the_page(sites: Sites) -> None:
    """Each block ends without an error, and the images of the last site are those of the first."""
    commands = [found for found in blocks(PAGE) if found.language == "sh" and not found.text.startswith(SAVED)]
    assert len(commands) >= 14
    shown: list[str] = []
    for found in commands:
        # The second import of the page is into the store of the other side.
        config = "there" if "import more.tar --config" in found.text else "here"
        shown.append(sites.run(found, config=config))
    for tag in ("1.0", "1.1", "1.2"):
        expected = digest_of(sites.here, "team/app", tag)
        assert digest_of(sites.there, "team/app", tag) == expected
    assert digest_of(sites.there, "by-skopeo/app", "1.0") == digest_of(sites.here, "team/app", "1.0")
    assert any("left out: " in text for text in shown)
    assert any("is up to date" in text for text in shown)
    assert re.search(r"split\.tar\.00[1-9]", "".join(shown))
    names = [path.name for path in sites.folder.glob("split.tar.*")]
    assert len(names) > 1
    with start_moorage(sites.folder / "new") as new:
        assert digest_of(new, "team/app", "1.2") == digest_of(sites.here, "team/app", "1.2")
    for name in ("next.tar", "new.tar"):
        assert (sites.folder / name).stat().st_size < 100_000 < (sites.folder / "more.tar").stat().st_size


@pytest.mark.docker
@pytest.mark.root
def test_the_archive_of_the_engine(sites: Sites) -> None:
    """`docker save`, imported."""
    (sites.folder / "root.tar").write_bytes(busybox_tar())
    require("docker")
    with dockerd() as host:
        made = Block(PAGE, "sh", "docker import root.tar team/app:1.0\n")
        sites.run(made, DOCKER_HOST=host)
        shown = sites.run(block(PAGE, SAVED), DOCKER_HOST=host)
    assert "imported team/app:1.0" in shown
