"""`auth.htpasswd` and `auth.silly` over HTTP: every response, with its headers and details."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import bcrypt
import pytest
from structlog.testing import capture_logs
from tests.http.client import ABSENT, NAME, Client, codes, detail

from moorage.config.model import Settings
from moorage.config.sections.services import Auth, Guessing, Htpasswd, NoAuth, Silly
from moorage.http.middleware import RequestLog, Traffic
from moorage.logs.access_log import AccessLogWriter
from moorage.startup import StartupError
from moorage.testing.builders import image
from moorage.wiring import authentication
from moorage.wiring.app import check
from moorage.wiring.authentication import make_authority, make_password_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.conftest import Serve

    from moorage.logs.access_log import Entry

UPLOADS: Final = f"/v2/{NAME}/blobs/uploads/"
SECRET: Final = b"shared by all workers"


def basic(user: str = "alice", password: str = "secret") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def settings(path: Path, *, failures: int = 20) -> Settings:
    auth = Auth(htpasswd=Htpasswd(realm='The "Registry"', path=str(path)))
    return Settings(auth=auth, guessing=Guessing(failures=failures))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_bytes(b"alice:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    return path


@pytest.fixture
def client(serve: Serve, path: Path) -> Client:
    return serve(authority=make_authority(settings(path), SECRET))


def put(path: Path, data: bytes | None) -> None:
    """None: no file."""
    if data is None:
        path.unlink()
    else:
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(password="wrong"),
        basic("nobody"),
        {"authorization": "Basic !!!"},
        {"authorization": "Basic"},
        {"authorization": "Basic " + base64.b64encode(b"alice").decode()},
        {"authorization": "Bearer secret"},
        {"authorization": "alice secret"},
    ],
)
async def test_whoever_is_not_in_the_file_is_challenged(
    client: Client, method: str, headers: dict[str, str]
) -> None:
    """One response for every mistake and every repository: an attacker learns nothing from it."""
    if method in {"GET", "HEAD"}:
        base = await client.send(method, "/v2/", headers=headers)
        assert (base.status_code, base.headers["www-authenticate"]) == (401, 'Basic realm="The \\"Registry\\""')
        if method == "GET":
            assert base.json() == {
                "errors": [{"code": "UNAUTHORIZED", "message": "authentication required", "detail": None}]
            }
    answer = await client.send(method, f"/v2/{NAME}/manifests/v1", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="The \\"Registry\\""'
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    if method != "HEAD":
        assert codes(answer) == ["UNAUTHORIZED"]
        actions = {"GET": ["pull"], "PUT": ["pull", "push"], "DELETE": ["delete"]}[method]
        assert detail(answer) == [
            {"Type": "repository", "Class": "", "Name": NAME, "Action": action} for action in actions
        ]


async def test_a_refusal_is_the_same_for_what_is_there_and_what_is_not(client: Client) -> None:
    """Names of repositories are secrets of their own."""

    async def ask(name: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        answer = await client.get(f"/v2/{name}/manifests/v1", headers)
        kept = {key: value for key, value in answer.headers.items() if key != "content-length"}
        return answer.status_code, kept, answer.content.replace(name.encode(), b"NAME")

    pushed = image()
    for part in pushed.closure:
        started = await client.send("POST", UPLOADS, headers=basic())
        target = f"{started.headers['location']}&digest={part.digest}"
        assert (await client.send("PUT", target, part.data, basic())).status_code == 201
    given = {**basic(), "content-type": pushed.media_type}
    assert (await client.send("PUT", f"/v2/{NAME}/manifests/v1", pushed.data, given)).status_code == 201
    for headers in ({}, basic(password="wrong"), basic("nobody")):
        assert await ask(NAME, headers) == await ask("never/pushed", headers)


async def test_who_is_in_the_file_may_do_everything(client: Client) -> None:
    """As in the reference: htpasswd knows no permissions."""
    assert (await client.get("/v2/", basic())).status_code == 200
    assert (await client.get("/v2/_catalog", basic())).status_code == 200
    assert (await client.get(f"/v2/{NAME}/tags/list", basic())).status_code == 404
    assert (await client.send("POST", UPLOADS, headers=basic())).status_code == 202
    assert (await client.send("DELETE", f"/v2/{NAME}/blobs/{ABSENT}", headers=basic())).status_code == 404


async def test_an_edit_holds_for_the_next_request(client: Client, path: Path) -> None:
    """A removed user must not push for another five minutes."""
    assert (await client.get("/v2/", basic())).status_code == 200
    put(path, b"alice:" + bcrypt.hashpw(b"fresh", bcrypt.gensalt(4)))
    assert (await client.get("/v2/", basic())).status_code == 401
    assert (await client.get("/v2/", basic(password="fresh"))).status_code == 200


async def test_a_file_that_is_gone_is_503_for_those_with_credentials(client: Client, path: Path) -> None:
    """An empty 400 in the reference.  Clients try a 503 again, and the log has the reason."""
    kept = path.read_bytes()  # noqa: ASYNC240  nothing else runs
    assert (await client.get("/v2/", basic())).status_code == 200
    put(path, None)
    with capture_logs() as logs:
        for _ in range(2):
            answer = await client.get("/v2/", basic())
            assert (answer.status_code, codes(answer)) == (503, ["UNAVAILABLE"])
            assert str(path) not in answer.text
    assert [(line["file"], line["cause"]) for line in logs] == [(str(path), "No such file or directory")]
    assert (await client.get("/v2/")).status_code == 401
    put(path, kept)
    assert (await client.get("/v2/", basic())).status_code == 200


async def test_a_guesser_is_told_to_wait_and_a_remembered_user_is_not(serve: Serve, path: Path) -> None:
    """Both come from the same address here, as behind a company's gateway."""
    client = serve(authority=make_authority(settings(path, failures=3), SECRET))
    assert (await client.get("/v2/", basic())).status_code == 200
    for number in range(9):
        answer = await client.get("/v2/", basic(password=f"guess{number}"))
        # On a slow machine the first pauses may be over; each is twice as long as the last.
        if number >= 3 and answer.status_code != 401:
            break
        assert answer.status_code == 401
    assert (answer.status_code, codes(answer)) == (429, ["TOOMANYREQUESTS"])
    assert int(answer.headers["retry-after"]) >= 1
    assert "www-authenticate" not in answer.headers
    assert (await client.get("/v2/", basic())).status_code == 200
    assert (await client.get("/v2/")).status_code == 401, "who sends no credentials guesses nothing"


