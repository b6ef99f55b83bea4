"""`moorage migrate check` on stores of Debian's docker-registry 2.8: what it finds, and that it only reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.config.test_stock_files import DEBIAN
from tests.live import SECRET, require_root, start_reference
from tests.migrate.stores import add_schema_1, fill, put
from tests.s3 import a_bucket

from moorage.migration import accounts, volume
from moorage.migration.accounts import Account, current
from moorage.registry import layout
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Result, Run

pytestmark = [pytest.mark.reference, pytest.mark.slow]

NAME = RepoName("team/app")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume that docker-registry wrote."""
    root = tmp_path_factory.mktemp("filled") / "data"
    with start_reference(root) as live:
        fill(live.host)
    return root


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(filled, tmp_path / "data")


@pytest.fixture
def check(run: Run, tmp_path: Path) -> Callable[..., Result]:
    def call(root: Path, *options: str, secret: str = SECRET, **more: Any) -> Result:
        document = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(root)}, **more},
            "http": {"addr": "127.0.0.1:5000", "secret": secret},
        }
        (tmp_path / "config.yml").write_text(json.dumps(document))
        return run("migrate", "check", "--quiet", *options, tmp_path / "config.yml")

    return call


def kinds(result: Result) -> dict[str, dict[str, Any]]:
    """The lines of `--json`, by kind; the summary under "summary"."""
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {line.get("kind", "summary"): line for line in lines}


def test_a_sound_volume_is_ready_and_untouched(root: Path, check: Callable[..., Result]) -> None:
    """A check before the move must not change the registry that still serves."""
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*")}
    result = check(root, "--json")
    found = kinds(result)
    assert result.returncode == 0, result
    assert found["summary"]["summary"]["ready"] is True
    assert found["contents"]["text"].startswith("3 repositories, ")
    assert found["permissions"]["group"] == found["space"]["group"] == "kept"
    uploads = found["uploads"]
    assert (uploads["group"], uploads["text"]) == (
        "kept",
        "1 uploads in progress (1 MiB), which their clients can continue",
    )
    assert "/team/begun/_uploads/" in uploads["subject"]
    assert "served-before" not in found
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*")} == before


def test_the_report_has_groups_remedies_and_the_next_command(
    root: Path, check: Callable[..., Result], tmp_path: Path
) -> None:
    result = check(root)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Stays as it is:"
    assert "Behaves differently:" in lines
    assert any(line.startswith("      do: run `moorage storage rebuild-referrers") for line in lines)
    assert lines[-2:] == [
        f"ready: moorage serve {tmp_path / 'config.yml'}",
        f"every blob and link of the store: moorage storage check --digests {tmp_path / 'config.yml'}",
    ]
    assert result.stderr == ""


def test_without_a_secret_uploads_begin_again(root: Path, check: Callable[..., Result]) -> None:
    found = kinds(check(root, "--json", secret=""))
    assert (found["uploads"]["group"], found["secret"]["group"]) == ("changed", "changed")
    assert "must begin again" in found["uploads"]["text"]


def test_old_uploads_are_named_before_the_purger_takes_them(root: Path, check: Callable[..., Result]) -> None:
    (home,) = root.glob("docker/registry/v2/repositories/team/begun/_uploads/*")
    os.utime(home / "startedat", (0, 0))
    assert kinds(check(root, "--json"))["uploads-stale"]["group"] == "changed"
    assert "uploads-stale" not in kinds(check(root, "--json", maintenance={"uploadpurging": {"enabled": False}}))


def test_an_upload_without_hash_state_is_counted(root: Path, check: Callable[..., Result]) -> None:
    (home,) = root.glob("docker/registry/v2/repositories/team/begun/_uploads/*")
    shutil.rmtree(home / "hashstates")
    assert "1 of them have no hash state" in kinds(check(root, "--json"))["uploads"]["text"]


