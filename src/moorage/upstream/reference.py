"""Image names and addresses of registries, as Docker reads them.

    alpine                          docker.io/library/alpine, tag latest
    grafana/grafana:11.0.0          docker.io/grafana/grafana
    quay.io/prometheus/node-exporter@sha256:...
    localhost:5000/app:1

The first component is a host if it has a dot or a colon, is `localhost`, or has upper-case letters; otherwise the
name is one of Docker Hub, and a single component there is in `library/`.  Docker Hub answers at another host than
the one in its names: `parse_endpoint` knows it.

Above: `client.py`, `cli/`, `config/`.
Source: https://github.com/distribution/reference (normalize.go, `splitDockerDomain`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from moorage.errors import RegistryError
from moorage.types import Digest, Reference, RepoName, Tag, parse_repo_name, parse_tag

__all__ = ["DOCKER_HUB", "DOCKER_HUB_HOST", "ImageName", "ReferenceInvalid", "RegistryEndpoint", "parse_endpoint"]

DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_HOST: Final = "registry-1.docker.io"
_DOCKER_HUB_NAMES: Final = frozenset({DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST})
_PORTS: Final = {"http": 80, "https": 443}
_PORT_LIMIT: Final = 65_535
_HOST: Final = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?))*", re.ASCII
)
_LATEST: Final = Tag("latest")


class ReferenceInvalid(ValueError):
    """An image name or the address of a registry cannot be read; the message has the text and the cause."""


@dataclass(frozen=True, slots=True)
class RegistryEndpoint:
    """Where a registry answers: its scheme and its host, with the port unless it is that of the scheme."""

    scheme: str
    host: str

    @property
    def url(self) -> str:
        """Return the root URL, without a slash at its end."""
        return f"{self.scheme}://{self.host}"

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class ImageName:
    """Name of an image: `registry` is the host of its name (`docker.io` for Docker Hub).

    `tag` and `digest` are as written; both may be None, and `reference` is then the tag `latest`.
    """

    registry: str
    name: RepoName
    tag: Tag | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Parse an image name.  Raises `ReferenceInvalid`."""
        try:
            rest, at, digest_text = text.partition("@")
            digest = Digest.parse(digest_text) if at else None
            registry, path = _split(rest)
            path, colon, tag_text = path.partition(":")
            tag = parse_tag(tag_text) if colon else None
            if registry == DOCKER_HUB and "/" not in path:
                path = f"library/{path}"
            return cls(registry, parse_repo_name(path), tag, digest)
        except RegistryError as error:
            raise ReferenceInvalid(f"{text!r} is not an image name: {error}") from None

    @property
    def reference(self) -> Reference:
        """Return the digest, else the tag, else `latest`."""
        return self.digest or self.tag or _LATEST

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.name}{tag}{digest}"


def _split(text: str) -> tuple[str, str]:
    """Return the host, `docker.io` if there is none, and the rest.  Raises `ReferenceInvalid`."""
    first, slash, rest = text.partition("/")
    if not slash or not _names_a_host(first):
        return DOCKER_HUB, text
    host = _checked_host(first, text)
    if not _names_a_host(host):
        host = first  # in lower case it would be read as a component
    return (DOCKER_HUB if host in _DOCKER_HUB_NAMES else host), rest


def _names_a_host(component: str) -> bool:
    return "." in component or ":" in component or component == "localhost" or component != component.lower()


def parse_endpoint(text: str, *, plain_http: bool = False) -> RegistryEndpoint:
    """Parse the root URL of a registry, or its host: `https://` is the default, `http://` with `plain_http`.

    Docker Hub's names become the host that serves its API.  Raises `ReferenceInvalid`: another scheme, a path, a
    user or a query, a host or port that is none.
    """
    with_scheme = text if "://" in text else f"{'http' if plain_http else 'https'}://{text}"
    try:
        parts = urlsplit(with_scheme)
    except ValueError as error:
        raise ReferenceInvalid(f"{_shown(text)} is not the address of a registry: {error}") from None
    if parts.scheme not in _PORTS:
        raise ReferenceInvalid(f"{_shown(text)}: the scheme must be https or http")
    if "@" in parts.netloc:
        raise ReferenceInvalid(f"{_shown(text)}: credentials do not belong in the address of a registry")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ReferenceInvalid(f"{_shown(text)}: a registry answers at the root of a host; remove what follows it")
    host = _checked_host(parts.netloc, text)
    if host in _DOCKER_HUB_NAMES:
        return RegistryEndpoint(parts.scheme, DOCKER_HUB_HOST)
    return RegistryEndpoint(parts.scheme, host.removesuffix(f":{_PORTS[parts.scheme]}"))


def _checked_host(netloc: str, text: str) -> str:
    """Return `HOST` or `HOST:PORT` in lower case.  Raises `ReferenceInvalid`."""
    if netloc.startswith("["):
        host, bracket, port = netloc.partition("]")
        valid = bool(bracket) and _is_ipv6(host[1:]) and (not port or port.startswith(":"))
        has_port, port = bool(port), port[1:]
    else:
        host, colon, port = netloc.partition(":")
        valid, has_port = _HOST.fullmatch(host) is not None, bool(colon)
    if not valid:
        raise ReferenceInvalid(f"{_shown(text)}: {host!r} is not a host")
    if has_port and not (port.isascii() and port.isdigit() and 0 < int(port) <= _PORT_LIMIT):
        raise ReferenceInvalid(f"{_shown(text)}: {port!r} is not a port")
    return netloc.lower()


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    """Return the text for a message, without `user:password@`."""
    scheme, separator, rest = text.rpartition("://")
    return repr(f"{scheme}{separator}{rest.rpartition('@')[2]}")