async def test_silly_lets_everybody_in_who_says_anything(serve: Serve) -> None:
    """And challenges the others with one scope for each record, as the reference's does."""
    silly = Settings(auth=Auth(silly=Silly(realm="http://token.example/", service="registry.example")))
    client = serve(authority=make_authority(silly, SECRET))
    for header in ("anything", "Basic !!", "Bearer x"):
        assert (await client.get("/v2/", {"authorization": header})).status_code == 200
    realm = 'Bearer realm="http://token.example/",service="registry.example"'
    assert (await client.get("/v2/")).headers["www-authenticate"] == realm
    answer = await client.send("POST", UPLOADS, headers={"authorization": ""})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == f'{realm},scope="repository:{NAME}:pull repository:{NAME}:push"'
    assert (await client.send("POST", UPLOADS, headers={"authorization": "x"})).status_code == 202


class Users(AccessLogWriter):
    """Who is named in the lines of an access log."""

    def __init__(self) -> None:
        super().__init__("json")
        self.names: list[str] = []

    def write(self, entry: Entry) -> None:
        self.names.append(entry.user)


async def test_the_access_log_names_who_was_proven(client: Client) -> None:
    """And not a client that only claims to be one."""
    users = Users()
    logged = Client(RequestLog(client.app, Traffic(), users))
    for headers in (basic(), basic(password="wrong"), {}, basic()):
        await logged.get("/v2/", headers)
    assert users.names == ["alice", "", "", "alice"]


def test_a_missing_file_is_made_once_with_a_user_and_told(tmp_path: Path) -> None:
    """As the reference does; its file has no last newline, so that the next user is glued to the first."""
    path = tmp_path / "new" / "auth" / "htpasswd"
    (warning,) = make_password_file(settings(path))
    data = path.read_bytes()
    assert data.startswith(b"docker:$2y$10$")
    assert data.endswith(b"\n")
    assert [oct(each.stat().st_mode & 0o777) for each in (path, path.parent, path.parent.parent)] == [
        "0o600", "0o700", "0o700",
    ]  # fmt: skip
    password = warning.partition("password ")[2].partition(",")[0].rpartition(" ")[2]
    assert bcrypt.checkpw(password.encode(), data.strip().removeprefix(b"docker:"))
    assert make_password_file(settings(path)) == []
    assert path.read_bytes() == data


def test_only_the_step_before_the_workers_makes_a_file(tmp_path: Path) -> None:
    """Else each of them would print a password of its own."""
    with pytest.raises(StartupError, match="No such file"):
        make_authority(settings(tmp_path / "htpasswd"), SECRET)


def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"cannot make the password file .*: Not a directory"):
        make_password_file(settings(tmp_path / "file" / "htpasswd"))
    (problem,) = check(settings(tmp_path / "file" / "htpasswd"), SECRET)
    assert problem.kind == "error"
    assert problem.message.endswith(f"{tmp_path / 'file'} is not a directory")


def test_a_check_announces_a_missing_file_and_makes_none(tmp_path: Path) -> None:
    """A typo in the path is seen before the first login fails."""
    (problem,) = check(settings(tmp_path / "new" / "htpasswd"), SECRET)
    assert (problem.key, problem.kind) == ("auth.htpasswd.path", "warning")
    assert "does not exist; at start it is made" in problem.message
    assert not (tmp_path / "new").exists()


def test_a_directory_in_the_place_of_the_file_is_told_and_starts(tmp_path: Path) -> None:
    """Debian's package ships such a configuration, and its registry starts with it."""
    (problem,) = check(settings(tmp_path), SECRET)
    assert (problem.key, problem.kind) == ("auth.htpasswd.path", "fault")
    assert f"moorage htpasswd -Bc {tmp_path}/htpasswd USER" in problem.message
    assert make_password_file(settings(tmp_path)) == []
    assert make_authority(settings(tmp_path), SECRET) is not None


def test_what_never_matches_and_what_is_silly_is_told_at_start(path: Path) -> None:
    put(path, b"old:$apr1$a$b\n")
    (warning,) = check(settings(path), SECRET)
    assert "line 1: the password of 'old' is MD5 (apr1)" in warning.message
    silly = Settings(auth=Auth(silly=Silly(realm="r", service="s")))
    (warning,) = check(silly, SECRET)
    assert "grants EVERYTHING to EVERY request" in warning.message


def test_without_a_provider_nobody_is_asked() -> None:
    assert make_authority(Settings(), SECRET) is None
    assert make_authority(Settings(auth=Auth(none=NoAuth())), SECRET) is None


def test_a_provider_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry without access control, because of an unknown method, would be the worst result."""
    monkeypatch.setattr(authentication, "_PROVIDERS", {})
    with pytest.raises(StartupError, match=r"auth\.silly is not offered"):
        make_authority(Settings(auth=Auth(silly=Silly(realm="r", service="s"))), SECRET)