def test_schema_1_must_be_settled(root: Path, check: Callable[..., Result]) -> None:
    """An image that silently vanishes with the move is found on the day when it is needed."""
    digest = add_schema_1(root, NAME)
    result = check(root, "--json")
    assert result.returncode == 1
    found = [json.loads(line) for line in result.stdout.splitlines()]
    (line,) = [line for line in found if line.get("kind") == "schema-1" and line["group"] == "refused"]
    assert line["subject"] == f"team/app@{digest}"
    assert line["required"] is True


def test_damage_is_reported_and_does_not_hold_up_the_move(root: Path, check: Callable[..., Result]) -> None:
    """The old registry has it as well."""
    empty = Digest.of(b"never came")
    put(root, layout.blob_data(empty), b"")
    put(root, layout.layer_link(NAME, empty), str(empty).encode())
    put(root, layout.layer_link(NAME, Digest.of(b"torn")), b"sha256:12")
    gone = Digest.of(b"gone")
    put(root, layout.revision_link(NAME, gone), str(gone).encode())
    put(root, layout.below(layout.ROOT, "notes.txt"), b"by hand")
    result = check(root, "--json")
    found = kinds(result)
    assert result.returncode == 0
    assert found["blob-empty"]["subject"] == str(empty)
    assert found["link-torn"]["subject"].endswith(f"{Digest.of(b'torn').hex}/link")
    assert found["manifest-unreadable"]["subject"] == f"team/app@{gone}"
    assert found["unknown-key"]["group"] == "ignored"
    for kind in ("blob-empty", "link-torn", "manifest-unreadable"):
        assert "moorage storage check" in found[kind]["remedy"]


@pytest.fixture
def open_root(filled: Path) -> Iterator[Path]:
    """A copy below directories that every user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield shutil.copytree(filled, Path(folder) / "data")


def test_files_of_another_user_are_found(open_root: Path, check: Callable[..., Result]) -> None:
    """A volume that root filled for years, and a service that is not root: the modes decide."""
    (data,) = open_root.glob("docker/registry/v2/repositories/team/begun/_uploads/*/data")
    for path in (open_root, *open_root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    blob = next(open_root.glob("docker/registry/v2/blobs/sha256/*/*/data"))
    blob.chmod(0o600)
    result = check(open_root, "--json", "--user", "54321:54322")
    found = kinds(result)
    assert result.returncode == 1
    assert found["permission-file"]["subject"] == str(blob)
    assert str(data.parent) in found["permission-upload"]["subject"]
    assert str(open_root) in found["permission-directory"]["subject"]
    assert f"chown -R 54321:54322 {open_root}" in found["permission-file"]["remedy"]
    assert f"uid {os.getuid()} (" in found["permission-file"]["remedy"]
    assert "permission-above" not in found
    open_root.parent.chmod(0o700)
    found = kinds(check(open_root, "--json", "--user", "54321:54322"))
    assert found["permission-above"]["remedy"] == f"chmod o+x {open_root.parent}"


def test_a_group_that_may_write_is_enough(open_root: Path, check: Callable[..., Result]) -> None:
    """An arbitrary user id with group 0, as OpenShift gives it."""
    for path in (open_root, *open_root.rglob("*")):
        path.chmod(0o775 if path.is_dir() else 0o664)
    result = check(open_root, "--json", "--user", f"54321:{open_root.stat().st_gid}")
    found = kinds(result)
    # The configuration itself is in a directory that only its owner may enter.
    assert [line["kind"] for line in found.values() if line.get("required")] == ["file-permission"]
    assert found["permissions"]["text"].startswith("54321 (uid 54321, from --user) can read and write it")


@pytest.mark.root
def test_files_of_a_foreign_uid_are_found_for_the_owner_of_the_rest(
    open_root: Path, check: Callable[..., Result]
) -> None:
    require_root()
    for path in (open_root, *open_root.rglob("*")):
        os.chown(path, 54321, 54321)
    blob = next(open_root.glob("docker/registry/v2/blobs/sha256/*/*/data"))
    os.chown(blob, 0, 0)
    blob.chmod(0o640)
    result = check(open_root, "--json", "--user", "54321:54321")
    found = kinds(result)
    assert found["permission-file"]["subject"] == str(blob)
    assert "permission-upload" not in found


def test_root_asks_for_the_user_of_the_unit(
    root: Path, check: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service does not run as root, so the permissions of root prove nothing; another user checks its own."""
    unit = Account("svc", 54321, 54321, frozenset({54321}), "User= of /x.service")
    monkeypatch.setattr(accounts, "of_unit", lambda: unit)
    monkeypatch.setattr(accounts, "current", lambda: Account("root", 0, 0, frozenset({0}), "the current user"))
    (root / "docker").chmod(0o700)
    found = kinds(check(root, "--json"))
    assert "user svc (uid 54321, from User= of /x.service)" in found["permission-directory"]["text"]
    owner = root.stat()
    own = Account("me", owner.st_uid or 1, owner.st_gid, frozenset({owner.st_gid}), "the current user")
    monkeypatch.setattr(accounts, "current", lambda: own)
    text = " ".join(line.get("text", "") for line in kinds(check(root, "--json")).values())
    assert "from the current user" in text
    assert "svc" not in text


