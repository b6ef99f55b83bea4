"""Troubles with pushes and pulls of a registry that answers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from tests.cluster.balancers import balanced
from tests.faults.test_disks import disk, fill_up
from tests.live import require, start_moorage
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live import Live
    from tests.operations.troubles.desk import Desk, Output

__all__ = ["SCENES", "SLOW"]

_GZIP: Final = b"\x1f\x8b"
OFTEN: Final = {"writeprobe": {"interval": "100ms"}}


def behind(desk: Desk, nodes: list[Live]) -> str:
    """HAProxy that gives each request to the next node; its address."""
    return desk.stack.enter_context(balanced("haproxy", desk.new() / "haproxy", [node.host for node in nodes]))


def pushed(desk: Desk, host: str) -> Output:
    return {
        "docker push": desk.docker_push(host),
        "podman push": desk.podman_push(host),
        "skopeo copy": desk.skopeo_push(host),
    }


def other_secret(desk: Desk) -> Output:
    data = desk.new() / "data"
    nodes = [
        desk.stack.enter_context(
            start_moorage(data, config=desk.new() / "config.yml", http={"workers": 1, "secret": each})
        )
        for each in ("the secret of one node", "the secret of another")
    ]
    return pushed(desk, behind(desk, nodes))


def other_storage(desk: Desk) -> Output:
    return pushed(desk, behind(desk, [desk.serve(), desk.serve()]))


def unknown_manifest(desk: Desk) -> Output:
    live = desk.serve()
    desk.skopeo_push(live.host, fails=False)
    return {
        "docker pull": desk.docker_pull(live.host, "team/app:v2"),
        "podman pull": desk.podman_pull(live.host, "--tls-verify=false", name="team/app:v2"),
        "skopeo copy": desk.skopeo_pull(live.host, name="team/app:v2"),
        "ctr images pull": desk.ctr_pull(live.host, "--plain-http", name="team/app:v2"),
    }


def unknown_name(desk: Desk) -> Output:
    live = desk.serve()
    return {
        "curl": desk.run("curl", "--silent", f"http://{live.host}/v2/team/none/tags/list", fails=False),
        "skopeo list-tags": desk.run(
            require("skopeo"), "list-tags", "--tls-verify=false", f"docker://{live.host}/team/none"
        ),
    }


def unknown_blob(desk: Desk) -> Output:
    """A layer is missing below an image that is there, as after a file system's loss."""
    live = desk.serve()
    desk.skopeo_push(live.host, fails=False)
    files = list((live.root / "docker/registry/v2/blobs/sha256").rglob("data"))
    layer = next(path for path in files if path.read_bytes().startswith(_GZIP))
    shutil.rmtree(layer.parent)
    return {
        "docker pull": desk.docker_pull(live.host),
        "podman pull": desk.podman_pull(live.host, "--tls-verify=false"),
        "skopeo copy": desk.skopeo_pull(live.host),
    }


def invalid_manifest(desk: Desk) -> Output:
    live = desk.serve()
    return {
        "skopeo copy --format v2s1": desk.skopeo_push(live.host, "--dest-tls-verify=false", "--format", "v2s1")
    }


def no_deletion(desk: Desk) -> Output:
    live = desk.serve(storage={"delete": {"enabled": False}})
    desk.skopeo_push(live.host, fails=False)
    image = f"docker://{live.host}/team/app:v1"
    return {"skopeo delete": desk.run(require("skopeo"), "delete", "--tls-verify=false", image)}


def read_only(desk: Desk) -> Output:
    live = desk.serve(storage={"maintenance": {"readonly": {"enabled": True}}})
    return {"docker push": desk.docker_push(live.host), "skopeo copy": desk.skopeo_push(live.host)}


def full_disk(desk: Desk) -> Output:
    folder = desk.stack.enter_context(disk(desk.new() / "disk", "size=1m"))
    live = desk.stack.enter_context(
        start_moorage(folder / "data", config=desk.new() / "config.yml", http={"workers": 1}, health=OFTEN)
    )
    fill_up(folder / "filler")
    live.logged("cannot be written to")
    found = pushed(desk, live.host)
    ready = desk.run("curl", "--silent", f"http://{live.host}/readyz", fails=False)
    return {**found, "curl": ready, "log": desk.log(live, "the storage is full")}


def lost_directory(desk: Desk) -> Output:
    live = desk.serve(health=OFTEN)
    Wire(live.host).push_image("team/app", "v1", [b"layer"])
    live.root.rename(live.root.with_name("away"))
    log = desk.log(live, "cannot be read")
    return {"docker pull": desk.docker_pull(live.host), "skopeo copy": desk.skopeo_pull(live.host), "log": log}


def unwritable_directory(desk: Desk) -> Output:
    """The volume belongs to root, the registry does not run as root."""
    folder = desk.new()
    (folder / "data/docker/registry/v2").mkdir(parents=True)
    live = desk.stack.enter_context(desk.serve_as_nobody(folder / "data"))
    return {"skopeo copy": desk.skopeo_push(live.host), "log": desk.log(live, "the storage denies access")}


SCENES: dict[str, Callable[[Desk], Output]] = {
    "`manifest unknown`, `not found`": unknown_manifest,
    "`repository name not known to registry`": unknown_name,
    "`unknown blob`, `blob unknown to registry`": unknown_blob,
    "`manifest invalid`": invalid_manifest,
    "`The operation is unsupported.` (deletion)": no_deletion,
    "`The operation is unsupported.` (push)": read_only,
    "`503 Service Unavailable`": lost_directory,
    "`503 Service Unavailable` for pushes only": unwritable_directory,
}

SLOW: dict[str, Callable[[Desk], Output]] = {
    "`blob upload invalid`, or `blob upload unknown` from Docker": other_secret,
    "`blob upload unknown to registry`": other_storage,
    "`507 Insufficient Storage`": full_disk,
}
"""Docker repeats the upload of a layer for 50 seconds."""
