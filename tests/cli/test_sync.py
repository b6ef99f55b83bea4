"""`moorage sync`: its report, and the exit status of a run that is not complete."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.live import start_moorage
from tests.upstream.faulty import FaultyRegistry, Gate

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run
    from tests.live import Live

LAYER = bytes(range(256)) * 800


@pytest.fixture
def source() -> Iterator[FaultyRegistry]:
    """`team/app` with 1.0.0, 1.1.0 and edge, `team/web` with 2.0.0."""
    with FaultyRegistry(basic=("mirror", "hidden-word")).in_thread() as registry:
        for tag, layer in (("1.0.0", b"a"), ("1.1.0", b"b"), ("edge", b"c")):
            registry.add_image("team/app", tag, [LAYER, layer])
        registry.add_image("team/web", "2.0.0", [LAYER, b"web"])
        yield registry


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("target") / "data", http={"workers": 1}) as live:
        yield live


def configured(path: Path, source: FaultyRegistry, *repositories: Any, **job: Any) -> Path:
    """A configuration with one job, by default to the store beside it."""
    registry = {"registry": source.host, "username": "mirror", "password": "hidden-word", "plainhttp": True}
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(path / "mirror")}},
        "http": {"addr": "127.0.0.1:5000"},
        "sync": {"jobs": [{"name": "night", "source": registry, "repositories": list(repositories), **job}]},
    }
    file = path / "config.yml"
    file.write_text(yaml.safe_dump(settings))
    return file


APP = {"match": "team/app", "tags": {"semver": "^1"}}


def test_a_run_and_the_next_one(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    """The second finds nothing to do, and asks the source for no content."""
    config = configured(tmp_path, source, APP, {"match": "team/w*", "target": "mirror/"})
    result = run("sync", "-q", config)
    assert (result.returncode, result.stderr) == (0, "")
    *rows, total = result.stdout.splitlines()
    assert sorted(row.split(" (")[0] for row in rows) == [
        f"copied {source.host}/team/app:1.0.0 -> team/app:1.0.0",
        f"copied {source.host}/team/app:1.1.0 -> team/app:1.1.0",
        f"copied {source.host}/team/web:2.0.0 -> mirror/team/web:2.0.0",
    ]
    assert total.startswith("3 copied, 0 present; ")
    assert source.requests["GET", f"/v2/team/web/blobs/{Digest.of(LAYER)}"] == 0, "mounted from team/app"
    source.received.clear()
    again = run("sync", "-q", config)
    assert (again.returncode, again.stdout) == (0, "0 copied, 3 present; 0 B sent\n")
    assert not [one for one in source.received if one.method == "GET" and "/manifests/" in one.path]
    assert run("sync", "-q", "--all", config).stdout.count("present ") == 3


def test_a_dry_run_writes_nothing(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    config = configured(tmp_path, source, APP)
    result = run("sync", "-q", "--dry-run", config)
    assert result.returncode == 0
    assert result.stdout.count("would copy ") == 2
    assert result.stdout.splitlines()[-1].startswith("2 to copy, 0 present; ")
    assert not (tmp_path / "mirror" / "docker").exists()


def test_what_is_missing_is_status_1(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    config = configured(
        tmp_path, source, APP, {"match": "team/app", "tags": {"match": ["9"]}}, {"match": "no/app"}
    )
    result = run("sync", "-q", config)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"missing: {source.host} has no team/app:9",
        f"missing: {source.host}/no/app: the source has no such repository",
    ]
    assert result.stdout.splitlines()[-1].startswith("2 copied, 0 present, 2 missing; ")


def test_a_denied_login_is_explained_without_its_password(
    run: Run, source: FaultyRegistry, tmp_path: Path
) -> None:
    config = configured(tmp_path, source, APP)
    config.write_text(config.read_text().replace("hidden-word", "wrong-word"))
    result = run("sync", "-q", config)
    assert result.returncode == 1
    assert f"failed: {source.host}/team/app: its tags cannot be read: {source.host}: " in result.stderr
    assert "wrong-word" not in result.stderr


def test_a_long_rate_limit_ends_the_run(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    source.fail("/manifests/", status=429, headers={"Retry-After": "3600"})
    result = run("sync", "-q", configured(tmp_path, source, APP))
    assert result.returncode == 1
    assert "failed: " in result.stderr
    assert sum(source.requests.values()) < 10


def test_json_has_a_line_for_each_image(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    rows = [*map(json.loads, run("sync", "-q", "--json", configured(tmp_path, source, APP)).stdout.splitlines())]
    assert [row["outcome"] for row in rows[:-1]] == ["copied"] * 2
    assert {row["digest"] for row in rows[:-1]} == {source.tags_of("team/app")[tag] for tag in ("1.0.0", "1.1.0")}
    assert rows[-1]["summary"]["copied"] == 2


def test_another_registry_as_target(run: Run, source: FaultyRegistry, target: Live, tmp_path: Path) -> None:
    """Nothing of this registry's own store is touched."""
    there = {"registry": target.host, "plainhttp": True}
    result = run("sync", "-q", configured(tmp_path, source, APP, target=there))
    assert result.returncode == 0
    assert f"-> {target.host}/team/app:1.0.0 (" in result.stdout
    assert not (tmp_path / "mirror").exists()


