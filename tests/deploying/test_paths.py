"""A registry below a path of its host: kept by the proxy, or taken away by it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest
from tests.deploying.conftest import start_node
from tests.deploying.proxies import KINDS, running

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

pytestmark = [pytest.mark.slow, pytest.mark.proxy]

_NGINX: Final = {"location / {": "location /registry/ {"}
_APACHE: Final = "ProxyPass        / balancer://registry/ nocanon"
_HAPROXY: Final = "default_backend registries"

KEPT: Final = {
    "nginx": _NGINX,
    "haproxy": {_HAPROXY: "acl registry path_beg /registry/v2/\n    use_backend registries if registry"},
    "apache": {_APACHE: "ProxyPass /registry/ balancer://registry/registry/ nocanon"},
    "traefik": {"Host(`registry.example.com`)": "PathPrefix(`/registry/`)"},
}
"""What the pages say under "Below a path"."""

TAKEN: Final = {
    "nginx": {**_NGINX, "proxy_pass http://registry;": "proxy_pass http://registry/;"},
    "haproxy": {_HAPROXY: f"http-request replace-path /registry(/.*) \\1\n    {_HAPROXY}"},
    "apache": {_APACHE: "ProxyPass /registry/ balancer://registry/ nocanon"},
    "traefik": {
        "Host(`registry.example.com`)": "PathPrefix(`/registry/`)",
        "middlewares: [plain, again]": "middlewares: [plain, again, less]",
        "    again:\n": '    less:\n      stripPrefix:\n        prefixes: ["/registry"]\n    again:\n',
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [False, True])
def test_a_registry_is_served_below_a_path(kind: str, taken: bool, tmp_path: Path, authority: trustme.CA) -> None:
    """A client can follow every Location that it gets: uploads, pages of tags, and redirects."""
    http = {"host": "https://registry.example.com/registry/"} if taken else {"prefix": "/registry/"}
    with ExitStack() as stack:
        nodes = [stack.enter_context(start_node(tmp_path, number, http=http)) for number in (1, 2)]
        change = (TAKEN if taken else KEPT)[kind]
        started = stack.enter_context(
            running(kind, tmp_path / "proxy", nodes, authority, change, path="/registry/v2/")
        )
        client = stack.enter_context(started.client())
        outer = "https://registry.example.com" if taken else started.url

        def inside(place: str) -> str:
            """Without the host, which is not resolved here."""
            assert place.startswith(f"{outer}/registry/v2/"), place
            return place.removeprefix(outer)

        begun = client.post("/registry/v2/a/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        sent = client.patch(inside(begun.headers["location"]), content=b"{}")
        digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        done = client.put(f"{inside(sent.headers['location'])}&digest={digest}")
        assert done.status_code == 201, done.text
        assert client.get(inside(done.headers["location"])).content == b"{}"
        moved = client.get("/registry/v2/a/tags/list/", follow_redirects=True)
        assert str(moved.url).endswith("/registry/v2/a/tags/list")
        assert moved.json()["errors"][0]["code"] == "NAME_UNKNOWN"
