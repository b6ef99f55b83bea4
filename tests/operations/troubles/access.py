"""Troubles with credentials and permissions."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

from tests.live import require
from tests.operations.troubles.desk import PASSWORD, USER
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operations.troubles.desk import Desk, Output

__all__ = ["SCENES"]

_LOGIN: Final = ("login", "-u", USER, "--password-stdin")
_POLICY: Final = """\
access:
  - who: authenticated
    repositories: "**"
    allow: pull
"""


def not_logged_in(desk: Desk) -> Output:
    live = desk.serve(auth=desk.password_file)
    return {
        "docker push": desk.docker_push(live.host),
        "docker pull": desk.docker_pull(live.host),
        "podman pull": desk.podman_pull(live.host, "--tls-verify=false"),
        "skopeo copy": desk.skopeo_push(live.host),
        "ctr images pull": desk.ctr_pull(live.host, "--plain-http"),
    }


def wrong_password(desk: Desk) -> Output:
    live = desk.serve(auth=desk.password_file)
    return {
        "docker login": desk.docker(*_LOGIN, live.host, stdin="wrong"),
        "podman login": desk.run(require("podman"), *_LOGIN, "--tls-verify=false", live.host, stdin="wrong"),
        "skopeo login": desk.run(require("skopeo"), *_LOGIN, "--tls-verify=false", live.host, stdin="wrong"),
        "log": desk.log(live, "wrong user or password"),
    }


def not_permitted(desk: Desk) -> Output:
    (desk.folder / "policy.yml").write_text(_POLICY)
    local = {"policy": str(desk.folder / "policy.yml"), "users": str(desk.folder / "htpasswd")}
    live = desk.serve(auth={"local": local})
    desk.docker(*_LOGIN, live.host, stdin=PASSWORD, fails=False)
    return {
        "docker push": desk.docker_push(live.host),
        "skopeo copy": desk.skopeo_push(
            live.host, "--dest-tls-verify=false", "--dest-creds", f"{USER}:{PASSWORD}"
        ),
    }


def throttled(desk: Desk) -> Output:
    live = desk.serve(auth=desk.password_file, guessing={"failures": 1})
    # Not by a login: the registry remembers passwords that were right, and lets these in.
    desk.remember_login(live.host)

    def guessed(client: Callable[[str], str]) -> str:
        """Be wrong until the client is throttled: each wait is twice as long as the one before."""
        for number in range(30):
            found = client(f"wrong {client} {number}")
            if "429" in found or "toomanyrequests" in found:
                return found
        raise AssertionError(live.logs())

    def pull_beside(wrong: str) -> str:
        """Pull with the right password from an address that has just sent a wrong one."""
        credentials = b64encode(f"{USER}:{wrong}".encode()).decode()
        Wire(live.host).send("GET", "/v2/", None, {"Authorization": f"Basic {credentials}"})
        return desk.docker_pull(live.host)

    return {
        "docker pull": guessed(pull_beside),
        "docker login": guessed(lambda wrong: desk.docker(*_LOGIN, live.host, stdin=wrong)),
        "log": desk.log(live, "wait"),
    }


SCENES: dict[str, Callable[[Desk], Output]] = {
    "`no basic auth credentials`, `unauthorized: authentication required`": not_logged_in,
    "`401 Unauthorized` at login, `invalid username/password`": wrong_password,
    "`denied: requested access to the resource is denied`": not_permitted,
    "`429 Too Many Requests`, `toomanyrequests`": throttled,
}
