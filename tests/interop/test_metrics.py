"""Dashboards made for CNCF Distribution keep working: names, labels, buckets and counts, side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.live import start_moorage, start_reference
from tests.ports import free_port
from tests.server.debugging import get, until
from tests.wire import DOCKER_MANIFEST, Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from tests.live import Live

pytestmark = [pytest.mark.reference, pytest.mark.slow]

OURS_ALONE: Final = {"handler=other", "handler=health"}
"""The reference counts no request that reaches no endpoint."""


def use(live: Live) -> None:
    """The same requests to either: each kind of endpoint, answered and refused."""
    wire = Wire(live.host)
    config = b'{"architecture":"amd64","os":"linux"}'
    digest = wire.push_blob("some/app", config)
    patched = wire.patch(wire.start_upload("some/app").headers["location"], b"layer")
    assert wire.finish(patched.headers["location"], Digest.of(b"layer")).status == 201
    assert wire.blob("some/app", digest).status == 200
    assert wire.send("HEAD", f"/v2/some/app/blobs/{digest}").status == 200
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config),
                   "digest": str(digest)},
    }).encode()  # fmt: skip
    kind = {"content-type": DOCKER_MANIFEST}
    assert wire.send("PUT", "/v2/some/app/manifests/1", manifest, kind).status == 201
    assert wire.send("GET", "/v2/some/app/manifests/1", headers={"accept": DOCKER_MANIFEST}).status == 200
    for method, path, status in (
        ("GET", "/v2/", 200), ("GET", "/v2/_catalog", 200), ("GET", "/v2/some/app/tags/list", 200),
        ("GET", "/v2/none/tags/list", 404), ("POST", "/v2/some/app/manifests/1", 405),
        ("DELETE", f"/v2/some/app/blobs/{digest}", 202), ("GET", "/v2/some/app/nothing", 404), ("GET", "/", 200),
    ):  # fmt: skip
        assert wire.send(method, path).status == status, path


def families(start: Callable[..., Live], root: Path) -> dict[str, Metric]:
    """What a registry shows after `use`."""
    port = free_port()
    debug: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "prometheus": {"enabled": True}}
    # One worker, whose numbers are exact; several show their last second later.
    with start(
        root, http={"debug": debug, "workers": 1}, storage={"cache": {"blobdescriptor": "inmemory"}}
    ) as live:
        use(live)
        shown: dict[str, Metric] = {}

        def scraped() -> bool:
            _, body = get(port, "/metrics")
            shown.update({family.name: family for family in text_string_to_metric_families(body)})
            return counts(shown).get(("code=202", "handler=blob", "method=delete")) == 1

        until(scraped, "the last request to be counted", live.logs)
        return shown


def counts(shown: dict[str, Metric]) -> dict[tuple[str, ...], float]:
    """Requests by their labels; the probes that waited for the start are left out."""
    samples = shown["registry_http_requests"].samples if "registry_http_requests" in shown else []
    return {
        tuple(f"{name}={text}" for name, text in sorted(sample.labels.items())): sample.value
        for sample in samples
        if sample.labels["handler"] != "base"
    }


def test_names_labels_buckets_and_counts_are_those_of_the_reference(tmp_path: Path) -> None:
    theirs, ours = families(start_reference, tmp_path / "theirs"), families(start_moorage, tmp_path / "ours")
    names = {name for name in theirs if name.startswith(("registry_", "process_"))}
    assert "registry_http_request_duration_seconds" in names
    assert names - {"process_virtual_memory_max_bytes"} <= ours.keys()
    for name in names & ours.keys():
        assert ours[name].type == theirs[name].type, name
        for part in ("", "_total", "_bucket", "_sum", "_count"):
            keys = [
                {frozenset(sample.labels) for sample in shown[name].samples if sample.name == name + part}
                for shown in (theirs, ours)
            ]
            assert keys[0] == keys[1], name + part
        bounds = [{sample.labels.get("le") for sample in shown[name].samples} for shown in (theirs, ours)]
        assert bounds[0] == bounds[1], name

    mine = {labels: value for labels, value in counts(ours).items() if not OURS_ALONE & set(labels)}
    assert mine == counts(theirs)

    bytes_out = [
        {sample.labels["handler"]: sample.value for sample in shown["registry_http_response_size_bytes"].samples
         if sample.name.endswith("_sum") and sample.labels["handler"] in {"blob", "blob_upload", "catalog"}}
        for shown in (theirs, ours)
    ]  # fmt: skip
    assert bytes_out[0] == bytes_out[1]

    actions = [
        {sample.labels["action"] for sample in shown["registry_storage_action_seconds"].samples}
        for shown in (theirs, ours)
    ]
    assert actions[0] <= actions[1] | {"URLFor"}, "a whole file is handed over without asking for a URL"
