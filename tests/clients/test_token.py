"""Real clients before a registry that believes a token server: log in, push, pull, mount, delete, and be refused.

`alice` may do everything below `team/`, `bob` may pull there, all may pull below `public/`.
`tests/auth/token_server.py` gives out the tokens and remembers what it was asked for.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.auth.signing import Signer
from tests.auth.token_server import TokenServer, User
from tests.clients.daemons import containerd, dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import require, start_tested

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.live import Live

pytestmark = [pytest.mark.client, pytest.mark.slow, pytest.mark.xdist_group("token")]

USERS = {
    "alice": User("secret", {"team/*": {"*"}, "registry:catalog": {"*"}}),
    "bob": User("hidden", {"team/*": {"pull"}}),
    "": User("", {"public/*": {"pull", "push"}}),
}
PLAIN = ("--src-tls-verify=false", "--dest-tls-verify=false")


class Command(Protocol):
    def __call__(self, *arguments: str, fails: bool = False, stdin: str | None = None) -> str: ...


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    with TokenServer(Signer.of("RSA"), USERS) as server:
        yield server


@pytest.fixture(scope="module")
def registry(tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("token")
    with start_tested(folder / "data", auth=tokens.settings(folder)) as live:
        yield live


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.tag("v1", layout.image([tar_of({"a": b"a" * 5000}), tar_of({"b": b"b" * 300_000})]))
    return layout


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with dockerd() as host:
        yield host


@pytest.fixture
def docker(engine: str, run: Run) -> Command:
    program = require("docker")

    def docker(*arguments: str, fails: bool = False, stdin: str | None = None) -> str:
        return run(program, *arguments, fails=fails, stdin=stdin, env={"DOCKER_HOST": engine})

    return docker


@pytest.mark.docker
@pytest.mark.root
def test_docker_logs_in_pushes_pulls_and_mounts(
    docker: Command, reg: str, tokens: TokenServer, tmp_path: Path
) -> None:
    """The usual sequence; the login's refresh token is then used by POST."""
    (tmp_path / "root.tar").write_bytes(busybox_tar({"hello": b"#!/bin/sh\necho hello from a private one\n"}))
    image, other = f"{reg}/team/docker:1", f"{reg}/team/second:1"
    docker("import", "--change", 'CMD ["/hello"]', str(tmp_path / "root.tar"), image)
    docker("push", image, fails=True)

    assert "Login Succeeded" in docker("login", "-u", "alice", "--password-stdin", reg, stdin="secret")
    assert tokens.seen[-1].user == "alice"
    docker("push", image)
    assert tokens.seen[-1].method == "POST", "with the identity token of the login"
    docker("rmi", "-f", image)
    docker("pull", image)
    assert "a private one" in docker("run", "--rm", "--network", "none", image)

    docker("tag", image, other)
    assert "Mounted from team/docker" in docker("push", other)
    expected = {scope for requested in tokens.seen for scope in requested.scopes}
    assert {"repository:team/docker:push,pull", "repository:team/second:push,pull"} <= expected

    docker("logout", reg)
    assert "denied" in docker("pull", image, fails=True), "a token for nobody, which allows nothing here"


@pytest.mark.docker
@pytest.mark.root
def test_docker_tells_a_wrong_password_from_a_missing_right(docker: Command, reg: str, tmp_path: Path) -> None:
    """With "unauthorized" a user logs in again, with "denied" an administrator has to grant permissions."""
    assert "unauthorized" in docker("login", "-u", "alice", "--password-stdin", reg, stdin="wrong", fails=True)
    docker("login", "-u", "bob", "--password-stdin", reg, stdin="hidden")
    (tmp_path / "root.tar").write_bytes(tar_of({"a": b"docker"}))
    for name in ("team/docker-bob:1", "foreign/app:1"):
        docker("import", str(tmp_path / "root.tar"), f"{reg}/{name}")
        assert "denied" in docker("push", f"{reg}/{name}", fails=True)


def test_skopeo_copies_mounts_lists_and_deletes(run: Run, reg: str, layout: Layout, tokens: TokenServer) -> None:
    """containers/image is podman's, buildah's and CRI-O's client too; it asks for `*` to delete."""
    skopeo = require("skopeo")
    creds = "alice:secret"
    first, second = f"docker://{reg}/team/skopeo:v1", f"docker://{reg}/team/copy:v1"
    run(skopeo, "copy", *PLAIN, "--dest-creds", creds, f"oci:{layout.path}:v1", first)
    run(skopeo, "copy", *PLAIN, "--src-creds", creds, "--dest-creds", creds, first, second)
    listed = run(skopeo, "list-tags", "--tls-verify=false", "--creds", creds, f"docker://{reg}/team/copy")
    assert json.loads(listed)["Tags"] == ["v1"]
    run(skopeo, "delete", "--tls-verify=false", "--creds", creds, second)
    assert "repository:team/copy:*" in [scope for requested in tokens.seen for scope in requested.scopes]
    run(skopeo, "inspect", "--tls-verify=false", "--creds", creds, second, fails=True)
    run(skopeo, "inspect", "--tls-verify=false", "--creds", "bob:hidden", first)


