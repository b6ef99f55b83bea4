"""`moorage export` and `moorage import`: stores, running registries, names, lists, and their errors."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.bundle.sites import pulled
from tests.live import Live, start_moorage
from tests.ports import free_port

from moorage.registry.stored import StoredRegistry
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.builders import artifact, blob, image, index
from moorage.testing.registry_fixtures import push
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.cli.conftest import Result, Run

    from moorage.testing.builders import Built

SHARED = blob(size=50_000, seed=1)
BOTH = index(image(SHARED), image(blob(size=3000, seed=2), platform="linux/arm64"))
NEXT = image(SHARED, blob(size=500, seed=3))
SIGNATURE = artifact("application/vnd.example.sig", blob(size=50, seed=4), subject=BOTH)


class Site:
    """A store on files, with its configuration."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "data"
        self.root.mkdir(parents=True)
        self.config = folder / "config.yml"
        storage = f"storage: {{filesystem: {{rootdirectory: '{self.root}'}}}}"
        self.config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:0'}}\n")

    def push(self, name: str, built: Built, *tags: str) -> None:
        self._run(lambda registry: push(registry, built, *tags, name=parse_repo_name(name)))

    def pulled(self, name: str, tag: str, built: Built) -> None:
        self._run(lambda registry: pulled(registry, name, tag, built))

    def _run(self, work: Callable[[StoredRegistry], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            registry = StoredRegistry(FilesystemDriver(self.root), b"secret")
            try:
                await work(registry)
            finally:
                await registry.close()

        asyncio.run(run())

    @property
    def is_empty(self) -> bool:
        return not any(path.name == "link" for path in self.root.rglob("*"))


@pytest.fixture
def here(tmp_path: Path) -> Site:
    site = Site(tmp_path / "here")
    site.push("library/app", BOTH, "1", "latest")
    site.push("library/app", SIGNATURE)
    return site


@pytest.fixture
def there(tmp_path: Path) -> Site:
    return Site(tmp_path / "there")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("live") / "data") as live:
        yield live


def done(result: Result) -> list[str]:
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def failed(result: Result, status: int = 1) -> str:
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_from_store_to_store(run: Run, here: Site, there: Site, tmp_path: Path) -> None:
    """Neither has to be served; the second import copies nothing."""
    bundle = tmp_path / "b.tar"
    shown = done(run("export", "--config", here.config, "-o", bundle, "library/app:1"))
    assert shown[0] == f"library/app:1 {BOTH.digest}"
    assert shown[1].startswith(f"{bundle}: ")
    assert shown[1].endswith("1 image, 4 manifests, 6 blobs")
    shown = done(run("import", "--config", there.config, bundle))
    assert shown[0] == f"imported library/app:1 {BOTH.digest}"
    assert "1 referrer" in shown[1]
    there.pulled("library/app", "1", BOTH)
    shown = done(run("import", "--config", there.config, bundle))
    assert shown == [
        f"library/app:1 is up to date {BOTH.digest}",
        "1 image: 0 blobs (0 B), 0 manifests",
    ]


@pytest.mark.slow
def test_through_the_api_of_a_running_registry(
    run: Run, here: Site, there: Site, live: Live, tmp_path: Path
) -> None:
    """And names that begin with the host of the registry are its own."""
    done(run("export", "--config", here.config, "-o", tmp_path / "a.tar", "library/app"))
    shown = done(run("import", tmp_path / "a.tar", "--registry", live.url, "--repository-prefix", "team/x", "-q"))
    assert shown[0] == f"imported team/x/library/app:latest {BOTH.digest}"
    named = f"{live.host}/team/x/library/app:latest"
    for number, arguments in enumerate((("--registry", live.url), ("--registry", live.host, "--plain-http"))):
        bundle = tmp_path / f"{number}.tar"
        done(run("export", *arguments, "-q", "-o", bundle, named))
        done(run("import", "--config", there.config, bundle, "-q"))
    there.pulled("team/x/library/app", "latest", BOTH)
    # By its own name: the registry is that of the name.
    bundle = tmp_path / "own.tar"
    shown = done(run("export", "--plain-http", "-q", "-o", bundle, named))
    assert shown[0] == f"{named} {BOTH.digest}"
    refusal = failed(run("import", "--config", there.config, bundle, "-q"))
    assert "--strip-host removes the host" in refusal
    done(run("import", "--config", there.config, bundle, "-q", "--strip-host"))
    shown = done(run("import", "--registry", live.url, bundle, "-q"))
    assert shown[0] == f"team/x/library/app:latest is up to date {BOTH.digest}"


def test_a_list_of_images(run: Run, here: Site, there: Site, tmp_path: Path) -> None:
    """The registry has the images of a cluster with the host of their origin, or without it."""
    here.push("quay.io/a/b", NEXT, "2")
    (tmp_path / "images.txt").write_text(f"docker.io/library/app:1\nquay.io/a/b@{NEXT.digest}\n")
    (tmp_path / "pods.yaml").write_text("spec: {containers: [{image: 'quay.io/a/b:2'}]}")
    done(
        run(
            "export", "--config", here.config, "-q", "-o", tmp_path / "b.tar",
            "--images", tmp_path / "images.txt", "--images", tmp_path / "pods.yaml",
        )
    )  # fmt: skip
    done(run("import", "--config", there.config, tmp_path / "b.tar", "-q"))
    there.pulled("library/app", "1", BOTH)
    there.pulled("quay.io/a/b", "2", NEXT)


def test_all_tags_of_a_repository(run: Run, here: Site, tmp_path: Path) -> None:
    command = ("export", "--config", here.config, "-q", "-o", tmp_path / "b.tar", "--all-tags")
    shown = done(run(*command, "library/app"))
    assert [line.split()[0] for line in shown[:2]] == ["library/app:1", "library/app:latest"]
    refusal = failed(run(*command, "library/app:1"))
    assert "with --all-tags, images are named without a tag" in refusal


@pytest.mark.parametrize("kind", ["--since", "--have"])
def test_only_what_the_other_side_lacks(run: Run, here: Site, there: Site, tmp_path: Path, kind: str) -> None:
    """A registry without the base refuses it, with the digests, before anything is written."""
    here.push("team/next", NEXT, "1")
    base, given = tmp_path / "base.tar", tmp_path / "have.txt"
    export = ("export", "--config", here.config, "-q", "-o")
    done(run(*export, base, "library/app:1"))
    given.write_text(f"# digests\n{SHARED.digest} site/elsewhere # and its repository\n{BOTH.digest}\n")
    argument = base if kind == "--since" else given
    shown = done(run(*export, tmp_path / "next.tar", kind, argument, "team/next:1"))
    assert "left out: 1 blob (48.8 KiB)" in shown[1]
    refusal = failed(run("import", "--config", there.config, tmp_path / "next.tar", "-q"))
    assert str(SHARED.digest) in refusal
    assert ("import its base base.tar" if kind == "--since" else "--have list") in refusal
    assert "Nothing was written" in refusal
    assert there.is_empty
    if kind == "--since":
        done(run("import", "--config", there.config, base, tmp_path / "next.tar", "-q"))
    else:
        there.push("site/elsewhere", image(SHARED, seed=8), "0")
        done(run("import", "--config", there.config, tmp_path / "next.tar", "-q"))
    there.pulled("team/next", "1", NEXT)


def test_volumes_are_given_one_by_one_or_by_their_name(run: Run, here: Site, there: Site, tmp_path: Path) -> None:
    here.push("big", image(blob(size=200_000, seed=9)), "1")
    export = ("export", "--config", here.config, "-q", "--volume-size", "64K", "-o", tmp_path / "b.tar", "big:1")
    shown = done(run(*export))
    assert shown[1].startswith(f"{tmp_path / 'b.tar.001'} ... b.tar.004: ")
    for given in ([tmp_path / "b.tar"], sorted(tmp_path.glob("b.tar.*"))):
        shown = done(run("import", "--config", there.config, "-q", *given))
        assert len(shown) == 2


def test_a_dry_run_writes_nothing(run: Run, here: Site, there: Site, tmp_path: Path) -> None:
    done(run("export", "--config", here.config, "-q", "-o", tmp_path / "b.tar", "library/app:1"))
    shown = done(run("import", "--config", there.config, "-q", "--dry-run", tmp_path / "b.tar"))
    assert shown[0] == f"would import library/app:1 {BOTH.digest}"
    assert there.is_empty


def test_a_full_disk_is_one_line_and_continued(
    run: Run, here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        del descriptor, data
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command = ("export", "--config", here.config, "-q", "-o", tmp_path / "b.tar", "library/app:1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        refusal = failed(run(*command))
    assert refusal.startswith(
        f"error: no space left in {tmp_path} (No space left on device); 0 bytes were written"
    )
    done(run(*command))


def test_content_that_the_source_lacks(run: Run, here: Site, tmp_path: Path) -> None:
    export = ("export", "--config", here.config, "-q", "-o", tmp_path / "b.tar")
    for name, message in (
        ("absent:1", "error: the store has no image absent:1 (tried absent, docker.io/library/absent, library/"),
        (f"library/app@{SHARED.digest}", "error: the store has no image library/app@"),
        ("App:1", "error: 'App:1' is not an image name: invalid repository name"),
        ("app:-", "is not an image name: invalid tag"),
    ):
        assert message in failed(run(*export, name))
    assert not list(tmp_path.glob("b.tar*"))
    digest = BOTH.manifests[0].blobs[0].digest
    (here.root / f"docker/registry/v2/repositories/library/app/_layers/sha256/{digest.hex}/link").unlink()
    refusal = failed(run(*export, "library/app:1"))
    assert f"error: the store: library/app lacks {digest}, though its images name it" in refusal
    assert not list(tmp_path.glob("b.tar*"))


def test_a_registry_that_does_not_answer(run: Run, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    for command in (
        ("export", "--registry", f"http://{address}", "-o", tmp_path / "b.tar", "app:1", "-q"),
        ("export", "--plain-http", "-o", tmp_path / "b.tar", f"{address}/app:1", "-q"),
    ):
        assert address in failed(run(*command))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "app:1"), "--output"),
        (("export", "-o", "x"), "name an image, or a file of images"),
        (("export", "-o", "x", "a:1", "--config", "c", "--registry", "r"), "exclude each other"),
        (("export", "-o", "x", "a:1", "--volume-size", "many"), "expected a size such as 4G"),
        (("export", "-o", "x", "a:1", "--volume-size", "1K"), "at least 64K"),
        (("export", "-o", "x", "a:1", "--platform", "linux"), "expected a platform as OS/ARCHITECTURE"),
        (("import",), "name a file"),
        (("import", "x"), "name the registry"),
        (("import", "x", "--config", "c", "--registry", "r"), "exclude each other"),
        (("import", "x", "--config", "c", "--as", "App"), "invalid repository name"),
        (("import", "x", "--config", "c", "--as", f"a@sha256:{'a' * 64}"), "expected NAME or NAME:TAG"),
        (("import", "x", "--config", "c", "--repository-prefix", "A"), "invalid repository name"),
    ],
)
def test_mistakes_on_the_command_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in " ".join(failed(run(*arguments), 2).split())


@pytest.mark.parametrize("option", ["--since", "--have"])
def test_a_base_that_is_none(run: Run, tmp_path: Path, option: str) -> None:
    (tmp_path / "base").write_text("nothing of the kind")
    export = ("export", "--registry", "r.test", "-q", "-o", tmp_path / "b.tar", "a:1", option)
    assert str(tmp_path / "base") in failed(run(*export, tmp_path / "base"))
    assert str(tmp_path / "absent") in failed(run(*export, tmp_path / "absent"))


def test_a_read_only_store_is_left_alone(run: Run, here: Site, there: Site, tmp_path: Path) -> None:
    done(run("export", "--config", here.config, "-q", "-o", tmp_path / "b.tar", "library/app:1"))
    there.config.write_text(
        there.config.read_text().replace("storage: {", "storage: {maintenance: {readonly: {enabled: true}}, ")
    )
    refusal = failed(run("import", "--config", there.config, "-q", tmp_path / "b.tar"))
    assert "storage.maintenance.readonly is enabled" in refusal
