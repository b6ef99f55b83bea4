"""`moorage export`: images of a registry into one file, for a site without a network."""

from __future__ import annotations

from contextlib import AsyncExitStack
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
    from collections.abc import Sequence

    from moorage.bundle.contents import BaseBundle, ExportParameters
    from moorage.bundle.export import ExportResult
    from moorage.cli.bundles import BundleAccess
    from moorage.cli.progress import Meter
    from moorage.replication.platforms import ImagePlatform
    from moorage.types import Digest

__all__ = ["export"]

_AGAIN: Final = "what was written stays; run the same command again, it continues"


def export(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Images as NAME[:TAG][@DIGEST].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")
    ] = None,
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            metavar="FILE",
            help="Images of a file: one per line, or of Kubernetes manifests or Helm values (.yaml, .json).",
        ),
    ] = None,
    all_tags: Annotated[bool, typer.Option("--all-tags", help="All tags of the named repositories.")] = False,
    registry: RegistryUrl = None,
    config: StoreConfig = None,
    platform: Platforms = None,
    referrers: Referrers = True,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="BUNDLE", help="Leave out blobs that this earlier bundle has."),
    ] = None,
    have: Annotated[
        Path | None,
        typer.Option("--have", metavar="LIST", help="Leave out blobs with these digests, one on each line."),
    ] = None,
    volume_size: Annotated[
        str, typer.Option("--volume-size", metavar="SIZE", help="Split into FILE.001, ... of this size, as 4G.")
    ] = "",
    plain_http: PlainHttp = False,
    ca_file: CaFile = None,
    auth_file: AuthFile = None,
    quiet: Quiet = False,
) -> None:
    """Write images, with all platforms and what refers to them, into one file.

    The file is an OCI layout in a tar file, which skopeo and others read as well. Images come from the store of
    --config, from the registry of --registry, or with neither from the registry that each name has (docker.io by
    default), with the credentials of docker login. An interrupted export is continued by the same command. Exit
    status 1 if it failed.

    Example: moorage export --output bundle.tar --images images.txt
    """
    from moorage.bundle.contents import ExportParameters
    from moorage.bundle.volumes import MINIMUM_VOLUME_BYTES
    from moorage.cli.bundles import BundleAccess, parse_platforms, parse_size
    from moorage.cli.copied import run_until_sigterm

    if output is None:
        raise typer.BadParameter("name the file to write", param_hint="--output")
    access = BundleAccess(config, registry, plain_http, ca_file, auth_file)
    access.check(required=False)
    platforms = parse_platforms(platform)
    volume_bytes = parse_size(volume_size) if volume_size else None
    if volume_bytes is not None and volume_bytes < MINIMUM_VOLUME_BYTES:
        raise typer.BadParameter("at least 64K", param_hint="--volume-size")
    if not images and not lists:
        raise typer.BadParameter("name an image, or a file of images with --images", param_hint="IMAGE...")

    async def work(meter: Meter) -> ExportResult:
        names = _names(images or (), lists or ())
        left_out, base, since_id, have_id = await _left_out(since, have)
        request = ExportParameters(
            tuple(f"{name}:*" if all_tags else name for name in names),
            tuple(map(str, platforms)),
            referrers,
            volume_bytes,
            since_id,
            have_id,
        )
        return await _export(access, output, request, names, platforms, left_out, base, meter)

    _show(run_until_sigterm(work, quiet=quiet, resume=_AGAIN, hint=access.hint))


def _names(images: Sequence[str], lists: Sequence[Path]) -> list[str]:
    """Return the names of the images, each once.  Raises BundleError."""
    from moorage.bundle.imagelist import read_image_list

    found = [*images]
    for path in lists:
        found += read_image_list(path)
    return list(dict.fromkeys(found))


async def _left_out(
    since: Path | None, have: Path | None
) -> tuple[dict[Digest, tuple[str, ...]], BaseBundle | None, str, str]:
    """Return blobs that the other side has, with the base, and digests of both.  Raises BundleError."""
    from moorage.bundle.incremental import blobs_of_bundle, blobs_of_list
    from moorage.types import Digest as KnownDigest

    found: dict[Digest, tuple[str, ...]] = {}
    base: BaseBundle | None = None
    have_id = ""
    if have is not None:
        listed = blobs_of_list(have)
        found |= listed
        have_id = str(KnownDigest.of("\n".join(sorted(listed)).encode()))
    if since is not None:
        blobs, base = await blobs_of_bundle(since)
        found |= blobs
    return found, base, base.id if base is not None else "", have_id


async def _export(
    access: BundleAccess,
    output: Path,
    request: ExportParameters,
    names: Sequence[str],
    platforms: tuple[ImagePlatform, ...],
    left_out: dict[Digest, tuple[str, ...]],
    base: BaseBundle | None,
    meter: Meter,
) -> ExportResult:
    from moorage.bundle.export import Exporter
    from moorage.cli.export_sources import ImageFinder

    all_tags = any(text.endswith(":*") for text in request.images)
    async with AsyncExitStack() as stack:
        finder = await ImageFinder.opened(access, stack)
        meter.begin("names", len(names))
        images = []
        for name in names:
            images += await finder.find(name, all_tags=all_tags)
            meter.advance(1)
        exporter = Exporter(output, request, meter, left_out=left_out, base=base)
        return await exporter.run(images, platforms)


def _show(result: ExportResult) -> None:
    from moorage.cli.progress import format_bytes, format_count

    contents = result.contents
    for image in contents.images:
        typer.echo(f"{image.reference} {image.digest}" if image.tag else image.reference)
    blobs = sum(not item.is_manifest for item in contents.content)
    files = str(result.paths[0])
    if len(result.paths) > 1:
        files = f"{result.paths[0]} ... {result.paths[-1].name}"
    omitted = contents.omitted
    left_out = (
        f"; left out: {format_count(len(omitted), 'blob')} ({format_bytes(sum(item.size for item in omitted))})"
        if omitted
        else ""
    )
    continued = f"; continued after {format_bytes(result.continued)}" if result.continued else ""
    typer.echo(
        f"{files}: {format_bytes(result.size)}, {format_count(len(contents.images), 'image')}, "
        f"{format_count(len(contents.content) - blobs, 'manifest')}, {format_count(blobs, 'blob')}"
        f"{left_out}{continued}"
    )