def test_skopeo_is_told_what_it_may_not(run: Run, reg: str, layout: Layout) -> None:
    skopeo = require("skopeo")
    source = f"oci:{layout.path}:v1"
    for creds, name in (("bob:hidden", "team/no"), ("alice:secret", "foreign/no"), ("alice:wrong", "team/no")):
        reported = run(
            skopeo, "copy", *PLAIN, "--dest-creds", creds, source, f"docker://{reg}/{name}:v1", fails=True
        )
        assert "authentication required" in reported or "incorrect username" in reported or "denied" in reported
    run(skopeo, "copy", *PLAIN, "--dest-creds", "alice:secret", source, f"docker://{reg}/team/kept:v1")
    for creds, failing in (("bob:hidden", True), ("alice:secret", False)):
        target = f"docker://{reg}/team/kept:v1"
        run(skopeo, "delete", "--tls-verify=false", "--creds", creds, target, fails=failing)


def test_whoever_sends_no_credentials_gets_what_everybody_may(run: Run, reg: str, layout: Layout) -> None:
    """Public repositories are read without an account: with a token all the same, obtained without a login."""
    skopeo = require("skopeo")
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:v1", f"docker://{reg}/public/app:v1")
    run(skopeo, "inspect", "--tls-verify=false", f"docker://{reg}/public/app:v1")
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:v1", f"docker://{reg}/team/anonymous:v1", fails=True)


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with containerd() as path:
        yield path


@pytest.fixture
def ctr(socket: str, run: Run) -> Command:
    program = require("ctr")

    def ctr(*arguments: str, fails: bool = False, stdin: str | None = None) -> str:
        return run(program, "-a", socket, *arguments, fails=fails, stdin=stdin)

    return ctr


@pytest.mark.root
@pytest.mark.parametrize("post", [True, False])
def test_containerd_pulls_and_pushes(
    ctr: Command,
    run: Run,
    reg: str,
    layout: Layout,
    tokens: TokenServer,
    post: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It asks anonymously, reacts to each 401, tries POST and falls back to GET where there is none."""
    monkeypatch.setattr(tokens, "post", post)
    before = len(tokens.seen)
    first, second = f"{reg}/team/ctr:{post}", f"{reg}/team/ctr-{post}".lower() + ":v1"
    source = f"oci:{layout.path}:v1"
    run(require("skopeo"), "copy", *PLAIN, "--dest-creds", "alice:secret", source, f"docker://{first}")
    ctr("images", "pull", "--plain-http", "--user", "alice:secret", first)
    ctr("images", "tag", "--force", first, second)
    ctr("images", "push", "--plain-http", "--user", "alice:secret", second)
    ctr("images", "pull", "--plain-http", "--user", "bob:hidden", second)
    requested = tokens.seen[before:]
    assert {entry.method for entry in requested if entry.user == "bob"} == {"POST" if post else "GET"}


@pytest.mark.root
def test_containerd_is_told_what_it_may_not(ctr: Command, run: Run, reg: str, layout: Layout) -> None:
    first = f"{reg}/team/ctr-no:v1"
    source = f"oci:{layout.path}:v1"
    run(require("skopeo"), "copy", *PLAIN, "--dest-creds", "alice:secret", source, f"docker://{first}")
    ctr("images", "pull", "--plain-http", "--user", "alice:secret", first)
    other = f"{reg}/team/ctr-other:v1"
    ctr("images", "tag", first, other)
    for user in ("bob:hidden", "alice:wrong"):
        reported = ctr("images", "push", "--plain-http", "--user", user, other, fails=True)
        assert any(word in reported for word in ("401", "authorization failed", "insufficient_scope", "denied"))
    assert "team/ctr-no" in ctr("images", "pull", "--plain-http", "--user", "bob:hidden", first)
    ctr("images", "pull", "--plain-http", f"{reg}/team/ctr-no:v1", fails=True)


def test_crane_copies_lists_and_deletes(run: Run, reg: str, layout: Layout) -> None:
    """It requests one token for all scopes and widens it when a 401 demands it."""
    crane = require("crane", optional=True)
    first, second = f"{reg}/team/crane:v1", f"{reg}/team/crane-copy:v1"
    run(crane, "auth", "login", "--insecure", "-u", "alice", "-p", "secret", reg)
    run(crane, "push", "--insecure", "--index", layout.path, first)
    run(crane, "copy", "--insecure", first, second)
    assert "team/crane-copy" in run(crane, "catalog", "--insecure", reg)
    digest = run(crane, "digest", "--insecure", second).strip()
    run(crane, "delete", "--insecure", f"{reg}/team/crane-copy@{digest}")
    reported = run(crane, "push", "--insecure", "--index", layout.path, f"{reg}/foreign/x:v1", fails=True)
    assert "401 Unauthorized" in reported


def test_oras_pushes_attaches_and_deletes(run: Run, reg: str, tmp_path: Path) -> None:
    oras = require("oras")
    (tmp_path / "home" / "a.txt").write_text("artifact")
    name = f"{reg}/team/oras:v1"
    run(oras, "login", "--plain-http", "-u", "alice", "--password-stdin", reg, stdin="secret")
    run(oras, "push", "--plain-http", name, "a.txt:text/plain")
    run(oras, "attach", "--plain-http", name, "--artifact-type", "application/vnd.t+type", "a.txt:text/plain")
    assert "application/vnd.t+type" in run(oras, "discover", "--plain-http", name)
    run(oras, "manifest", "delete", "-f", "--plain-http", name)
    run(oras, "login", "--plain-http", "-u", "alice", "--password-stdin", reg, stdin="wrong", fails=True)
    run(oras, "push", "--plain-http", f"{reg}/foreign/oras:v1", "a.txt:text/plain", fails=True)
