"""Options shared by `export` and `import`: registries, platforms, sizes."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from moorage.cli.progress import Meter
    from moorage.registry.interface import Registry
    from moorage.replication.platforms import ImagePlatform
    from moorage.upstream.client import RegistryClient
    from moorage.upstream.errors import UpstreamError

__all__ = [
    "AuthFile",
    "BundleAccess",
    "CaFile",
    "PhaseProgress",
    "PlainHttp",
    "Platforms",
    "Quiet",
    "Referrers",
    "RegistryUrl",
    "StoreConfig",
    "parse_platforms",
    "parse_size",
]

_SIZE: Final = re.compile(r"(\d{1,9})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

StoreConfig = Annotated[
    Path | None,
    typer.Option("--config", metavar="CONFIG", help="The store of this configuration.", readable=False),
]
RegistryUrl = Annotated[
    str | None,
    typer.Option("--registry", metavar="URL", help="A running registry, as https://registry.example.com."),
]
PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Registries by HTTP, without TLS.")]
CaFile = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="PEM file with further CAs.", readable=False)
]
AuthFile = Annotated[
    Path | None,
    typer.Option("--authfile", metavar="FILE", help="Credentials as docker login writes them.", readable=False),
]
Platforms = Annotated[
    list[str] | None,
    typer.Option("--platform", metavar="OS/ARCH", help="Only this platform, as linux/amd64; repeatable."),
]
Referrers = Annotated[
    bool, typer.Option("--referrers/--no-referrers", help="Signatures, SBOMs and other referrers, too.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def parse_size(text: str) -> int:
    """Parse `4G`, `650M` or a number of bytes.  Raises BadParameter."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"expected a size such as 4G or 650M, found {text!r}")
    return int(found[1]) << _UNITS[found[2].upper()]


def parse_platforms(texts: Iterable[str] | None) -> tuple[ImagePlatform, ...]:
    """Parse platforms.  Raises BadParameter."""
    from moorage.replication.platforms import ImagePlatform

    try:
        return tuple(ImagePlatform.parse(text) for text in texts or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--platform") from None


@dataclass(frozen=True, slots=True)
class BundleAccess:
    """The way to registries: one store, one running registry, or with neither each registry by its name."""

    config: Path | None
    registry: str | None
    plain_http: bool = False
    ca_file: Path | None = None
    auth_file: Path | None = None

    def check(self, *, required: bool) -> None:
        """Raise BadParameter for options that exclude each other, or are missing."""
        if self.config is not None and self.registry is not None:
            raise typer.BadParameter("--config and --registry exclude each other")
        if required and self.config is None and self.registry is None:
            raise typer.BadParameter("name the registry: --config for its store, --registry for its address")

    def client(self, address: str) -> RegistryClient:
        """Return a client; its owner closes it.  Raises StartupError."""
        from moorage.wiring.replication import make_docker_client

        plain_http = self.plain_http or address.startswith("http://")
        return make_docker_client(address, plain_http=plain_http, ca_file=self.ca_file, auth_file=self.auth_file)

    def hint(self, error: UpstreamError) -> str:
        """Return an option that may help where a registry cannot be reached."""
        from moorage.upstream.errors import UpstreamUnreachable

        plain = self.plain_http or (self.registry or "").startswith("http://")
        return "if it has no TLS, use --plain-http" if isinstance(error, UpstreamUnreachable) and not plain else ""

    @asynccontextmanager
    async def store(self, *, writes: bool) -> AsyncIterator[Registry]:
        """Yield the registry over the store of the configuration."""
        from moorage.cli.undo import stored_settings
        from moorage.wiring.replication import opened_registry
        from moorage.wiring.storage import opened_driver

        settings = stored_settings(self.config, writes=writes)
        async with opened_driver(settings) as driver, opened_registry(settings, driver) as registry:
            yield registry


class PhaseProgress:
    """See `replication.progress.ReplicationProgress`: bytes on a meter, from the first ones on."""

    def __init__(self, meter: Meter, phase: str) -> None:
        self._meter = meter
        self._phase = phase

    def planned(self, size: int) -> None:
        if self._phase:
            self._meter.begin(self._phase, None, is_bytes=True)
            self._phase = ""
        self._meter.grow(size)

    def moved(self, size: int) -> None:
        self._meter.advance(size)
