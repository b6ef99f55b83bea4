"""`moorage history`, `restore`, `repository delete` and `erase`: results, refusals, exit statuses."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from tests.registry.images import NAME, T1, T2, push

from moorage.gc.run import Collection
from moorage.quota.facts import Base, UsedAmount, new_token
from moorage.registry import layout
from moorage.registry.boot_clock import boot_seconds
from moorage.registry.history import TagHistory
from moorage.registry.interface import Caller
from moorage.registry.manifests import StoredManifests
from moorage.registry.timeline import tag_timeline
from moorage.registry.trash import Trash
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.builders import image
from moorage.types import RepoName
from moorage.wiring import garbage_collection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.cli.conftest import Run

ONE, OTHER = image(seed=1), image(seed=2)
READ_ONLY = "maintenance: {readonly: {enabled: true}}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def write_config(tmp_path: Path, more: str = "") -> Path:
    file = tmp_path / "config.yml"
    file.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}"
        f"{', ' if more else ''}{more}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    return file


def served(tmp_path: Path, work: Callable[[StoredManifests, FilesystemDriver], Awaitable[object]]) -> None:
    """Do what clients do; the process ends before the command runs."""

    async def run() -> None:
        driver = FilesystemDriver(tmp_path / "data")
        history = TagHistory(driver)
        trash = Trash(driver, keep_s=3600)
        manifests = StoredManifests(driver, delete_enabled=True, trash=trash, history=history)
        await work(manifests, driver)
        await history.close()
        await driver.close()

    asyncio.run(run())


async def pushed_and_moved(manifests: StoredManifests, driver: FilesystemDriver) -> None:
    await push(driver, manifests, ONE, tags=(T2,))
    await push(driver, manifests, OTHER)
    for built, user in ((ONE, "ann"), (OTHER, "bob")):
        await manifests.put(NAME, T1, built.media_type, built.data, caller=Caller(user))


def where(tmp_path: Path, tag: str) -> str:
    path = tmp_path / "data" / layout.repository(NAME) / "_manifests" / "tags" / tag / "current" / "link"
    return path.read_text() if path.exists() else ""


def test_history_is_printed_newest_first(run: Run, tmp_path: Path, config: Path) -> None:
    """The first question after a bad deployment, answered in one command; scripts read JSON."""
    served(tmp_path, pushed_and_moved)
    result = run("history", config, f"{NAME}:{T1}")
    assert result.returncode == 0, result.stderr
    newest, oldest = result.stdout.splitlines()
    assert f"{OTHER.digest}  by bob" in newest
    assert f"{ONE.digest}  by ann" in oldest
    lines = run("history", "--json", config, f"{NAME}:{T1}").stdout.splitlines()
    assert [(json.loads(line)["by"], json.loads(line)["digest"]) for line in lines] == [
        ("bob", str(OTHER.digest)),
        ("ann", str(ONE.digest)),
    ]
    unknown = run("history", config, f"{NAME}:v9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "nothing is known" in unknown.stderr


def test_a_moved_tag_is_restored(run: Run, tmp_path: Path, config: Path) -> None:
    """And what was done is in its history, with the user of the host."""
    served(tmp_path, pushed_and_moved)
    refused = run("restore", config, f"{NAME}:{T1}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--previous or --at TIME" in refused.stderr
    result = run("restore", config, f"{NAME}:{T1}", "--previous")
    assert (result.returncode, where(tmp_path, T1)) == (0, str(ONE.digest)), result.stderr
    assert result.stdout.endswith("restored 1 tag, 0 manifests and 0 blobs\n")
    assert "(moorage restore)" in run("history", config, f"{NAME}:{T1}").stdout.splitlines()[0]
    late = run("restore", config, f"{NAME}:{T1}", "--at", "2020-01-01")
    assert late.returncode == 1
    assert "did not exist at 2020-01-01T00:00:00+00:00" in late.stderr


def test_a_deleted_manifest_is_restored_and_a_collected_one_is_not(run: Run, tmp_path: Path, config: Path) -> None:
    """Bytes that are gone are named; nothing is changed then."""

    async def delete(manifests: StoredManifests, driver: FilesystemDriver) -> None:
        await pushed_and_moved(manifests, driver)
        await manifests.delete(NAME, ONE.digest)

    served(tmp_path, delete)
    blob = tmp_path / "data" / layout.blob_data(ONE.blobs[0].digest)
    aside = blob.rename(blob.parent / "aside")
    gone = run("restore", config, f"{NAME}@{ONE.digest}")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert f"{ONE.blobs[0].digest} of the manifest {ONE.digest} is gone" in gone.stderr
    aside.rename(blob)
    result = run("restore", "--json", config, f"{NAME}@{ONE.digest}")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tags"] == {T2: str(ONE.digest)}


def test_a_repository_is_deleted_and_restored(run: Run, tmp_path: Path, config: Path) -> None:
    """After a question, which a script answers by --yes; --dry-run changes nothing."""
    served(tmp_path, pushed_and_moved)
    counts = "2 tags, 2 manifests and 4 blobs of library/alpine"
    dry = run("repository", "delete", "--dry-run", config, NAME)
    assert (dry.returncode, dry.stdout) == (0, f"would delete {counts}\n"), dry.stderr
    asked = run("repository", "delete", "-q", config, NAME)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert f"Delete {counts}? Nothing was changed: confirm with --yes" in asked.stderr
    assert where(tmp_path, T1)
    done = run("repository", "delete", "--yes", config, NAME)
    assert (done.returncode, done.stdout) == (0, f"deleted {counts}\n"), done.stderr
    assert not (tmp_path / "data" / layout.manifests(NAME)).exists()
    check = run("storage", "check", config)
    assert (check.returncode, "0 errors" in check.stdout) == (0, True), check.stdout
    again = run("repository", "delete", "--yes", config, NAME)
    assert again.returncode == 1
    assert "nothing was deleted" in again.stderr
    result = run("restore", config, NAME)
    assert (result.returncode, where(tmp_path, T1)) == (0, str(OTHER.digest)), result.stderr
    assert result.stdout.endswith("restored 2 tags, 2 manifests and 4 blobs\n")
    again = run("restore", config, NAME)
    assert (again.returncode, again.stdout) == (0, "nothing was restored: all of it is there already\n")
    check = run("storage", "check", config)
    assert (check.returncode, "0 errors" in check.stdout) == (0, True), check.stdout


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("reference", [f":{T1}", f"@{OTHER.digest}"])
def test_a_repository_that_erasures_have_emptied_is_deleted_once(
    run: Run, tmp_path: Path, config: Path, reference: str
) -> None:
    """It is in the catalog until then; numbers of zero looked like a mistake of the command."""

    async def one(manifests: StoredManifests, driver: FilesystemDriver) -> None:
        await push(driver, manifests, OTHER, tags=(T1,))

    served(tmp_path, one)
    assert run("erase", "--yes", config, f"{NAME}{reference}").returncode == 0
    empty = f"the empty repository {NAME}, which has no tags, manifests or blobs any more"
    dry = run("repository", "delete", "-q", "--dry-run", config, NAME)
    assert (dry.returncode, dry.stdout) == (0, f"would delete {empty}\n"), dry.stderr
    asked = run("repository", "delete", "-q", config, NAME)
    assert f"Delete {empty}? Nothing was changed" in asked.stderr
    done = run("repository", "delete", "-q", "--yes", config, NAME)
    assert (done.returncode, done.stdout) == (0, f"deleted {empty}\n"), done.stderr
    for option in ("--dry-run", "--yes"):
        again = run("repository", "delete", "-q", option, config, NAME)
        assert (again.returncode, again.stdout) == (1, ""), "it is not in the catalog any more"
        assert f"nothing was deleted: repository name not known to registry: {NAME}" in again.stderr


@pytest.mark.usefixtures("quick")
def test_a_repository_that_was_erased_is_unknown(run: Run, tmp_path: Path, config: Path) -> None:
    served(tmp_path, pushed_and_moved)
    assert run("erase", "--yes", config, NAME).returncode == 0
    for option in ("--dry-run", "--yes"):
        again = run("repository", "delete", "-q", option, config, NAME)
        assert (again.returncode, again.stdout) == (1, "")
        assert "nothing was deleted: repository name not known" in again.stderr


def test_without_undo_the_question_names_the_consequence(run: Run, tmp_path: Path) -> None:
    """Nothing brings it back."""
    config = write_config(tmp_path, "delete: {undo: 0}")
    served(tmp_path, pushed_and_moved)
    assert "for ever: storage.delete.undo is 0" in run("repository", "delete", config, NAME).stderr
    assert run("repository", "delete", "--yes", config, NAME).returncode == 0
    assert "no deletion of the whole repository" in run("restore", config, NAME).stderr


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections whose waits pass at once."""
    elapsed = [0.0]

    async def sleep(seconds: float) -> None:
        elapsed[0] += seconds

    def collection(**parts: Any) -> Collection:
        # The timer of the guard is that of pytest-timeout.
        return Collection(
            **parts, sleep=sleep, clock=lambda: boot_seconds() + elapsed[0], guard=lambda _: nullcontext()
        )

    monkeypatch.setattr(garbage_collection, "Collection", collection)


