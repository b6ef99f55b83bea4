"""`moorage retention`: the table, what it deletes, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from moorage.registry import layout
from moorage.retention import run as run_module
from moorage.testing.builders import image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

    from moorage.testing.builders import Built

ONE, TWO = image(seed=1), image(seed=2)
REPOSITORY = "docker/registry/v2/repositories/team/app"
RULE = (
    "rules: [{name: few, repositories: [team/*], keeplast: 1}, {name: gone, repositories: [gone/*], keeplast: 1}]"
)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look of a run comes at once."""
    monkeypatch.setattr(run_module, "SETTLE_S", 0.0)


def _put(root: Path, built: Built, tag: str) -> None:
    hexa = built.digest.hex
    for key, data in (
        (f"docker/registry/v2/blobs/sha256/{hexa[:2]}/{hexa}/data", built.data),
        (f"{REPOSITORY}/_manifests/revisions/sha256/{hexa}/link", str(built.digest).encode()),
        (f"{REPOSITORY}/_manifests/tags/{tag}/index/sha256/{hexa}/link", str(built.digest).encode()),
        (f"{REPOSITORY}/_manifests/tags/{tag}/current/link", str(built.digest).encode()),
    ):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A volume with two tags, `old` pushed long before `new`."""
    import os

    root = tmp_path / "data"
    _put(root, ONE, "old")
    for path in root.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    _put(root, TWO, "new")
    return root


def _config(root: Path, retention: str = RULE, maintenance: str = "") -> Path:
    file = root.parent / "config.yml"
    storage = f"filesystem: {{rootdirectory: '{root}'}}, maintenance: {{{maintenance}}}"
    file.write_text(f"version: 0.1\nstorage: {{{storage}}}\nhttp: {{addr: ':0'}}\nretention: {{{retention}}}\n")
    return file


def _tags(root: Path) -> list[str]:
    return sorted(path.parent.parent.name for path in (root / REPOSITORY).glob("_manifests/tags/*/current/link"))


def test_a_dry_run_lists_what_goes_and_which_rule_decides(run: Run, root: Path) -> None:
    config = _config(root, maintenance="readonly: {enabled: true}")
    result = run("retention", "--dry-run", "-q", config)
    assert result.returncode == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][0] == "ACTION"
    assert lines[1][:5] == ["delete", "team/app", "old", "few", "number"]
    assert lines[2][:2] == ["delete", "team/app"]
    assert "1 repository: 1 tag and 1 manifest would go; at most" in result.stdout
    assert "warning: rule gone: the pattern gone/* matches no repository" in result.stderr
    assert _tags(root) == ["new", "old"]


def test_what_the_rules_do_not_keep_is_deleted(run: Run, root: Path) -> None:
    result = run("retention", "-q", "--all", _config(root))
    assert result.returncode == 0
    assert _tags(root) == ["new"]
    actions = {tuple(line.split()[:3]) for line in result.stdout.splitlines()}
    assert {("delete", "team/app", "old"), ("keep", "team/app", "new")} <= actions
    trash = [
        path.relative_to(root / REPOSITORY / "_trash").parts[0]
        for path in (root / REPOSITORY / "_trash").rglob("*Z-*")
    ]
    assert sorted(trash) == ["manifests", "tags"]
    assert "0 tags and 0 manifests deleted" in run("retention", "-q", _config(root)).stdout


def test_quotas_are_counted_after_a_run_that_deleted_something(run: Run, root: Path) -> None:
    config = _config(root)
    with config.open("a") as file:
        file.write("quota: {rules: [{repositories: '*', bytes: 1GiB}]}\n")
    wanted = root / layout.usage("wanted")
    assert run("retention", "-q", "--dry-run", config).returncode == 0
    assert not wanted.exists()
    assert run("retention", "-q", config).returncode == 0
    assert wanted.exists()


def test_json_has_one_object_on_each_line(run: Run, root: Path) -> None:
    result = run("retention", "-d", "-q", "--json", _config(root))
    tag, manifest, summary = map(json.loads, result.stdout.splitlines())
    assert (tag["action"], tag["tag"], tag["rule"], tag["digest"]) == ("delete", "old", "few", str(ONE.digest))
    assert (manifest["digest"], manifest["rule"], manifest["reason"]) == (str(ONE.digest), "few", "of the tag old")
    assert summary["summary"]["tags"] == 1
    assert summary["summary"]["dry_run"] is True
    assert summary["summary"]["freeable_bytes"] > 0


@pytest.mark.parametrize(
    ("retention", "maintenance", "fragment"),
    [
        ("enabled: false", "", "there are no rules; set retention.rules"),
        (RULE, "readonly: {enabled: true}", "storage.maintenance.readonly is enabled"),
        ("rules: [{repositories: ['**'], keeplast: -1}]", "", "retention.rules[0].keeplast"),
    ],
)
def test_nothing_is_deleted_without_a_clear_order(
    run: Run, root: Path, retention: str, maintenance: str, fragment: str
) -> None:
    result = run("retention", "-q", _config(root, retention, maintenance))
    assert result.returncode == 1
    assert fragment in result.stderr
    assert _tags(root) == ["new", "old"]


def test_memory_has_nothing_to_delete(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"version: 0.1\nstorage: inmemory\nhttp: {{addr: ':0'}}\nretention: {{{RULE}}}\n")
    result = run("retention", config)
    assert result.returncode == 1
    assert "storage.inmemory" in result.stderr
