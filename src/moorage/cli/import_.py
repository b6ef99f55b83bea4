"""`moorage import`: images of a file into a registry."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path  # noqa: TC003  Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from moorage.cli.bundles import (  # noqa: TC001  Typer reads the annotations
    AuthFile,
    CaFile,
    PlainHttp,
    Platforms,
    Quiet,
    Referrers,
    RegistryUrl,
    StoreConfig,
)

if TYPE_CHECKING:
    from moorage.bundle.importer import ImportResult
    from moorage.bundle.naming import ImportNames
    from moorage.cli.bundles import BundleAccess
    from moorage.cli.progress import Meter
    from moorage.replication.endpoints import ImageTarget
    from moorage.replication.platforms import ImagePlatform

__all__ = ["import_images"]

_AGAIN: Final = "what was imported stays; run the same command again for the rest"


def import_images(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Bundles, their volumes, OCI layouts, or archives of docker save.",
            readable=False,
        ),
    ] = None,
    registry: RegistryUrl = None,
    config: StoreConfig = None,
    name: Annotated[
        str,
        typer.Option("--as", metavar="NAME[:TAG]", help="Name of the only image, or of images without a name."),
    ] = "",
    prefix: Annotated[
        str, typer.Option("--repository-prefix", metavar="PREFIX", help="Put it and a slash before each name.")
    ] = "",
    strip_host: Annotated[
        bool, typer.Option("--strip-host", help="Remove the host of names: docker.io/library/a is library/a.")
    ] = False,
    platform: Platforms = None,
    referrers: Referrers = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only examine the files, write nothing.")] = False,
    plain_http: PlainHttp = False,
    ca_file: CaFile = None,
    auth_file: AuthFile = None,
    quiet: Quiet = False,
) -> None:
    """Store the images of a bundle, verified by digest, in the store of --config or the registry of --registry.

    Reads bundles of moorage export and all of their volumes, OCI layouts in directories and tar files (skopeo,
    oras, containerd, buildah), and archives of docker save. Nothing is written if a file is damaged or lacks
    content; a tag is set when all of its image is there. After an interruption the same command copies the rest.
    Exit status 1 if something was not imported.

    Example: moorage import bundle.tar --registry https://registry.example.com
    """
    from moorage.bundle.naming import ImportNames
    from moorage.bundle.volumes import group_volumes
    from moorage.cli.bundles import BundleAccess, parse_platforms
    from moorage.cli.copied import run_until_sigterm

    if not files:
        raise typer.BadParameter("name a file", param_hint="FILE...")
    access = BundleAccess(config, registry, plain_http, ca_file, auth_file)
    access.check(required=True)
    platforms = parse_platforms(platform)
    repository, tag = _parsed_name(name)
    names = ImportNames(_parsed_prefix(prefix), strip_host, repository, tag, _host(registry))
    for path in group_volumes(files):
        work = partial(_import, access, path, names, platforms, referrers=referrers, dry_run=dry_run)
        _show(run_until_sigterm(work, quiet=quiet, resume=_AGAIN, hint=access.hint), dry_run=dry_run)


def _parsed_name(text: str) -> tuple[str, str]:
    from moorage.cli.undo import parse_target
    from moorage.types import Digest

    if not text:
        return "", ""
    found = parse_target(text)
    if isinstance(found.reference, Digest):
        raise typer.BadParameter("expected NAME or NAME:TAG", param_hint="--as")
    return found.name, found.reference or ""


def _parsed_prefix(text: str) -> str:
    from moorage.errors import NameInvalid
    from moorage.types import parse_repo_name

    try:
        return parse_repo_name(text.strip("/")) if text else ""
    except NameInvalid as error:
        raise typer.BadParameter(str(error), param_hint="--repository-prefix") from None


def _host(registry: str | None) -> str:
    return "" if registry is None else registry.rpartition("://")[2].strip("/")


async def _import(
    access: BundleAccess,
    path: Path,
    names: ImportNames,
    platforms: tuple[ImagePlatform, ...],
    meter: Meter,
    *,
    referrers: bool,
    dry_run: bool,
) -> ImportResult:
    from moorage.bundle.importer import import_bundle, open_bundle
    from moorage.cli.bundles import PhaseProgress
    from moorage.replication.requests import ReplicationOptions

    async with AsyncExitStack() as stack:
        target = await _target(access, stack)
        source = await open_bundle(path, PhaseProgress(meter, "examining"))
        stack.callback(source.close)
        return await import_bundle(
            source,
            target,
            names,
            platforms=platforms,
            referrers=referrers,
            options=ReplicationOptions(dry_run=dry_run),
            progress=PhaseProgress(meter, "importing"),
        )


async def _target(access: BundleAccess, stack: AsyncExitStack) -> ImageTarget:
    if access.registry is not None:
        from moorage.replication.remote import RemoteTarget

        client = access.client(access.registry)
        stack.push_async_callback(client.close)
        return RemoteTarget(client)
    from moorage.cli.undo import operator
    from moorage.registry.interface import Caller
    from moorage.replication.local import LocalTarget

    registry = await stack.enter_async_context(access.store(writes=True))
    return LocalTarget(registry, caller=Caller(operator()))


def _show(result: ImportResult, *, dry_run: bool) -> None:
    from moorage.cli.copied import describe_counts
    from moorage.cli.progress import format_count

    for image in result.images:
        where = f"{image.name}:{image.tag}" if image.tag else image.name
        done = "would import" if dry_run else "imported"
        is_new = image.tagged or not image.tag
        typer.echo(f"{done} {where} {image.digest}" if is_new else f"{where} is up to date {image.digest}")
    typer.echo(f"{format_count(len(result.images), 'image')}: {describe_counts(result.counts)}")
