"""Names of images and addresses of registries."""

from __future__ import annotations

import pytest

from moorage.types import Digest
from moorage.upstream.reference import ImageName, ReferenceInvalid, parse_endpoint

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "whole", "reference"),
    [
        ("alpine", "docker.io/library/alpine", "latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "3.20"),
        ("grafana/grafana", "docker.io/grafana/grafana", "latest"),
        ("docker.io/alpine", "docker.io/library/alpine", "latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine", "latest"),
        ("registry-1.docker.io/library/alpine", "docker.io/library/alpine", "latest"),
        ("quay.io/a/b/c:1", "quay.io/a/b/c:1", "1"),
        ("localhost/app", "localhost/app", "latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "1"),
        ("host:5000", "docker.io/library/host:5000", "5000"),
        ("Registry/app", "Registry/app", "latest"),
        ("Quay.IO/app", "quay.io/app", "latest"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app", "latest"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1", "1"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}", DIGEST),
        (f"ghcr.io/a/b:1@{DIGEST}", f"ghcr.io/a/b:1@{DIGEST}", DIGEST),
    ],
)
def test_names_of_images(text: str, whole: str, reference: str) -> None:
    """As Docker reads them; the whole name is read again as itself."""
    image = ImageName.parse(text)
    assert str(image) == whole
    assert image.reference == reference
    assert ImageName.parse(whole) == image


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid repository name"),
        ("Alpine", "invalid repository name"),
        ("a//b", "invalid repository name"),
        ("quay.io/", "invalid repository name"),
        ("alpine:", "invalid tag"),
        ("alpine:a b", "invalid tag"),
        ("alpine:1:2", "invalid tag"),
        ("alpine@sha256:short", "digest"),
        ("alpine@", "digest"),
        ("https://quay.io/a/b", "'https:' is not a host|'' is not a port"),
        ("host:port/app", "'port' is not a port"),
        ("host:70000/app", "'70000' is not a port"),
        ("ho_st:5000/app", "'ho_st' is not a host"),
        ("[::g]/app", "is not a host"),
    ],
)
def test_what_is_no_name_of_an_image(text: str, reason: str) -> None:
    """The cause is named."""
    with pytest.raises(ReferenceInvalid, match=reason):
        ImageName.parse(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("quay.io", "https://quay.io"),
        ("https://quay.io/", "https://quay.io"),
        ("https://quay.io:443", "https://quay.io"),
        ("http://Registry.Example.com:80", "http://registry.example.com"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("docker.io", "https://registry-1.docker.io"),
        ("https://index.docker.io", "https://registry-1.docker.io"),
        ("https://[::1]:5000", "https://[::1]:5000"),
        ("[::1]", "https://[::1]"),
    ],
)
def test_addresses_of_registries(text: str, url: str) -> None:
    """A host, or a URL without anything after the host."""
    assert str(parse_endpoint(text)) == url


def test_plain_http_is_for_hosts_without_a_scheme() -> None:
    """`--plain-http` does not weaken an address that names https."""
    assert parse_endpoint("host:5000", plain_http=True).url == "http://host:5000"
    assert parse_endpoint("https://host", plain_http=True).url == "https://host"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a host"),
        ("ftp://host", "the scheme must be https or http"),
        ("https://host/v2", "remove what follows it"),
        ("https://host?x=1", "remove what follows it"),
        ("host/path", "remove what follows it"),
        ("https://user:password-of-test@host", "credentials do not belong"),
        ("user:password-of-test@host/x", "credentials do not belong"),
        ("https://ho st", "is not a host"),
        ("https://host:", "'' is not a port"),
        ("https://host:0", "'0' is not a port"),
        ("https://host:\u0661", "is not a port"),
        ("https://[::1", "is not the address of a registry|is not a host"),
        ("https://[::1]x", "is not the address|is not a host"),
        ("https://-host", "is not a host"),
    ],
)
def test_what_is_no_address(text: str, reason: str) -> None:
    """The cause is named, and no password."""
    with pytest.raises(ReferenceInvalid, match=reason) as caught:
        parse_endpoint(text)
    assert "password-of-test" not in str(caught.value)
