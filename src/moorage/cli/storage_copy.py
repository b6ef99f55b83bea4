"""`moorage storage copy`: copies a registry to another store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.copy.progress import Tally
    from moorage.copy.repositories import CopyOptions

__all__ = ["copy"]

_RESUME: Final = "run the same command again to continue"

_Source = Annotated[
    Path, typer.Option("--from", metavar="CONFIG", help="Configuration of the store to read.", readable=False)
]
_Target = Annotated[
    Path, typer.Option("--to", metavar="CONFIG", help="Configuration of the store to fill.", readable=False)
]
_Patterns = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only repositories whose name matches, such as 'team/*'; repeatable."),
]


def copy(
    source: _Source,
    target: _Target,
    repository: _Patterns = None,
    all_blobs: Annotated[
        bool, typer.Option("--all-blobs", help="Also blobs that no repository links (garbage, usually).")
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Also images of which the source has lost a part.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Also tags that were moved, and images that were deleted, at the destination."
        ),
    ] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Hash what the destination already has; replace what is damaged.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be copied.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Blobs copied at the same time.")] = 4,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Copy repositories, blobs, manifests and tags from one store to another, verified by digest.

    Both may be serving meanwhile. Run it again after an interruption, or to copy what was pushed since: what the
    destination already has is not copied twice. Exit status 1 if something was not copied.

    REGISTRY_* variables apply to neither configuration; FROM_REGISTRY_* and TO_REGISTRY_* do.

    Example: moorage storage copy --from old.yml --to new.yml
    """
    import os

    from moorage.cli.progress import run_with_progress
    from moorage.copy.repositories import CopyOptions
    from moorage.wiring.validation import is_sparse_in

    if all_blobs and repository:
        raise typer.BadParameter("it would copy the blobs of all repositories", param_hint="--all-blobs")
    source_settings = _load(source, os.environ, "FROM_")
    target_settings = _load(target, os.environ, "TO_")
    if _is_same_store(source_settings, target_settings):
        raise typer.BadParameter("it is the same store as --from", param_hint="--to")
    options = CopyOptions(
        repositories=tuple(repository or ()),
        all_blobs=all_blobs,
        incomplete=incomplete,
        overwrite=overwrite,
        recheck=recheck,
        dry_run=dry_run,
        at_once=concurrency,
        is_sparse=is_sparse_in(source_settings),
    )
    tally = run_with_progress(
        lambda meter: _work(source_settings, target_settings, options, meter),
        quiet=quiet,
        interrupted=_RESUME,
        stopped=_RESUME,
    )
    _summary(tally, dry_run=dry_run)
    raise typer.Exit(1 if tally.problems else 0)


def _load(path: Path, environ: Mapping[str, str], prefix: str) -> Settings:
    from moorage.cli.problems import load_or_exit, require_data_directory

    variables = {
        name.removeprefix(prefix): value
        for name, value in environ.items()
        if name.startswith(f"{prefix}REGISTRY_")
    }
    settings = load_or_exit(path, variables).settings
    if settings.storage.driver == "inmemory":
        typer.echo(f"{path}: storage.inmemory is the memory of one process; there is nothing to copy", err=True)
        raise typer.Exit(1)
    require_data_directory(settings, may_be_missing=prefix == "TO_")
    return settings


def _is_same_store(one: Settings, other: Settings) -> bool:
    import os

    if one.storage.driver != other.storage.driver:
        return False
    if one.storage.filesystem is not None and other.storage.filesystem is not None:
        first, second = one.storage.filesystem.rootdirectory, other.storage.filesystem.rootdirectory
        return os.path.realpath(first) == os.path.realpath(second)
    return bool(getattr(one.storage, one.storage.driver) == getattr(other.storage, other.storage.driver))


async def _work(source_settings: Settings, target_settings: Settings, options: CopyOptions, meter: Meter) -> Tally:
    from moorage.copy.repositories import Copier
    from moorage.wiring.storage import opened_driver

    async with opened_driver(source_settings) as source, opened_driver(target_settings) as target:
        meter.begin("copying", None, is_bytes=True)
        return await Copier(source, target, options, _Reporter(meter)).run()


class _Reporter:
    """See `copy.progress.CopyReporter`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def planned(self, size: int) -> None:
        self._meter.grow(size)

    def moved(self, size: int, *, copied: bool) -> None:
        del copied
        self._meter.advance(size)

    def settled(self, tally: Tally) -> None:
        self._meter.describe(f"{tally.blobs} copied, {tally.present} there, {tally.repositories} repositories")

    def problem(self, where: str, text: str) -> None:
        typer.echo(f"error: {where}: {text}", err=True)

    def note(self, where: str, text: str) -> None:
        typer.echo(f"note: {where}: {text}", err=True)


def _summary(tally: Tally, *, dry_run: bool) -> None:
    from moorage.cli.progress import format_bytes, format_count

    done = "would copy" if dry_run else "copied"
    typer.echo(
        f"{format_count(tally.repositories, 'repository', 'repositories')}: "
        f"{done} {format_count(tally.blobs, 'blob')} ({format_bytes(tally.blob_bytes)}), "
        f"{format_count(tally.links, 'link')}, {format_count(tally.manifests, 'manifest')}, "
        f"{format_count(tally.tags, 'tag')}; "
        f"already present: {format_count(tally.present, 'blob')} ({format_bytes(tally.present_bytes)})"
    )
    if tally.kept:
        kept = format_count(tally.kept, "tag or manifest", "tags and manifests")
        typer.echo(f"changed at the destination, and kept: {kept}")
    if tally.problems:
        typer.echo(f"{format_count(tally.problems, 'problem')}, listed above; what is named there was not copied")
