"""docs/deploying/swarm.md, step by step, on a swarm of one node.

Ports are published on the node itself (`mode=host`): the routing mesh needs IPVS, which not every kernel has.
"""

from __future__ import annotations

import hashlib
import re
import sys
from typing import TYPE_CHECKING, Final

from tests.guide.machine import ADDRESS, NAME
from tests.guide.pages import MARKS, blocks, section

if TYPE_CHECKING:
    from pathlib import Path

    from tests.guide.machine import Machine
    from tests.guide.pages import Steps
    from tests.server.certs import Holder

pytestmark = MARKS

STORE: Final = f"http://{ADDRESS}:9000"


def task(machine: Machine, *, other: str = "") -> str:
    """The id of the service's running container, which is not the `other` one."""
    script = (
        "docker ps -q --no-trunc --filter label=com.docker.swarm.service.name=registry --filter status=running"
        f" | grep -v '^{other or '-'}'"
    )
    return machine.waits(script, "the service's task").strip()


@section(
    "swarm",
    "Start a swarm",
    "Store certificate and key",
    "One replica over a directory",
    "A renewed certificate",
    "Remove the service",
)
def test_one_replica_serves_a_directory_with_secrets(
    steps: Steps, machine: Machine, certificates: Holder, authority: Holder
) -> None:
    """And survives a kill, a renewed certificate, and its removal: the images stay."""
    for block in blocks("docker", "TLS")[:2]:
        machine.run(block.text)
    steps.run()
    assert "node1" in machine.run("docker node ls")
    steps.run()
    steps.run()
    steps.run()
    url = f"--cacert ca.crt https://{NAME}/v2/"
    machine.waits(f"curl -fsS {url}", "an answer of the service")
    for block in blocks("docker", "TLS")[3:]:
        machine.run(block.text)
    first = task(machine)
    machine.run(f"docker kill {first}")
    second = task(machine, other=first)
    machine.waits(f"curl -fsS {url}my-ubuntu/manifests/latest", "the image after a kill")

    renewed = authority.issue("intermediate", authority=True).issue(NAME, hosts=(NAME,))
    (machine.home / "certs" / "domain.crt").write_bytes(renewed.chain)
    (machine.home / "certs" / "domain.key").write_bytes(renewed.key_pem())
    steps.run()
    task(machine, other=second)
    serial = f"openssl s_client -connect {NAME}:443 < /dev/null 2> /dev/null | openssl x509 -noout -serial"
    machine.waits(f"{serial} | grep -i {renewed.serial:x}", "the renewed certificate")
    machine.waits(f"curl -fsS {url}my-ubuntu/manifests/latest", "the image after the renewal")
    steps.run()
    assert "domain.crt.2" in machine.run("docker secret ls")

    steps.run()
    machine.waits('[ -z "$(docker ps -q --filter name=registry)" ]', "the end of the task")
    assert (machine.folder / "mnt/registry/docker/registry/v2/repositories/my-ubuntu").is_dir()


@section("swarm", "Several replicas over a bucket")
def test_replicas_share_a_bucket_and_a_secret(steps: Steps, machine: Machine, tmp_path: Path) -> None:
    """An upload that one replica began is finished by the other, which reads the same secret from its file."""
    command = [sys.executable, "-m", "moto.server", "-H", ADDRESS, "-p", "9000"]
    machine.spawn(*command, log=tmp_path / "moto.log")
    machine.waits(f"curl -fsS -X PUT {STORE}/registry", "the bucket")
    (machine.home / "accesskey").write_text("AK\n")
    (machine.home / "secretkey").write_text("SK\n")
    machine.run(blocks("swarm", "Start a swarm")[0].text)
    steps.run()
    steps.run(
        {
            # Two replicas on one node cannot have the same port, and the bucket is not Amazon's.
            "published=5000,target=5000": "target=5000",
            "--replicas-max-per-node 1 \\\n  ": "",
            "-e REGISTRY_STORAGE=s3": f"-e REGISTRY_STORAGE=s3 -e REGISTRY_STORAGE_S3_REGIONENDPOINT={STORE}",
        }
    )
    listed = machine.run("docker ps --filter name=registry --format '{{.Ports}}'")
    one, two = (f"http://localhost:{port}" for port in sorted({*re.findall(r":(\d+)->5000", listed)}))
    for url in (one, two):
        machine.waits(f"curl -fsS {url}/readyz", "both replicas to be ready")
    begun = machine.run(f"curl -fsS -i -X POST {one}/v2/shared/blobs/uploads/")
    where = re.search(r"(?mi)^location: http://[^/]+(\S+)", begun)
    assert where is not None, begun
    data = "half of it and the other half"
    machine.run(f"printf %s '{data[:10]}' | curl -fsS -i -X PATCH --data-binary @- '{one}{where[1]}' > patched")
    where = re.search(r"(?mi)^location: http://[^/]+(\S+)", (machine.home / "patched").read_text())
    assert where is not None
    digest = hashlib.sha256(data.encode()).hexdigest()
    machine.run(
        f"printf %s '{data[10:]}' | curl -fsS -X PUT --data-binary @- '{two}{where[1]}&digest=sha256:{digest}'"
    )
    blob = f"/v2/shared/blobs/sha256:{digest}"
    assert machine.run(f"curl -fsSL {one}{blob}") == data
    assert "secret=set" in machine.run("docker service logs registry")
