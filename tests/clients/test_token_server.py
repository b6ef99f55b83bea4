"""Real clients at the token server of `auth.local`: how each logs in, and what it may do then.

The policy: `library/**` may be pulled by all; ann pushes there and to `team/**`; her own folder is hers.  A
robot pushes to `team/**`; jobs of the CI system, a web server of this test, push to their project's folder.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest
from tests.auth.local.helpers import AUDIENCE, FakeIssuer, policy_file, users_file
from tests.clients.daemons import containerd, dockerd
from tests.clients.layouts import Layout, busybox_tar, tar_of
from tests.live import Live, require, start_moorage

from moorage.auth.local.robot_secrets import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.conftest import Run

pytestmark = [pytest.mark.client, pytest.mark.slow]

ROBOT_SECRET: Final = "moorage_a-robots-secret"
POLICY: Final = """
robots:
  ci: {{secret: "{robot}", expires: never, access: [{{repositories: team/**, allow: [pull, push]}}]}}
  old: {{secret: "{robot}", expires: 2020-01-31, access: [{{repositories: team/**, allow: [pull, push]}}]}}
issuers:
  - name: ci
    issuer: {url}
    audience: {audience}
    rules:
      - {{claims: {{project_path: "acme/*"}}, repositories: "{{project_path}}/**", allow: [pull, push]}}
access:
  - {{who: anonymous, repositories: library/**, allow: pull}}
  - {{who: authenticated, repositories: "{{user}}/**", allow: [pull, push, delete]}}
  - {{who: ann, repositories: [library/**, team/**], allow: [pull, push]}}
  - {{who: ann, catalog: true}}
"""


@pytest.fixture(scope="module")
def ci() -> Iterator[FakeIssuer]:
    """A CI system on loopback, with a discovery document and a key set."""
    issuer = FakeIssuer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages: dict[str, bytes] = {
                "/.well-known/openid-configuration": json.dumps(
                    {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                ).encode(),
                "/keys": issuer.jwks(),
            }
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    issuer.clock = time.time
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield issuer
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, ci: FakeIssuer) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("token-server")
    policy_file(folder, POLICY.format(robot=digest_of(ROBOT_SECRET), url=ci.url, audience=AUDIENCE))
    users_file(folder, ann="secret", bob="hunter2")
    local = {"policy": str(folder / "policy.yml"), "users": str(folder / "users")}
    with start_moorage(folder / "data", auth={"local": local}) as live:
        yield live


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """One small image, tagged v1; other bytes for every test."""
    made = Layout(tmp_path / "layout")
    made.tag("v1", made.image([tar_of({"a": str(tmp_path).encode() * 100})], Cmd=["/bin/true"]))
    return made.path


# ------------------------------------------------------------------------------------------------------- docker


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with dockerd() as host:
        yield host


@dataclass
class Docker:
    """The engine's client with a configuration of its own, so that several people can be logged in."""

    run: Run
    engine: str
    home: Path

    def __call__(self, *arguments: str, fails: bool = False, stdin: str | None = None) -> str:
        environment = {"DOCKER_HOST": self.engine, "DOCKER_CONFIG": str(self.home)}
        return self.run(require("docker"), *arguments, fails=fails, stdin=stdin, env=environment)

    def login(self, registry: str, user: str, password: str, *, fails: bool = False) -> str:
        return self("login", "-u", user, "--password-stdin", registry, stdin=password, fails=fails)

    def kept(self, registry: str) -> dict[str, Any]:
        """What `docker login` left on the disk."""
        found: dict[str, Any] = json.loads((self.home / "config.json").read_text())["auths"][registry]
        return found


class Person(Protocol):
    def __call__(self, name: str) -> Docker: ...


@pytest.fixture
def person(run: Run, engine: str, tmp_path: Path) -> Person:
    return lambda name: Docker(run, engine, tmp_path / f"docker-{name}")


@pytest.fixture
def image(person: Person, reg: str, tmp_path: Path) -> str:
    """An image in the engine, `REGISTRY/library/hello:1`."""
    (tmp_path / "root.tar").write_bytes(
        busybox_tar({"hello": b"#!/bin/sh\necho hello\n", "of": bytes(str(tmp_path), "utf-8")})
    )
    name = f"{reg}/library/hello:1"
    person("maker")("import", "--change", 'CMD ["/hello"]', str(tmp_path / "root.tar"), name)
    return name


engines = pytest.mark.xdist_group("docker")


@engines
@pytest.mark.docker
@pytest.mark.root
def test_docker_logs_in_to_push_and_pulls_what_is_open_without(person: Person, reg: str, image: str) -> None:
    """The commonest setting of all: public to pull, known people push."""
    ann, stranger = person("ann"), person("stranger")
    assert "denied" in stranger("push", image, fails=True)
    assert "Login Succeeded" in ann.login(reg, "ann", "secret")
    kept = ann.kept(reg)
    assert kept.get("identitytoken"), "the password itself stays off the disk"
    ann("push", image)

    stranger("rmi", image)
    stranger("pull", image)
    assert "hello" in stranger("run", "--rm", "--network", "none", image)

    for name, may in (("team/hello:1", True), ("ann/hello:1", True), ("bob/hello:1", False), ("other:1", False)):
        ann("tag", image, f"{reg}/{name}")
        output = ann("push", f"{reg}/{name}", fails=not may)
        assert may or "denied" in output
    output = stranger("pull", f"{reg}/team/hello:1", fails=True)
    assert "denied" in output
    ann("pull", f"{reg}/team/hello:1")


@engines
@pytest.mark.docker
@pytest.mark.root
def test_docker_is_told_of_a_wrong_password(person: Person, reg: str) -> None:
    """Also where something is open: a login that succeeds with a typing error fails at the first push."""
    for user, password in (("ann", "wrong"), ("eve", "secret"), ("robot+ci", "x"), ("robot+old", ROBOT_SECRET)):
        assert "unauthorized: wrong or missing credentials" in person("x").login(reg, user, password, fails=True)


@engines
@pytest.mark.docker
@pytest.mark.root
def test_robots_and_jobs_log_in_with_docker(person: Person, reg: str, image: str, ci: FakeIssuer) -> None:
    """A robot by its secret, a job by the token of its CI system; each pushes where it may and nowhere else."""
    robot, job = person("robot"), person("job")
    robot.login(reg, "robot+ci", ROBOT_SECRET)
    job.login(reg, "oidc", ci.token(project_path="acme/app", sub="job-7"))
    for who, good, bad in ((robot, "team/robots:1", "acme/app/web:1"), (job, "acme/app/web:1", "team/jobs:1")):
        for name in (good, bad):
            who("tag", image, f"{reg}/{name}")
        who("push", f"{reg}/{good}")
        assert "denied" in who("push", f"{reg}/{bad}", fails=True)
        who("pull", f"{reg}/{good}")
    for token in (ci.token(project_path="evil/app"), ci.token(project_path="acme/app", aud="another"), "x"):
        assert "unauthorized: wrong" in job.login(reg, "oidc", token, fails=True)


# --------------------------------------------------------------------------------- skopeo, containerd, oras, crane


PLAIN: Final = ("--src-tls-verify=false", "--dest-tls-verify=false")


def test_skopeo_logs_in_copies_lists_and_deletes(run: Run, reg: str, layout: Path) -> None:
    """It asks for `*` to delete: that is granted where each right is, and nothing where one is missing."""
    skopeo = require("skopeo")
    output = run(skopeo, "copy", *PLAIN, f"oci:{layout}:v1", f"docker://{reg}/library/sk:v1", fails=True)
    assert "authentication required" in output or "unauthorized" in output
    run(skopeo, "login", "--tls-verify=false", "-u", "ann", "-p", "wrong", reg, fails=True)
    run(skopeo, "login", "--tls-verify=false", "-u", "ann", "-p", "secret", reg)
    for name in ("library/sk", "ann/sk"):
        run(skopeo, "copy", *PLAIN, f"oci:{layout}:v1", f"docker://{reg}/{name}:v1")
    run(skopeo, "copy", *PLAIN, f"docker://{reg}/ann/sk:v1", f"docker://{reg}/team/sk:v1")
    assert json.loads(run(skopeo, "list-tags", "--tls-verify=false", f"docker://{reg}/team/sk"))["Tags"] == ["v1"]
    run(skopeo, "delete", "--tls-verify=false", f"docker://{reg}/ann/sk:v1")
    run(skopeo, "delete", "--tls-verify=false", f"docker://{reg}/team/sk:v1", fails=True)
    run(skopeo, "logout", reg)
    run(skopeo, "inspect", "--tls-verify=false", f"docker://{reg}/library/sk:v1")
    run(skopeo, "inspect", "--tls-verify=false", f"docker://{reg}/team/sk:v1", fails=True)
    robot = f"robot+ci:{ROBOT_SECRET}"
    run(skopeo, "inspect", "--tls-verify=false", "--creds", robot, f"docker://{reg}/team/sk:v1")


@pytest.mark.root
@pytest.mark.xdist_group("containerd")
def test_containerd_pulls_what_is_open_and_pushes_with_a_password(run: Run, reg: str, layout: Path) -> None:
    """It POSTs the password to the token server, and asks again when its token is not enough."""
    run(require("skopeo"), "copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret",
        f"oci:{layout}:v1", f"docker://{reg}/library/ctr:v1")  # fmt: skip
    with containerd() as socket:
        ctr = (require("ctr"), "-a", socket, "images")
        run(*ctr, "pull", "--plain-http", f"{reg}/library/ctr:v1")
        for name, user, fails in (
            ("team/ctr:v1", "ann:secret", False), ("team/robot:v1", f"robot+ci:{ROBOT_SECRET}", False),
            ("bob/ctr:v1", "ann:secret", True), ("team/no:v1", "ann:wrong", True),
        ):  # fmt: skip
            run(*ctr, "tag", f"{reg}/library/ctr:v1", f"{reg}/{name}")
            run(*ctr, "push", "--plain-http", "--user", user, f"{reg}/{name}", fails=fails)
        run(*ctr, "pull", "--plain-http", "--user", "ann:secret", f"{reg}/team/ctr:v1")
        run(*ctr, "pull", "--plain-http", f"{reg}/team/ctr:v1", fails=True)


def test_oras_logs_in_pushes_attaches_and_deletes(run: Run, reg: str, tmp_path: Path) -> None:
    """Each request is answered with what it lacks, and oras adds it to what it has."""
    oras = require("oras")
    (tmp_path / "home" / "a.txt").write_text(str(tmp_path))
    run(oras, "login", "--plain-http", "-u", "ann", "-p", "wrong", reg, fails=True)
    run(oras, "login", "--plain-http", "-u", "ann", "-p", "secret", reg)
    for name in ("ann/oras", "team/oras"):
        run(oras, "push", "--plain-http", f"{reg}/{name}:1", "a.txt:text/plain")
        run(oras, "attach", "--plain-http", f"{reg}/{name}:1", "--artifact-type", "a/b", "a.txt:text/plain")
    run(oras, "cp", "-r", "--from-plain-http", "--to-plain-http", f"{reg}/ann/oras:1", f"{reg}/team/copied:1")
    run(oras, "manifest", "delete", "-f", "--plain-http", f"{reg}/ann/oras:1")
    run(oras, "manifest", "delete", "-f", "--plain-http", f"{reg}/team/oras:1", fails=True)
    run(oras, "push", "--plain-http", f"{reg}/bob/oras:1", "a.txt:text/plain", fails=True)
    assert "team/copied" in run(oras, "repo", "ls", "--plain-http", reg)


def test_crane_logs_in_copies_and_lists(run: Run, reg: str, layout: Path) -> None:
    """It takes one token for all it means to do."""
    crane = require("crane", optional=True)
    run(crane, "auth", "login", reg, "-u", "ann", "-p", "secret")
    run(crane, "--insecure", "push", "--index", layout, f"{reg}/ann/crane:1")
    run(crane, "--insecure", "copy", f"{reg}/ann/crane:1", f"{reg}/team/crane:1")
    digest = run(crane, "--insecure", "digest", f"{reg}/team/crane:1").strip()
    assert digest in run(crane, "--insecure", "digest", f"{reg}/ann/crane:1")
    assert "team/crane" in run(crane, "--insecure", "catalog", reg)
    run(crane, "--insecure", "delete", f"{reg}/ann/crane@{digest}")
    run(crane, "--insecure", "delete", f"{reg}/team/crane@{digest}", fails=True)
    run(crane, "--insecure", "copy", f"{reg}/team/crane:1", f"{reg}/bob/crane:1", fails=True)


def test_curl_needs_no_token(run: Run, reg: str) -> None:
    """Scripts that worked with a password file keep working."""
    curl = (require("curl"), "-sf", "-o", "/dev/null", "-w", "%{http_code}")
    assert run(*curl, "-u", "ann:secret", f"http://{reg}/v2/_catalog") == "200"
    assert run(*curl, "-u", "bob:hunter2", f"http://{reg}/v2/_catalog", fails=True) == "401"
