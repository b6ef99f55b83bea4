"""Troubles before the first request is answered: schemes, certificates, addresses."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from tests.clients import secure
from tests.clients.secure import NAME
from tests.ports import free_port
from tests.server import certs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live import Live
    from tests.operations.troubles.desk import Desk, Output

__all__ = ["SCENES"]


def private(desk: Desk, **more: object) -> tuple[Live, str]:
    """A registry with a certificate of an authority that no client knows; it and what clients call it."""
    live = desk.stack.enter_context(secure.start(desk.new() / "data", desk.certificate(**more)))
    return live, f"{NAME}:{live.port}"


def plain_http(desk: Desk) -> Output:
    live = desk.stack.enter_context(secure.start(desk.new() / "data", None))
    host = f"{NAME}:{live.port}"
    return {
        "docker pull": desk.docker_pull(host),
        "podman pull": desk.podman_pull(host),
        "skopeo copy": desk.skopeo_pull(host, "--src-tls-verify=true"),
        "ctr images pull": desk.ctr_pull(host),
    }


def unknown_authority(desk: Desk) -> Output:
    _, host = private(desk)
    return {
        "docker pull": desk.docker_pull(host),
        "podman pull": desk.podman_pull(host),
        "skopeo copy": desk.skopeo_pull(host, "--src-tls-verify=true"),
        "ctr images pull": desk.ctr_pull(host),
    }


def other_name(desk: Desk) -> Output:
    _, host = private(desk, hosts=("registry.internal",))
    desk.place.trust(host, ca_crt=desk.ca.pem)
    return {
        "docker pull": desk.docker_pull(host),
        "skopeo copy": desk.skopeo_pull(host, "--src-tls-verify=true"),
        "ctr images pull": desk.ctr_pull(host, "--tlscacert", str(desk.ca_file)),
    }


def expired(desk: Desk) -> Output:
    live, host = private(desk, end=certs.NOW - dt.timedelta(hours=1))
    desk.place.trust(host, ca_crt=desk.ca.pem)
    return {"docker pull": desk.docker_pull(host), "log": desk.log(live, "expired")}


def refused(desk: Desk) -> Output:
    host = f"127.0.0.1:{free_port()}"
    return {
        "docker pull": desk.docker_pull(host),
        "podman pull": desk.podman_pull(host),
        "skopeo copy": desk.skopeo_pull(host),
    }


SCENES: dict[str, Callable[[Desk], Output]] = {
    "`connection refused`": refused,
    "`http: server gave HTTP response to HTTPS client`": plain_http,
    "`x509: certificate signed by unknown authority`": unknown_authority,
    "`x509: certificate is valid for ..., not ...`": other_name,
    "`x509: certificate has expired or is not yet valid`": expired,
}
