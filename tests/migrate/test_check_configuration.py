"""`moorage migrate check` on configurations: each difference and each refusal, in its group, with its remedy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.config.test_stock_files import OFFICIAL_2, OFFICIAL_3

from moorage.config import source
from moorage.migration import accounts
from moorage.migration.accounts import UnknownUser, of_unit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Result, Run

HTTP = "http: {addr: '127.0.0.1:5000', secret: 0123456789abcdef0123456789abcdef}\n"
MEMORY = f"version: 0.1\nstorage: inmemory\n{HTTP}"
S3 = f"version: 0.1\nstorage: {{s3: {{bucket: b, region: r, regionendpoint: 'http://127.0.0.1:9'}}}}\n{HTTP}"


def check(run: Run, path: Path, text: str, **variables: str) -> tuple[Result, list[dict[str, Any]]]:
    path.write_text(text)
    result = run("migrate", "check", "--quiet", "--json", path, **variables)
    return result, [json.loads(line) for line in result.stdout.splitlines()]


REFUSED = {
    "swift": (
        "storage: {swift: {authurl: a, username: u, password: p, container: c}}",
        "storage.swift",
        "storage.s3",
    ),
    "oss": (
        "storage: {oss: {accesskeyid: a, accesskeysecret: s, region: r, bucket: b}}",
        "storage.oss",
        "storage.s3",
    ),
    "proxy": ("proxy: {remoteurl: 'registry-1.docker.io'}", "proxy.remoteurl", "begins with https://"),
    "notifications": (
        "notifications: {endpoints: [{name: n, url: 'http://127.0.0.1/'}]}",
        "notifications.endpoints[0]",
        "add disabled: true",
    ),
    "middleware": (
        "middleware: {storage: [{name: alicdn, options: {}}]}",
        "middleware.storage[0].name",
        "expected one of cloudfront",
    ),
    "cloudfront on files": (
        "middleware: {storage: [{name: cloudfront, options: {baseurl: 'http://c', keypairid: k, privatekey: p}}]}",
        "middleware.storage[0].name",
        "cloudfront needs storage.s3",
    ),
    "hooks": ("log: {hooks: [{type: slack, levels: [error]}]}", "log.hooks[0].type", "expected mail"),
    "sample secret": (
        "http: {addr: '127.0.0.1:5000', secret: asecretforlocaldevelopment}",
        "http.secret",
        "openssl rand -hex 32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_start_is_refused_with_its_remedy(name: str, run: Run, tmp_path: Path) -> None:
    """One key that is refused must not hide the rest of the report."""
    more, key, remedy = REFUSED[name]
    text = "version: 0.1\n" + more + "\n"
    if not more.startswith("storage:"):
        text += "storage: inmemory\n"
    if not more.startswith("http:"):
        text += HTTP
    result, lines = check(run, tmp_path / "c.yml", text)
    refused = [line for line in lines if line.get("group") == "refused"]
    assert result.returncode == 1
    texts = {line["subject"].rpartition(": ")[2]: line["text"] for line in refused}
    assert remedy in texts[key]
    assert lines[-1]["summary"]["ready"] is False
    assert any(line.get("kind") == "tag-lists" for line in lines)


IGNORED = {
    "reporting": "reporting: {bugsnag: {apikey: k}}",
    "compatibility": "compatibility: {schema1: {enabled: true}}",
    "notifications.endpoints[0]": "notifications: {endpoints: [{name: n, url: u, disabled: true}]}",
    "notifications.events.includereferences": "notifications: {events: {includereferences: true}}",
    "healht": "healht: {storagedriver: {enabled: true}}\nauth: none",
}


@pytest.mark.parametrize("key", IGNORED)
def test_what_has_no_effect_is_named_and_harmless(key: str, run: Run, tmp_path: Path) -> None:
    result, lines = check(run, tmp_path / "c.yml", f"{MEMORY}{IGNORED[key]}\n")
    ignored = [line["subject"].rpartition(": ")[2] for line in lines if line.get("group") == "ignored"]
    assert (result.returncode, ignored) == (0, [key]), lines


CHANGED = {
    "workers": (S3, {}),
    "secret": ("version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:5000'}\n", {}),
    "deletion": (MEMORY, {}),
    "foreign-urls": (MEMORY, {}),
    "tag-lists": (MEMORY, {}),
    "garbage-collection": (S3, {}),
    "referrers": (S3, {}),
    "path-style": (S3, {}),
    "uploads-in-buckets": (S3, {}),
    "deletion-delay": (S3.replace("storage: {", "storage: {delete: {enabled: true}, "), {}),
    "debug": (MEMORY.replace("http: {", "http: {debug: {addr: '127.0.0.1:5001'}, "), {}),
    "traces": (MEMORY, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}),
    "azure-credentials": (
        f"version: 0.1\nstorage: {{azure: {{accountname: abc, accountkey: a2V5, container: c, "
        f"serviceurl: 'http://127.0.0.1:9'}}}}\n{HTTP}".replace("container: c,", "container: ccc,"),
        {},
    ),
    "middleware-disabled": (f"{MEMORY}middleware: {{storage: [{{name: any, disabled: true}}]}}\n", {}),
    "middleware-redirect": (
        f"{MEMORY}middleware: {{storage: [{{name: redirect, options: {{baseurl: 'https://cdn/x'}}}}]}}\n", {},
    ),
    "variable": (MEMORY, {"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED": "true"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGED)
def test_each_difference_is_named(kind: str, run: Run, tmp_path: Path) -> None:
    text, variables = CHANGED[kind]
    path = tmp_path / "c.yml"
    path.write_text(text)
    result = run("migrate", "check", "--quiet", "--json", "--limit", "1", path, **variables)
    found = [line for line in map(json.loads, result.stdout.splitlines()) if line.get("kind") == kind]
    assert [line["group"] for line in found] == ["changed"] * len(found)
    assert found, result
    assert found[0]["text"]


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("REGISTRY_HEALTH_TCP_0_ADDR", "127.0.0.1:1", ""),
        ("REGISTRY_LOG_HOOKS_0_DISABLED", "true", "log: {hooks: [{type: mail}]}\n"),
        ("REGISTRY_NOTIFICATIONS_EVENTS_INCLUDEREFERENCES", "true", ""),
        ("REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_ENABLED", "false", ""),
    ],
)
def test_a_variable_that_did_nothing_before_is_named(
    name: str, value: str, more: str, run: Run, tmp_path: Path
) -> None:
    """It takes effect on the day of the switch, and nothing in the file shows it."""
    _, lines = check(run, tmp_path / "c.yml", MEMORY + more, **{name: value})
    assert [line["subject"] for line in lines if line.get("kind") == "variable"] == [name]


def test_a_value_from_a_file_is_new(run: Run, tmp_path: Path) -> None:
    """`REGISTRY_..._FILE` does nothing in CNCF Distribution; podman's REGISTRY_AUTH_FILE does nothing here."""
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdee")
    variables = {"REGISTRY_HTTP_SECRET_FILE": str(tmp_path / "secret"), "REGISTRY_AUTH_FILE": "/x"}
    _, lines = check(run, tmp_path / "c.yml", MEMORY, **variables)
    assert [line["subject"] for line in lines if line.get("kind") == "variable"] == ["REGISTRY_HTTP_SECRET_FILE"]
    assert [line["subject"] for line in lines if line.get("group") == "ignored"] == ["REGISTRY_AUTH_FILE"]
    assert [line["subject"] for line in lines if line.get("kind") == "variables"] == ["REGISTRY_HTTP_SECRET_FILE"]