@pytest.mark.usefixtures("quick")
def test_a_dry_run_reports_what_waits(
    run: Run, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk after a deletion: the operator sees what comes back with time, and which settings hold it."""
    served(tmp_path, pushed_and_moved)
    # With a cache in a file, which the second mark must leave as it is.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ("garbage-collect", "--grace", "0s")
    before = json.loads(run(*command, "-d", "--json", config).stdout)
    assert run("repository", "delete", "--yes", config, NAME).returncode == 0
    report = json.loads(run(*command, "-d", "--json", config).stdout)
    stored = list((tmp_path / "data/docker/registry/v2/blobs").rglob("data"))
    assert report["freeable"] == {"objects": 0, "bytes": 0} == before["waiting"]
    assert report["waiting"] == {"objects": len(stored), "bytes": sum(path.stat().st_size for path in stored)}
    assert json.loads(run(*command, "-d", "--json", config).stdout)["waiting"] == report["waiting"]
    line = f"at most {len(stored)} blobs "
    assert any(
        found.startswith(line) and "storage.delete.undo and storage.maintenance.garbagecollection.grace" in found
        for found in run(*command, "-d", config).stdout.splitlines()
    )
    done = run(*command, config)
    assert (done.returncode, "--dry-run reports how much" in done.stdout) == (0, True), done.stderr
    assert all(path.exists() for path in stored)
    assert json.loads(run(*command, "--json", config).stdout)["waiting"] is None


@pytest.mark.usefixtures("quick")
def test_leaked_content_is_erased(run: Run, tmp_path: Path, config: Path) -> None:
    """It is in no repository, its bytes are gone, and a record has who did it."""
    served(tmp_path, pushed_and_moved)
    dry = run("erase", "--dry-run", config, f"{NAME}@{ONE.digest}")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.splitlines()[-1].startswith("would erase 3 digests")
    asked = run("erase", config, f"{NAME}@{ONE.digest}")
    assert asked.returncode == 1
    assert "confirm with --yes" in asked.stderr
    assert where(tmp_path, T2)
    done = run("erase", "--yes", "--everywhere", config, f"{NAME}@{ONE.digest}")
    assert done.returncode == 0, done.stderr
    assert "removed 3 blobs" in done.stdout
    for part in ONE.closure:
        assert not (tmp_path / "data" / layout.blob_data(part.digest)).exists()
    assert (tmp_path / "data" / layout.blob_data(OTHER.digest)).exists()
    assert where(tmp_path, T2) == ""
    (record,) = (tmp_path / "data" / layout.OWN / "audit").iterdir()
    assert record.name in done.stdout
    assert json.loads(record.read_text())["what"] == f"{NAME}@{ONE.digest}"
    again = run("erase", "--yes", config, f"{NAME}@{ONE.digest}")
    assert again.returncode == 1
    assert "nothing was erased" in again.stderr


@pytest.mark.slow  # eight processes
@pytest.mark.parametrize("hold", ["", "tags: [T2], ", "digests: ['{digest}'], "])
def test_held_content_is_neither_erased_nor_deleted(run: Run, tmp_path: Path, hold: str) -> None:
    """The reason of the legal hold is printed, in a dry run as well; other content may be erased."""
    config = write_config(tmp_path)
    served(tmp_path, pushed_and_moved)
    scope = hold.format(digest=ONE.digest).replace("T2", T2)
    with config.open("a") as file:
        file.write(f"retention: {{holds: [{{repositories: ['{NAME}'], {scope}reason: case 7}}]}}\n")
    for what in (NAME, f"{NAME}:{T2}", f"{NAME}@{ONE.digest}"):
        for option in ("--dry-run", "--yes"):
            result = run("erase", option, "--everywhere", config, what)
            assert result.returncode == 1, result.stdout
            assert "nothing was erased" in result.stderr
            assert "held: case 7" in result.stderr
    result = run("repository", "delete", "--yes", config, NAME)
    assert result.returncode == 1
    assert "nothing was deleted" in result.stderr
    assert "held: case 7" in result.stderr
    assert where(tmp_path, T2) == str(ONE.digest)


@pytest.mark.usefixtures("quick")
def test_bytes_that_another_repository_links_are_kept_and_named(run: Run, tmp_path: Path, config: Path) -> None:
    """The operator learns where the leak is still served."""

    async def copied(manifests: StoredManifests, driver: FilesystemDriver) -> None:
        await push(driver, manifests, ONE, tags=(T1,))
        await push(driver, manifests, ONE, name=RepoName("team/copy"), tags=(T1,))

    served(tmp_path, copied)
    done = run("erase", "--yes", config, NAME)
    assert done.returncode == 0, done.stderr
    assert f"kept {ONE.digest}, which team/copy links" in done.stdout
    assert "removed 0 blobs" in done.stdout
    done = run("erase", "--yes", "--everywhere", config, f"{NAME}@{ONE.digest}")
    assert (done.returncode, "removed 3 blobs" in done.stdout) == (0, True), done.stderr


@pytest.mark.usefixtures("quick")
def test_a_collection_that_is_refused_is_no_success(run: Run, tmp_path: Path) -> None:
    """The links are gone, the bytes are not: with the reason, and where they go."""
    config = write_config(tmp_path, "maintenance: {garbagecollection: {foreignwriters: true}}")
    served(tmp_path, pushed_and_moved)
    done = run("erase", "--yes", config, f"{NAME}@{ONE.digest}")
    assert (done.returncode, where(tmp_path, T2)) == (1, "")
    assert "left to the next garbage collection: another registry writes to this store" in done.stderr
    config = write_config(tmp_path)
    assert run("garbage-collect", "--pause", config).returncode == 0
    done = run("erase", "--yes", config, f"{NAME}@{OTHER.digest}")
    assert (done.returncode, where(tmp_path, T1)) == (1, "")
    assert "left to the next garbage collection: " in done.stderr
    assert "pause" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("history", "{}"), ("history", "{}", "a"), ("history", "{}", "A:v1"), ("restore", "{}"),
     ("restore", "{}", "a@sha256:12"), ("restore", "{}", "a:v1", "--at", "yesterday"),
     ("restore", "{}", "a", "--previous"), ("restore", "{}", "a:v1", "--previous", "--at", "2026-01-01"),
     ("erase", "{}"), ("erase", "{}", "host:5000/a"), ("repository", "delete", "{}"),
     ("repository", "delete", "{}", "A")],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_status_2(run: Run, config: Path, arguments: tuple[str, ...]) -> None:
    """With what was expected, before the store is opened."""
    result = run(*(word.format(config) for word in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    assert "expected" in result.stderr or "--at" in result.stderr


@pytest.mark.parametrize(
    "command",
    [("restore", "{}", "a:v1"), ("erase", "--yes", "{}", "a:v1"), ("repository", "delete", "--yes", "{}", "a")],
)
def test_a_store_that_must_not_be_changed_is_not(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Read-only mode holds for commands as well; the memory of another process cannot be seen."""
    config = write_config(tmp_path, READ_ONLY)
    result = run(*(word.format(config) for word in command))
    assert result.returncode == 1
    assert "storage.maintenance.readonly is enabled" in result.stderr
    config.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n")
    result = run(*(word.format(config) for word in command))
    assert result.returncode == 1
    assert "memory of one process" in result.stderr


HOLD = "retention: {holds: [{repositories: ['library/*'], tags: [v1], reason: 'case 7'}]}\n"
IMMUTABLE = "immutability: {rules: [{repositories: ['library/*'], tags: ['*']}]}\n"


@pytest.mark.parametrize(("more", "reason"), [(HOLD, "is held: case 7"), (IMMUTABLE, "is immutable by immut")])
@pytest.mark.parametrize("command", ["delete", "dry run", "erase", "previous", "at"])
def test_protected_content_is_refused_with_the_reason(
    run: Run, tmp_path: Path, config: Path, more: str, reason: str, command: str
) -> None:
    """By the commands of an operator as by the API: the settings are what a court or an auditor reads."""
    served(tmp_path, pushed_and_moved)
    config.write_text(config.read_text() + more.replace("v1", T1))
    now = where(tmp_path, T1)
    result = run(
        *{
            "delete": ("repository", "delete", "--yes", config, NAME),
            "dry run": ("repository", "delete", "--dry-run", config, NAME),
            "erase": ("erase", "--yes", config, f"{NAME}:{T1}"),
            "previous": ("restore", config, f"{NAME}:{T1}", "--previous"),
            "at": ("restore", config, f"{NAME}:{T1}", "--at", time_of_the_first(tmp_path)),
        }[command]
    )
    assert result.returncode == 1
    assert reason in result.stderr
    assert where(tmp_path, T1) == now == str(OTHER.digest)


def time_of_the_first(tmp_path: Path) -> str:
    """Time at which the tag pointed to its first manifest."""

    async def first() -> str:
        driver = FilesystemDriver(tmp_path / "data")
        timeline = await tag_timeline(driver, NAME, T1)
        await driver.close()
        return timeline[0].at.isoformat()

    return asyncio.run(first())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("quota", [True, False])
@pytest.mark.parametrize(
    "command",
    [("repository", "delete", "--yes"), ("erase", "--yes"), ("restore",)],
    ids=lambda command: command[0],
)
def test_a_command_asks_for_a_count_of_quotas(
    run: Run, tmp_path: Path, config: Path, command: tuple[str, ...], quota: bool
) -> None:
    """Else what it has freed or restored is counted a day later.  Without quotas nothing is written."""

    async def delete(manifests: StoredManifests, driver: FilesystemDriver) -> None:
        await pushed_and_moved(manifests, driver)
        if command[0] == "restore":
            await manifests.delete(NAME, ONE.digest)

    served(tmp_path, delete)
    if quota:
        with config.open("a") as file:
            file.write("quota: {rules: [{repositories: '*', bytes: 1GiB}]}\n")
    target = f"{NAME}@{ONE.digest}" if command[0] != "repository" else str(NAME)
    assert run(*command, str(config), target).returncode == 0
    assert (tmp_path / "data" / layout.usage("wanted")).exists() is quota


def counted(tmp_path: Path, used: UsedAmount) -> None:
    """Store the usage of `library` as a serving node has counted it."""

    async def publish(_: StoredManifests, driver: FilesystemDriver) -> None:
        base = Base(new_token(1_800_000_000), {"library": used}, {"library": 1_800_000_000.0})
        await driver.write(base.key, base.encode())

    served(tmp_path, publish)


@pytest.mark.parametrize(
    ("limit", "warning"),
    [
        ("bytes: 1KiB", "library uses 1.4 KiB of 1 KiB"),
        ("tags: 1", "library uses 2 of 1 tags"),
        ("bytes: 1KiB, tags: 1", "library uses 1.4 KiB of 1 KiB and 2 of 1 tags"),
        ("bytes: 1GiB, tags: 2", ""),
    ],
)
def test_a_restore_beyond_a_quota_warns_with_the_numbers(
    run: Run, tmp_path: Path, config: Path, limit: str, warning: str
) -> None:
    """The operator restores after a mistake, and has to know why the next push of the team is refused."""

    async def delete(manifests: StoredManifests, driver: FilesystemDriver) -> None:
        await push(driver, manifests, ONE, tags=(T2,))
        await manifests.delete(NAME, ONE.digest)

    served(tmp_path, delete)
    counted(tmp_path, UsedAmount(1000, 1))
    with config.open("a") as file:
        file.write(f"quota: {{rules: [{{repositories: library, {limit}}}, {{repositories: other, tags: 1}}]}}\n")
    done = run("restore", config, f"{NAME}@{ONE.digest}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("restored 1 tag, 1 manifest and 0 blobs\n")
    shown = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    if warning:
        (line,) = shown
        assert line.startswith(f"warning: quota exceeded: {warning}, with what was restored; ")
        assert "until something is deleted or the limit in quota.rules is raised" in line
    else:
        assert shown == []


def test_a_moved_tag_exceeds_no_quota(run: Run, tmp_path: Path, config: Path) -> None:
    """It is counted already; a prefix that is exceeded by something else is not the matter of this restore."""
    served(tmp_path, pushed_and_moved)
    counted(tmp_path, UsedAmount(1 << 20, 2))
    with config.open("a") as file:
        file.write("quota: {rules: [{repositories: library, bytes: 1KiB, tags: 1}]}\n")
    done = run("restore", "--json", config, f"{NAME}:{T1}", "--previous")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["over_quota"] == []
    back = run("restore", "--json", config, NAME, "--at", "2020-01-01")
    assert back.returncode == 1


def test_a_whole_repository_beyond_a_quota(run: Run, tmp_path: Path, config: Path) -> None:
    """Programs read the numbers; tags count as well as bytes, each blob once."""
    served(tmp_path, pushed_and_moved)
    assert run("repository", "delete", "--yes", config, NAME).returncode == 0
    counted(tmp_path, UsedAmount(0, 0))
    with config.open("a") as file:
        file.write("quota: {rules: [{repositories: library, bytes: 1KiB}]}\n")
    done = run("restore", "--json", config, NAME)
    assert done.returncode == 0, done.stderr
    size = sum({part.digest: part.size for built in (ONE, OTHER) for part in built.closure}.values())
    assert json.loads(done.stdout)["over_quota"] == [{"repositories": "library", "bytes": size, "tags": 2}]
    assert "warning: quota exceeded: library uses" in done.stderr


def test_a_quota_that_was_never_counted_is_no_warning(run: Run, tmp_path: Path, config: Path) -> None:
    """It is not enforced yet, either."""
    served(tmp_path, pushed_and_moved)
    with config.open("a") as file:
        file.write("quota: {rules: [{repositories: library, bytes: 1KiB}]}\n")
    done = run("restore", config, f"{NAME}:{T1}", "--previous")
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