def test_the_store_of_a_serving_registry(run: Run, source: FaultyRegistry, target: Live, tmp_path: Path) -> None:
    """Clients see the images at once."""
    config = configured(tmp_path, source, {**APP, "target": "served/"})
    config.write_text(config.read_text().replace(str(tmp_path / "mirror"), str(target.root)))
    assert run("sync", "-q", config).returncode == 0
    copied = run(
        "copy", "-q", "--plain-http", "--dry-run", f"{target.host}/served/team/app:1.1.0", f"{target.host}/x"
    )
    assert copied.stdout.splitlines()[-1] == source.tags_of("team/app")["1.1.0"]


@pytest.mark.slow
def test_quotas_apply_as_to_a_push(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    config = configured(tmp_path, source, APP)
    settings = yaml.safe_load(config.read_text())
    settings["quota"] = {"rules": [{"repositories": "team", "bytes": "100kB"}]}
    config.write_text(yaml.safe_dump(settings))
    result = run("sync", "-q", config)
    assert result.returncode == 1
    assert "this registry refuses a blob of team/app: " in result.stderr
    assert "quota" in result.stderr


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"sync": {}}, (), "error: there are no jobs; set sync.jobs in the configuration"),
        ({}, ("--job", "day"), "error: there is no job day; sync.jobs has night"),
        ({"storage": {"inmemory": {}}}, (), "error: storage.inmemory is the memory of one process"),
        (
            {"storage": {"filesystem": {"rootdirectory": "/x"}, "maintenance": {"readonly": {"enabled": True}}}},
            (),
            "error: storage.maintenance.readonly is enabled",
        ),
    ],
)
def test_refusals(
    run: Run, source: FaultyRegistry, tmp_path: Path, change: Any, arguments: tuple[str, ...], message: str
) -> None:
    config = configured(tmp_path, source, APP)
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | change))
    result = run("sync", "-q", config, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(message)


@pytest.mark.slow
def test_a_run_that_is_terminated_is_continued_by_the_next(source: FaultyRegistry, tmp_path: Path) -> None:
    """SIGTERM in the middle of a layer: images that are whole stay, no upload is left, the rest is copied next."""
    config = configured(tmp_path, source, APP)
    gate = Gate()
    source.fail(f"/blobs/{Digest.of(b'b')}", method="GET", hold=gate)
    command = [str(Path(sys.executable).with_name("moorage")), "sync", "-q", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert gate.reached.wait(30)
        line = process.stdout.readline() if process.stdout else ""
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    gate.release()
    source.recover()
    assert line.startswith(f"copied {source.host}/team/app:1.0.0 ")
    assert process.returncode == 143
    assert errors == "terminated; what was copied stays; run it again for the rest\n"
    assert not [*(tmp_path / "mirror").rglob("_uploads/*/data")]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.splitlines()[-1].startswith("1 copied, 1 present; ")


@pytest.mark.slow
def test_a_serving_registry_runs_the_jobs_by_itself(run: Run, source: FaultyRegistry, tmp_path: Path) -> None:
    """Filled once by the command, it follows the source; clients of the server see what arrives."""
    config = configured(tmp_path, source, APP)
    assert run("sync", "-q", config).returncode == 0
    digest = source.add_image("team/app", "1.2.0", [LAYER, b"new"])
    jobs = {**yaml.safe_load(config.read_text())["sync"], "enabled": True, "interval": "1s"}
    with start_moorage(tmp_path / "mirror", http={"workers": 1}, sync=jobs) as live:
        live.logged("sync copied an image")
        live.logged("sync is complete")
        assert f'digest="{digest}"' in live.logs() or f"digest={digest}" in live.logs()
        shown = run("copy", "-q", "--plain-http", "--dry-run", f"{live.host}/team/app:1.2.0", f"{live.host}/x")
        assert shown.stdout.splitlines()[-1] == digest
        assert "hidden-word" not in live.logs()