def test_a_variable_that_nothing_reads_does_not_begin_to_work(run: Run, tmp_path: Path) -> None:
    _, lines = check(run, tmp_path / "c.yml", MEMORY, REGISTRY_CATALOG_0_X="1")
    assert not [line for line in lines if line.get("kind") == "variable"]


KEPT = {
    "authentication": f"{MEMORY}auth: {{silly: {{realm: r, service: s}}}}\n",
    "secret": MEMORY,
    "address": MEMORY,
    "read-only": MEMORY.replace(
        "storage: inmemory", "storage: {inmemory: {}, maintenance: {readonly: {enabled: true}}}"
    ),
    "variables": MEMORY,
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_stays_is_named(kind: str, run: Run, tmp_path: Path) -> None:
    _, lines = check(run, tmp_path / "c.yml", KEPT[kind], REGISTRY_LOG_LEVEL="info")
    found = [line for line in lines if line.get("kind") == kind]
    assert [line["group"] for line in found] == ["kept"]


@pytest.mark.parametrize("text", [OFFICIAL_2, OFFICIAL_3], ids=["2", "3"])
def test_the_files_of_the_images_lack_nothing_but_the_volume(text: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    result, lines = check(run, path, text.replace("/var/lib/registry", str(tmp_path / "gone")))
    assert [line["kind"] for line in lines if line.get("required")] == ["store-missing"]
    assert all(line["subject"] for line in lines if "summary" not in line)
    assert result.returncode == 1


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    found = (tmp_path / "two" / "config.yml", tmp_path / "three" / "config.yml")
    for path in found:
        path.parent.mkdir()
        path.write_text(MEMORY)
    monkeypatch.setattr(source, "PLACES", found)
    return found


def test_two_files_at_the_places_of_both_images(places: tuple[Path, Path], run: Run) -> None:
    """registry:3 ignores the file of registry:2 in silence, so many volumes have both."""
    for named, unread in ((places[1], places[0]), (places[0], places[1])):
        result = run("migrate", "check", "--quiet", "--json", named)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["subject"] for line in lines if line.get("kind") == "two-configuration-files"] == [
            str(unread)
        ]
        assert result.returncode == 0
    result = run("migrate", "check", "--quiet", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["subject"] for line in lines if line.get("kind") == "configuration-file"] == [str(places[0])]


def test_no_file_at_all_is_to_be_settled(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "PLACES", (tmp_path / "a.yml", tmp_path / "b.yml"))
    result = run("migrate", "check", "--quiet", "--json", REGISTRY_STORAGE="inmemory")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["kind"] for line in lines if line.get("required")] == ["no-configuration"]


