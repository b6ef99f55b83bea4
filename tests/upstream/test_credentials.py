"""Credentials of helper programs and of Docker's configuration."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from moorage.upstream import credentials as credentials_module
from moorage.upstream.credentials import (
    AnonymousCredentials,
    HelperCredentials,
    StaticCredentials,
    UpstreamCredentials,
)
from moorage.upstream.docker_config import DockerConfigCredentials
from moorage.upstream.errors import UpstreamDenied

if TYPE_CHECKING:
    from pathlib import Path

HOST = "registry.example.com"
SECRET = "hunter2-is-secret"


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    """A helper that appends the name of the server to the file `asked`, and counts in its user name."""
    return script(
        tmp_path / "helper",
        f"""
        read server
        echo "$1 $server" >> {tmp_path}/asked
        echo '{{"ServerURL": "x", "Username": "user'$(wc -l < {tmp_path}/asked)'", "Secret": "{SECRET}"}}'
        """,
    )


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().splitlines()


async def test_a_helper_runs_once(tmp_path: Path, helper: Path) -> None:
    """Until the registry refuses what it printed: passwords are rotated."""
    source = HelperCredentials(str(helper))
    for _ in range(2):
        assert await source.get(HOST) == UpstreamCredentials("user1", SECRET)
    source.refused(HOST)
    assert await source.get(HOST) == UpstreamCredentials("user2", SECRET)
    assert asked(tmp_path) == [f"get {HOST}"] * 2


async def test_a_helper_with_a_lifetime_of_zero_runs_each_time(tmp_path: Path, helper: Path) -> None:
    """For passwords that can be used once."""
    source = HelperCredentials([str(helper)], lifetime_s=0)
    assert await source.get(HOST) == UpstreamCredentials("user1", SECRET)
    assert await source.get(HOST) == UpstreamCredentials("user2", SECRET)


async def test_an_identity_token(tmp_path: Path) -> None:
    """The user `<token>` marks it."""
    helper = script(tmp_path / "helper", """echo '{"Username": "<token>", "Secret": "refresh"}'""")
    assert await HelperCredentials(str(helper)).get(HOST) == UpstreamCredentials("", identity_token="refresh")


async def test_a_helper_without_credentials_for_the_host(tmp_path: Path) -> None:
    """Docker's helpers fail with this text on standard output."""
    helper = script(tmp_path / "helper", "echo credentials not found in native keychain; exit 1")
    assert await HelperCredentials(str(helper)).get(HOST) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"echo {SECRET}; echo 'no key: locked' >&2; exit 3", "failed with status 3: no key: locked"),
        (f"echo {SECRET}; exit 4", "failed with status 4: it printed no reason to standard error"),
        (f"echo {SECRET}", "did not print"),
        (f"""echo '{{"Username": "u", "Pass": "{SECRET}"}}'""", "did not print"),
        (f"""echo '["{SECRET}"]'""", "did not print"),
        ("yes | head -c 1000000; exit 0", "did not print"),
    ],
)
async def test_a_helper_that_fails(tmp_path: Path, text: str, reason: str) -> None:
    """With the words of its standard error; its output may be the secret and is not shown."""
    helper = script(tmp_path / "helper", text)
    with pytest.raises(UpstreamDenied, match=f"^{HOST}: credential helper helper {reason}") as caught:
        await HelperCredentials(str(helper)).get(HOST)
    assert SECRET not in str(caught.value)


async def test_a_helper_that_is_missing(tmp_path: Path) -> None:
    """The error names the program."""
    with pytest.raises(UpstreamDenied, match="credential helper nothing cannot be run: No such file"):
        await HelperCredentials(str(tmp_path / "nothing")).get(HOST)