def test_a_limit_bounds_the_look_and_is_told(root: Path, check: Callable[..., Result]) -> None:
    """A tree of ten million files must not take an hour before the first line."""
    found = kinds(check(root, "--json", "--limit", "5"))
    assert found["permissions"]["text"].endswith("5 entries examined; --limit 0 examines all")
    assert found["contents"]["text"].endswith("only a part was listed, --limit 0 lists all")
    entries = 1 + sum(1 for _ in root.rglob("*"))
    assert f"{entries} entries examined" in kinds(check(root, "--json", "--limit", "0"))["permissions"]["text"]


def test_a_link_to_another_disk_is_followed_once(root: Path, check: Callable[..., Result], tmp_path: Path) -> None:
    """Operators move blobs to a larger disk so; a link that leads back to itself ends too."""
    shutil.move(root / "docker/registry/v2/blobs", tmp_path / "blobs")
    (root / "docker/registry/v2/blobs").symlink_to(tmp_path / "blobs")
    before = kinds(check(root, "--json", "--limit", "0"))["permissions"]["text"]
    (tmp_path / "blobs" / "sha256" / "again").symlink_to(tmp_path / "blobs")
    tree = volume.walk(root, current(), 0, lambda _: None)
    assert tree.complete
    assert "entries examined" in before


def replace_by_a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (shutil.rmtree, "store-missing"),
        (replace_by_a_file, "store-missing"),
        (lambda root: shutil.rmtree(root / "docker"), "store-empty"),
    ],
    ids=["absent", "a file", "not mounted"],
)
def test_a_volume_that_is_not_there_is_no_empty_registry(
    change: Callable[[Path], object], kind: str, root: Path, check: Callable[..., Result]
) -> None:
    change(root)
    result = check(root, "--json")
    assert result.returncode == 1
    assert kinds(result)[kind]["remedy"].startswith(("mount ", "name the directory"))


class _Statvfs:
    """A file system that is full, or mounted read-only."""

    def __init__(self, real: os.statvfs_result, *, flag: int, free: int) -> None:
        self.f_flag, self.f_bavail, self.f_frsize = flag, free, 1
        self.f_files, self.f_favail = real.f_files, real.f_favail


@pytest.mark.parametrize(
    ("flag", "free", "kind"), [(0, 1000, "space"), (os.ST_RDONLY, 1 << 40, "store-read-only")], ids=["full", "ro"]
)
def test_a_disk_that_takes_no_pushes(
    flag: int, free: int, kind: str, root: Path, check: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: _Statvfs(real(path), flag=flag, free=free))
    result = check(root, "--json")
    assert (result.returncode, kinds(result)[kind]["group"]) == (1, "to-do")
    if kind == "store-read-only":
        assert kind not in kinds(check(root, "--json", maintenance={"readonly": {"enabled": True}}))


