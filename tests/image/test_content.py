"""Content of the images: bytecode, what S3 needs, no installer, an SBOM, and the same layers in each build."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.image import build
from tests.image.build import BUILD_LIMIT_S
from tests.image.test_platforms import normalised, pins
from tests.live import SECRET
from tests.ports import free_port
from tests.s3 import a_bucket, is_moto
from tests.wire import Wire

import moorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.image.conftest import Engine, Start

pytestmark = [
    pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("image"),
    pytest.mark.timeout(BUILD_LIMIT_S),
]  # fmt: skip

# Imports what a server with every feature imports; prints modules whose bytecode would be made at each start.
UNCOMPILED = """
import importlib, importlib.util, pkgutil, sys
import moorage
missing = []
for module in pkgutil.walk_packages(moorage.__path__, "moorage."):
    if not module.name.startswith("moorage.testing"):
        importlib.import_module(module.name)
for name, module in sorted(sys.modules.items()):
    spec = getattr(module, "__spec__", None)
    if spec is None or not spec.has_location or not spec.origin or not spec.origin.endswith(".py"):
        continue
    try:
        head = open(importlib.util.cache_from_source(spec.origin), "rb").read(8)
    except OSError:
        head = b""
    if head[4:8] != bytes([1, 0, 0, 0]):
        missing.append(name)
print(len(sys.modules) > 500, missing)
"""

# Every service that credentials may come from, and the tables of endpoints.
BOTOCORE = """
import botocore.session
session = botocore.session.get_session()
for service in ("s3", "sts", "sso", "sso-oidc", "signin"):
    assert session.get_service_model(service).operation_names, service
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client = session.create_client(service, region_name="eu-central-1", **keys)
    assert client.meta.endpoint_url.startswith("https://"), service
print(sorted(session.get_available_services()))
"""


def python(engine: Engine, image: str, program: str) -> str:
    command = ("run", "--rm", "--network=none", "--entrypoint", "/opt/moorage/bin/python3", image, "-c", program)
    return engine(*command).strip()


def test_all_bytecode_is_there_and_never_compared_with_its_source(engine: Engine, full: str) -> None:
    """With a read-only root file system Python would compile everything at each start otherwise."""
    assert python(engine, full, UNCOMPILED) == "True []"


def test_botocore_keeps_what_s3_and_its_credentials_need(engine: Engine, full: str, slim: str) -> None:
    for image in (full, slim):
        assert python(engine, image, BOTOCORE) == "['s3', 'signin', 'sso', 'sso-oidc', 'sts']"


def test_nothing_in_it_installs_packages(engine: Engine, full: str) -> None:
    names = "-name pip -o -name 'pip-*' -o -name setuptools -o -name ensurepip"
    script = rf"command -v pip pip3 uv; find /usr /opt \( {names} \) -path '*/python3*'"
    assert engine("run", "--rm", "--network=none", full, "sh", "-c", f"{script}; true").strip() == ""


def test_slim_names_the_image_that_has_the_rest(engine: Engine, slim: str) -> None:
    configuration = "version: 0.1\nstorage: {gcs: {bucket: b}}\nhttp: {addr: ':5000'}\n"
    answer = engine(
        "run",
        "--rm",
        "--interactive",
        "--network=none",
        slim,
        "serve",
        "/dev/stdin",
        stdin=configuration,
        fails=True,
    )
    assert "the slim image leaves it out; run the full image" in answer


@pytest.mark.parametrize("kind", ["full", "slim"])
def test_the_description_lists_every_requirement_and_package(
    engine: Engine, kind: str, request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue(kind)
    document = json.loads(
        engine("run", "--rm", "--network=none", image, "cat", "/usr/share/moorage/sbom.cdx.json")
    )
    assert document["bomFormat"] == "CycloneDX"
    listed = {normalised(f"{item['name']}=={item.get('version')}") for item in document["components"]}
    requirements = dict(pins("image.txt" if kind == "full" else "image-slim.txt"))
    assert requirements.keys() <= listed
    packages = [item for item in document["components"] if item.get("purl", "").startswith("pkg:deb/debian/")]
    assert {"libc6", "busybox-static", "ca-certificates"} <= {item["name"] for item in packages}
    root = document["metadata"]["component"]
    assert (root["name"], root["version"]) == ("moorage", moorage.__version__)
    # What is described is what is there.
    program = "from importlib.metadata import distributions as d; print(*(x.name + '==' + x.version for x in d()))"
    installed = {normalised(name) for name in python(engine, image, program).split()}
    assert installed - {f"moorage=={moorage.__version__}"} <= listed


@pytest.mark.skipif(not is_moto(), reason="the store under test is another one")
def test_a_bucket_is_served_with_a_role_by_web_identity(start: Start, tmp_path: Path, slim: str) -> None:
    """Kubernetes gives a pod a token in a file, which STS turns into credentials for S3."""
    token = tmp_path / "token"
    token.write_text("a.b.c")
    token.chmod(0o444)
    port = free_port()
    with a_bucket() as bucket:
        settings = {
            "version": 0.1,
            "storage": {
                "s3": {
                    "region": "us-east-1",
                    "bucket": bucket.name,
                    "regionendpoint": bucket.endpoint,
                    "forcepathstyle": True,
                },
                "redirect": {"disable": True},
            },
            "http": {"addr": f"127.0.0.1:{port}", "secret": SECRET},
        }
        configuration = tmp_path / "config.yml"
        configuration.write_text(yaml.safe_dump(settings))
        environment = {
            "AWS_ENDPOINT_URL_STS": bucket.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/registry",
            "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
        }
        variables = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        mounts = ("-v", f"{token}:/var/run/token:ro", "-v", f"{configuration}:/etc/distribution/config.yml:ro")
        options = (*variables, *mounts, "--read-only", "--network=host")
        with start(options=options, image=slim):
            wire = Wire(f"127.0.0.1:{port}")
            digest = wire.push_blob("a/b", b"a layer")
            assert wire.blob("a/b", digest).body == b"a layer"
        assert re.search("docker/registry/v2/blobs/sha256", " ".join(bucket.keys()))


def test_two_builds_are_equal_layer_by_layer(engine: Engine, slim: str, tmp_path: Path) -> None:
    """An image can be checked against its sources: the same tree, pins and base give the same layers.

    The engine gives removed files the time of their removal; that layer is compared without it.
    """
    build.import_base(engine.host)
    build.build(engine.host, "slim", "moorage:again", "--no-cache")
    first, second = (list(layers(engine, name, tmp_path)) for name in (slim, "moorage:again"))
    assert len(first) == 5
    assert second == first


def layers(engine: Engine, image: str, folder: Path) -> Iterator[object]:
    """The digest of each layer, or its entries if it removes files."""
    path = folder / "saved.tar"
    engine("save", "--output", str(path), image)
    with tarfile.open(path) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        for name in manifest["Layers"]:
            data = archive.extractfile(name)
            assert data is not None
            digest = hashlib.sha256(data.read()).hexdigest()
            data.seek(0)
            with tarfile.open(fileobj=data) as layer:
                members = layer.getmembers()
            removed = {member.name for member in members if "/.wh." in member.name}
            entries = [
                (item.name, item.mode, item.uid, item.gid, item.name in removed or item.mtime) for item in members
            ]
            yield entries if removed else digest