async def test_a_helper_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its children, which hold its standard output."""
    monkeypatch.setattr(credentials_module, "_HELPER_LIMIT_S", 0.1)
    helper = script(tmp_path / "helper", "sleep 600 & sleep 600")
    with pytest.raises(UpstreamDenied, match=r"credential helper helper: no result within 0\.1 s"):
        await HelperCredentials(str(helper)).get(HOST)


async def test_the_other_sources() -> None:
    """None, and one pair."""
    assert await AnonymousCredentials().get(HOST) is None
    source = StaticCredentials("user", SECRET)
    source.refused(HOST)
    assert await source.get(HOST) == UpstreamCredentials("user", SECRET)
    assert SECRET not in repr(await source.get(HOST))


def encoded(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def configured(path: Path, **document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v1/", f"http://{HOST}/v2/", f"{HOST}/"])
async def test_an_entry_of_docker_s_configuration(tmp_path: Path, key: str) -> None:
    """Keys are hosts, or URLs of API version 1."""
    path = configured(
        tmp_path / "config.json", auths={"other": encoded("x", "y"), key: encoded("user", "pass:word")}
    )
    source = DockerConfigCredentials(path)
    assert await source.get(HOST) == UpstreamCredentials("user", "pass:word")
    assert await source.get("unknown.example.com") is None


@pytest.mark.parametrize("host", ["registry-1.docker.io", "docker.io", "index.docker.io"])
async def test_docker_hub_has_a_key_of_its_own(tmp_path: Path, host: str) -> None:
    """The host that serves its API is none of its names."""
    path = configured(tmp_path / "c.json", auths={"https://index.docker.io/v1/": encoded("user", "password")})
    assert await DockerConfigCredentials(path).get(host) == UpstreamCredentials("user", "password")


async def test_a_part_of_a_registry_is_not_the_registry(tmp_path: Path) -> None:
    """Podman stores credentials for `quay.io/organization`; they must not reach other repositories."""
    path = configured(tmp_path / "auth.json", auths={f"{HOST}/team": encoded("team", "password")})
    assert await DockerConfigCredentials(path).get(HOST) is None


async def test_an_identity_token_and_a_plain_pair(tmp_path: Path) -> None:
    """Docker stores identity tokens beside an empty password; podman may store the pair itself."""
    path = configured(
        tmp_path / "config.json",
        auths={
            HOST: {**encoded("00000000-0000", ""), "identitytoken": "refresh"},
            "b:5000": {"username": "user", "password": "password"},
            "c:5000": {},
        },
    )
    source = DockerConfigCredentials(path)
    assert await source.get(HOST) == UpstreamCredentials("", identity_token="refresh")
    assert await source.get("b:5000") == UpstreamCredentials("user", "password")
    assert await source.get("c:5000") is None


async def test_helpers_of_docker_s_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper of the host comes before the store, the store before the file."""
    for name in ("one", "store"):
        script(
            tmp_path / f"docker-credential-{name}",
            f"""
            read server
            case $server in none*) echo credentials not found in native keychain; exit 1;; esac
            echo '{{"Username": "'$server'", "Secret": "{name}"}}'
            """,
        )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = configured(
        tmp_path / "config.json",
        auths={HOST: encoded("user", "file"), "none": encoded("user", "file"), f"https://{HOST}2/v1/": {}},
        credsStore="store",
        credHelpers={"https://one.example.com": "one"},
    )
    source = DockerConfigCredentials(path)
    assert await source.get("one.example.com") == UpstreamCredentials("https://one.example.com", "one")
    assert await source.get(HOST) == UpstreamCredentials(HOST, "store")
    assert await source.get(f"{HOST}2") == UpstreamCredentials(f"https://{HOST}2/v1/", "store")
    assert await source.get("docker.io") == UpstreamCredentials("https://index.docker.io/v1/", "store")
    assert await source.get("none") == UpstreamCredentials("user", "file")


async def test_the_usual_files_in_their_order(tmp_path: Path) -> None:
    """The first one with credentials for the host counts; missing ones are skipped."""
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    source = DockerConfigCredentials(environ=environ)
    assert await source.get(HOST) is None
    configured(tmp_path / ".config/containers/auth.json", auths={HOST: encoded("fourth", "p")})
    configured(tmp_path / ".docker/config.json", auths={"other": encoded("x", "p")})
    assert await source.get(HOST) == UpstreamCredentials("fourth", "p")
    configured(tmp_path / "run/containers/auth.json", auths={HOST: encoded("third", "p")})
    assert await source.get(HOST) == UpstreamCredentials("third", "p")
    configured(tmp_path / ".docker/config.json", auths={HOST: encoded("second", "p")})
    assert await source.get(HOST) == UpstreamCredentials("second", "p")
    environ["DOCKER_CONFIG"] = str(tmp_path / "docker")
    assert await source.get(HOST) == UpstreamCredentials("third", "p")
    environ["REGISTRY_AUTH_FILE"] = str(configured(tmp_path / "only.json", auths={HOST: encoded("first", "p")}))
    assert await source.get(HOST) == UpstreamCredentials("first", "p")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "it does not exist"),
        ("[]", "it is not a JSON object"),
        ("{", "it is not a JSON object"),
        (json.dumps({"auths": {HOST: {"auth": "%%%"}}}), "is not the base64 of USER:PASSWORD"),
        (json.dumps({"auths": {HOST: {"auth": 5}}}), "is not the base64 of USER:PASSWORD"),
        (json.dumps({"credsStore": "../../evil"}), "a credential helper that is not a name"),
        (json.dumps({"credHelpers": {HOST: 5}}), "a credential helper that is not a name"),
        (
            json.dumps({"credsStore": "not-installed-anywhere"}),
            "docker-credential-not-installed-anywhere cannot be run",
        ),
    ],
)
async def test_a_broken_configuration(tmp_path: Path, text: str | None, reason: str) -> None:
    """It is not the same as no credentials."""
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UpstreamDenied, match=reason):
        await DockerConfigCredentials(path).get(HOST)


async def test_a_configuration_that_is_a_folder(tmp_path: Path) -> None:
    """The reason is that of the system."""
    with pytest.raises(UpstreamDenied, match="cannot be read: Is a directory"):
        await DockerConfigCredentials(tmp_path).get(HOST)