def test_debians_own_file_needs_a_password_file(root: Path, run: Run, tmp_path: Path) -> None:
    """What Debian's docker-registry leaves in /etc names a directory in the place of the password file."""
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "config.yml"
    path.write_text(DEBIAN.replace("/etc/docker/registry", str(folder)))
    variables = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(root), "REGISTRY_HTTP_ADDR": "127.0.0.1:5000"}
    result = run("migrate", "check", "--quiet", "--json", path, **variables)
    found = kinds(result)
    assert result.returncode == 1
    todo = [line for line in map(json.loads, result.stdout.splitlines()) if line.get("required")]
    assert [line["kind"] for line in todo] == ["password-file-directory"]
    assert f"moorage htpasswd -Bc {folder}/htpasswd USER" in todo[0]["text"]
    assert found["variables"]["subject"] == ", ".join(sorted(variables))

    made = run("htpasswd", "-Bbc", folder / "htpasswd", "ann", "secret")
    assert made.returncode == 0, made
    path.write_text(path.read_text().replace(f"path: {folder}", f"path: {folder}/htpasswd"))
    result = run("migrate", "check", "--quiet", "--json", path, **variables)
    assert result.returncode == 0, result


def test_a_bucket_is_looked_at_by_its_listing(run: Run, tmp_path: Path) -> None:
    with a_bucket() as bucket:
        with start_reference(tmp_path / "theirs", storage={"filesystem": None, "s3": bucket.settings()}) as live:
            fill(live.host)
        path = tmp_path / "config.yml"
        document = {
            "version": 0.1,
            "storage": {"s3": bucket.settings()},
            "http": {"addr": "127.0.0.1:5000", "secret": SECRET},
        }
        path.write_text(json.dumps(document))
        keys = set(bucket.keys())
        result = run("migrate", "check", "--quiet", "--json", path)
        found = kinds(result)
        assert result.returncode == 0, result
        assert found["contents"]["text"].startswith("3 repositories, ")
        assert "/_uploads/" in found["uploads"]["subject"]
        assert found["uploads-in-buckets"]["group"] == "changed"
        assert set(bucket.keys()) == keys
    result = run("migrate", "check", "--quiet", "--json", path)
    assert (result.returncode, kinds(result)["store-unreadable"]["group"]) == (1, "to-do")


def test_a_look_that_is_refused_asks_for_root(
    root: Path, check: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a volume that only its service may enter, and of a single directory in it."""
    closed = root / "docker/registry/v2/blobs"
    real_scan, real_stat = os.scandir, Path.stat

    def scan(path: str) -> Any:
        if str(path) == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan)
        found = kinds(check(root, "--json"))
    assert found["not-looked-at"]["subject"] == str(closed)
    assert found["not-looked-at"]["remedy"].startswith("run this command as root")
    assert "Permission denied" in found["store-unreadable"]["text"]

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path == root:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        result = check(root, "--json")
    assert (result.returncode, kinds(result)["store-missing"]["remedy"][:24]) == (1, "run this command as root")


def test_progress_goes_to_standard_error(root: Path, run: Run, tmp_path: Path) -> None:
    """A bar on a terminal (tests/cli/test_progress.py), else lines; the report is not mixed with it."""
    document = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(root)}},
        "http": {"addr": "127.0.0.1:5000", "secret": SECRET},
    }
    (tmp_path / "c.yml").write_text(json.dumps(document))
    result = run("migrate", "check", "--json", tmp_path / "c.yml")
    assert "files examined: " in result.stderr
    assert "manifests read: 3 in " in result.stderr
    assert all(json.loads(line) for line in result.stdout.splitlines())


def test_a_store_whose_extra_is_missing_is_refused_with_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiobotocore", None)
    monkeypatch.setitem(sys.modules, "aiobotocore.session", None)
    document = {
        "version": 0.1,
        "storage": {"s3": {"bucket": "b", "region": "r", "regionendpoint": "http://127.0.0.1:9"}},
        "http": {"addr": "127.0.0.1:5000", "secret": SECRET},
    }
    (tmp_path / "c.yml").write_text(json.dumps(document))
    result = run("migrate", "check", "--quiet", "--json", tmp_path / "c.yml")
    found = kinds(result)
    assert result.returncode == 1
    assert "moorage[s3]" in found["configuration"]["text"]
    assert "store-unreadable" not in found