@pytest.mark.parametrize("text", ["a: [", "- list", None], ids=["no YAML", "a list", "absent"])
def test_a_file_that_cannot_be_read_is_one_line(text: str | None, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    if text is not None:
        path.write_text(text)
    result = run("migrate", "check", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert str(path) in result.stderr


@pytest.mark.parametrize("user", ["no-such-user", "0:no-such-group"])
def test_an_unknown_user_is_a_mistake_on_the_command_line(user: str, run: Run) -> None:
    result = run("migrate", "check", "--user", user)
    assert result.returncode == 2
    assert "on this host" in " ".join(result.stderr.split())


def test_a_certificate_that_the_service_cannot_read(run: Run, tmp_path: Path) -> None:
    """Checked for the user of the service: root, who runs this, reads everything."""
    key = tmp_path / "jwks.json"
    key.write_text('{"keys": []}')
    key.chmod(0o600)
    text = f"{MEMORY}auth: {{token: {{realm: 'https://a', service: s, issuer: i, jwks: {key}}}}}\n"
    (tmp_path / "c.yml").write_text(text)
    result = run("migrate", "check", "--quiet", "--json", "--user", "54321:54321", tmp_path / "c.yml")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    found = {line["subject"]: line["remedy"] for line in lines if line.get("kind") == "file-permission"}
    assert f"auth.token.jwks {key}" in found
    assert found[f"auth.token.jwks {key}"].startswith(("move it to a directory", f"chgrp 54321 {key}"))


def test_the_unit_names_the_user(tmp_path: Path) -> None:
    """The last User= counts, also one in a drop-in."""
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    for folder in (etc, lib, lib / "docker-registry.service.d"):
        folder.mkdir()
    unit = lib / "docker-registry.service"
    unit.write_text("[Service]\nUser=root\nExecStart=/bin/true\n")
    found = of_unit((etc, lib))
    assert found is not None
    assert (found.uid, found.source) == (0, f"User= of {unit}")
    (lib / "docker-registry.service.d" / "user.conf").write_text("[Service]\nUser = 54321\n")
    found = of_unit((etc, lib))
    assert found is not None
    assert (found.uid, found.gid, found.owner) == (54321, 0, "54321:0")
    (etc / "moorage.service").write_text("[Service]\nUser=no-such-user\n")
    found = of_unit((etc, lib))
    assert found is not None
    assert found.uid == 54321
    assert of_unit((etc,)) is None
    with pytest.raises(UnknownUser, match="no-such-user"):
        accounts.named("no-such-user")
