"""The registry, started with configuration, variables and files of a rendered pod, serves as the values say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.chart.cases import CASES
from tests.chart.container import Served, laid_out
from tests.s3 import a_bucket
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.helm import Helm, Rendered

pytestmark = pytest.mark.slow


def is_well(served: Served, rendered: Rendered) -> None:
    """Every probe of the pod succeeds."""
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert served.probe(rendered.container[kind]) == 200, kind


def pushes(client: httpx.Client) -> None:
    """A blob goes in and comes back."""
    location = client.post("/v2/team/app/blobs/uploads/").headers["location"]
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert client.put(f"{location}&digest={digest}", content=b"abc").status_code == 201
    answer = client.get(f"/v2/team/app/blobs/{digest}", follow_redirects=True)
    assert (answer.status_code, answer.content) == (200, b"abc")


def test_the_defaults_serve_and_keep_images_in_the_volume(helm: Helm, tmp_path: Path) -> None:
    rendered = helm.render({})
    container = laid_out(rendered, tmp_path)
    with container.running() as served:
        is_well(served, rendered)
        Wire(served.live.host).push_image("team/app", "1", [b"layer"])
        answer = httpx.get(f"{served.live.url}/v2/")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (container.data / "docker/registry/v2/repositories/team/app/_manifests/tags/1").is_dir()


def test_passwords_and_tls_come_from_secrets(helm: Helm, tmp_path: Path) -> None:
    values = {
        **CASES["tls"],
        "auth": {"htpasswd": {"existingSecret": "registry-users"}},
        "http": CASES["s3"]["http"],
    }
    rendered = helm.render(values)
    with laid_out(rendered, tmp_path).running() as served:
        assert served.scheme == "https"
        is_well(served, rendered)
        with served.client() as client:
            answer = client.get("/v2/")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Basic realm="Registry Realm"'
        with served.client(user="ann") as client:
            pushes(client)


def test_probes_pass_where_clients_need_certificates(helm: Helm, tmp_path: Path) -> None:
    """The kubelet has none: it would restart the pod for ever."""
    rendered = helm.render(CASES["client-certificates"])
    with laid_out(rendered, tmp_path).running() as served:
        is_well(served, rendered)
        with served.client() as client, pytest.raises(httpx.TransportError):
            client.get("/livez")
        metrics = httpx.get(f"http://127.0.0.1:{served.ports['http-metrics']}/metrics")
        assert "moorage_build_info" in metrics.text


def test_users_of_a_policy_log_in(helm: Helm, tmp_path: Path) -> None:
    rendered = helm.render(CASES["local"])
    with laid_out(rendered, tmp_path).running() as served:
        is_well(served, rendered)
        query = {"service": "moorage", "scope": "repository:team/app:pull,push"}
        with served.client(user="ann") as client:
            token = client.get("/token", params=query).json()["token"]
        with served.client() as client:
            assert client.get("/v2/").status_code == 401
            client.headers["authorization"] = f"Bearer {token}"
            pushes(client)


def test_images_are_in_the_bucket_that_the_values_name(helm: Helm, tmp_path: Path) -> None:
    """Keys of the Secret, prefix, endpoint and style of addresses arrive at the driver."""
    with a_bucket() as bucket:
        place: dict[str, Any] = {
            "bucket": bucket.name,
            "region": bucket.region,
            "regionEndpoint": bucket.endpoint,
            "rootdirectory": "/registry",
            "secure": False,
        }
        values = {
            "storage": "s3",
            "s3": place,
            "secrets": {
                "haSharedSecret": "0123456789abcdef0123456789abcdef",
                "s3": {"accessKey": bucket.access_key, "secretKey": bucket.secret_key},
            },
        }
        rendered = helm.render(values)
        with laid_out(rendered, tmp_path).running() as served:
            is_well(served, rendered)
            with served.client() as client:
                pushes(client)
        keys = [one["Key"] for one in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]]
        assert any(key.startswith("registry/docker/registry/v2/blobs/") for key in keys)
