"""`moorage copy`: copies one image, or all tags of a repository, from one registry to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from moorage.upstream.errors import UpstreamDenied

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.registry.interface import Registry
    from moorage.replication.endpoints import ImageSource, ImageTarget
    from moorage.replication.platforms import ImagePlatform
    from moorage.replication.progress import CopyResult
    from moorage.replication.report import SyncReport
    from moorage.types import Digest, Reference, RepoName, Tag
    from moorage.upstream.client import RegistryClient
    from moorage.upstream.errors import UpstreamError

__all__ = ["copy"]

_STORE: Final = "store:"
_RESUME: Final = "what was copied stays; run the same command again to continue"

_Source = Annotated[str, typer.Argument(metavar="SRC", help="Image, such as docker.io/library/alpine:3.20.")]
_Target = Annotated[str, typer.Argument(metavar="DST", help="Image; without a tag, it gets that of SRC.")]
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="CONFIG", help="Configuration of the store of store:NAME:TAG.", readable=False
    ),
]
_CaFile = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="PEM file with further CAs.", readable=False)
]
_AuthFile = Annotated[
    Path | None,
    typer.Option("--authfile", metavar="FILE", help="Credentials as docker login writes them.", readable=False),
]


@dataclass(frozen=True, slots=True)
class _Place:
    """An image name of the command line; `registry` "" is the store of the configuration."""

    text: str
    registry: str
    name: RepoName
    tag: Tag | None
    digest: Digest | None

    @property
    def is_whole_repository(self) -> bool:
        return self.tag is None and self.digest is None


@dataclass(frozen=True, slots=True)
class _Ends:
    """Both ends of a copy, opened."""

    source: ImageSource
    target: ImageTarget
    same: bool


@dataclass(frozen=True, slots=True)
class _Access:
    """Options of the access to registries and to the store."""

    settings: Settings | None
    plain_source: bool
    plain_target: bool
    ca_file: Path | None
    auth_file: Path | None


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Image: docker.io/library/alpine:3, store:app:1.0.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="Image; without a tag, it gets that of the source.")
    ],
    all_tags: Annotated[bool, typer.Option("--all-tags", "-a", help="Every tag of the repository.")] = False,
    platform: Annotated[
        list[str] | None,
        typer.Option(metavar="OS/ARCH", help="Only this platform of an image of several; repeatable."),
    ] = None,
    referrers: Annotated[
        bool, typer.Option("--referrers/--no-referrers", help="Signatures, SBOMs and other referrers, too.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-d", help="Only show what would be copied.")] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Look up the blobs of an image that the target has, too.")
    ] = False,
    config: _Config = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Both registries are reached by HTTP without TLS.")
    ] = False,
    plain_source: Annotated[bool, typer.Option("--src-plain-http", help="So is the source.")] = False,
    plain_target: Annotated[bool, typer.Option("--dst-plain-http", help="So is the target.")] = False,
    ca_file: _CaFile = None,
    auth_file: _AuthFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Copy an image from one registry to another: all platforms, with its referrers, under the same digest.

    Only what the target lacks is sent, from connection to connection, without local disk; between repositories of
    one registry blobs are mounted. The tag is set last. Credentials are those of docker login.

    store:NAME:TAG is an image in the store of the configuration, whose registry may be serving.

    Example: moorage copy docker.io/library/alpine:3.20 registry.example/base/alpine:3.20
    """
    from moorage.cli.copied import run_until_sigterm

    places = _parse(source, "SRC"), _parse(target, "DST")
    _check_places(*places, all_tags=all_tags)
    platforms = _platforms(platform or ())
    settings = _load_settings(config) if any(not place.registry for place in places) else None
    if settings is None and config is not None:
        raise typer.BadParameter("it is used by store:NAME:TAG only", param_hint="--config")
    access = _Access(settings, plain_http or plain_source, plain_http or plain_target, ca_file, auth_file)
    work = _Work(*places, access, platforms, referrers=referrers, dry_run=dry_run, recheck=recheck)
    if all_tags:
        report = run_until_sigterm(work.copy_tags, quiet=quiet, resume=_RESUME)
        _finish_tags(report, dry_run=dry_run)
        return
    result = run_until_sigterm(work.copy_image, quiet=quiet, resume=_RESUME, hint=work.hint)
    _show_result(*places, result, dry_run=dry_run)


# --- the command line ------------------------------------------------------------------------------------------


def _parse(text: str, argument: str) -> _Place:
    """Parse SRC or DST; a mistake is one of the command line."""
    from moorage.errors import RegistryError
    from moorage.types import Digest, parse_repo_name, parse_tag
    from moorage.upstream.reference import ImageName, ReferenceInvalid

    try:
        if not text.startswith(_STORE):
            if "://" in text:
                scheme = text.partition("://")[0]
                rest = text.partition("://")[2]
                remedy = "with --plain-http" if scheme == "http" else "alone"
                raise typer.BadParameter(
                    f"{text!r}: an image name has no scheme; write {rest} {remedy}", param_hint=argument
                )
            found = ImageName.parse(text)
            return _Place(text, found.registry, found.name, found.tag, found.digest)
        rest, at, digest = text.removeprefix(_STORE).partition("@")
        name, colon, tag = rest.partition(":")
        return _Place(
            text,
            "",
            parse_repo_name(name),
            parse_tag(tag) if colon else None,
            Digest.parse(digest) if at else None,
        )
    except ReferenceInvalid as error:
        raise typer.BadParameter(str(error), param_hint=argument) from None
    except RegistryError as error:
        raise typer.BadParameter(f"{text!r} is not an image of the store: {error}", param_hint=argument) from None


def _check_places(source: _Place, target: _Place, *, all_tags: bool) -> None:
    if target.digest is not None:
        raise typer.BadParameter("a target is named by a tag: its digest is that of the source", param_hint="DST")
    if all_tags:
        for place, argument in ((source, "SRC"), (target, "DST")):
            if not place.is_whole_repository:
                raise typer.BadParameter("with --all-tags, it is a repository without a tag", param_hint=argument)
    same = (source.registry, source.name) == (target.registry, target.name)
    if same and (all_tags or (source.digest is None and _target_tag(source, target) == _source_tag(source))):
        raise typer.BadParameter("it is the same image as SRC", param_hint="DST")


def _source_tag(source: _Place) -> Tag:
    from moorage.types import Tag

    return source.tag or Tag("latest")


def _target_tag(source: _Place, target: _Place) -> Tag | None:
    """Return the tag that the image gets: the written one, else that of the source; None for a digest alone."""
    if target.tag is not None:
        return target.tag
    return source.tag if source.digest is not None else _source_tag(source)


def _platforms(texts: list[str] | tuple[str, ...]) -> tuple[ImagePlatform, ...]:
    from moorage.replication.platforms import ImagePlatform

    try:
        return tuple(map(ImagePlatform.parse, texts))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--platform") from None


def _load_settings(config: Path | None) -> Settings:
    from moorage.cli.problems import load_or_exit, require_data_directory

    settings = load_or_exit(config).settings
    if settings.storage.driver == "inmemory":
        typer.echo("error: storage.inmemory is the memory of one process; there is nothing to copy", err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    return settings


# --- the copy --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """The copy that the command line asks for."""

    source: _Place
    target: _Place
    access: _Access
    platforms: tuple[ImagePlatform, ...]
    referrers: bool
    dry_run: bool
    recheck: bool

    def hint(self, error: UpstreamError) -> str:
        """Return the option that helps where a registry cannot be reached or denies access."""
        if "plain HTTP" in str(error):
            return "--plain-http reaches it without TLS"
        if not isinstance(error, UpstreamDenied) or error.status is None:
            return ""
        login = f"docker login {error.registry}"
        if "configured for" in str(error):  # none are
            return f"log in with: {login}"
        return f"the password may be wrong, or the account not allowed to do this; another login: {login}"

    async def copy_image(self, meter: Meter) -> CopyResult:
        from contextlib import AsyncExitStack

        from moorage.cli.copied import MeterProgress
        from moorage.replication.images import copy_image
        from moorage.replication.requests import CopyRequest, ReplicationOptions

        reference: Reference = self.source.digest or _source_tag(self.source)
        async with AsyncExitStack() as stack:
            ends = await self._open(stack)
            request = CopyRequest(
                self.source.name,
                reference,
                self.target.name,
                _target_tag(self.source, self.target),
                platforms=self.platforms,
                referrers=self.referrers,
                mount=ends.same,
            )
            options = ReplicationOptions(dry_run=self.dry_run, recheck=self.recheck)
            return await copy_image(ends.source, ends.target, request, options, MeterProgress(meter))

    async def copy_tags(self, meter: Meter) -> SyncReport:
        from contextlib import AsyncExitStack

        from moorage.cli.copied import MeterProgress, report_row
        from moorage.patterns import Glob
        from moorage.replication.report import SyncReport, SyncRow
        from moorage.replication.requests import ReplicationOptions
        from moorage.replication.selection import RepositorySelection
        from moorage.replication.sync import SyncJob, SyncRun

        report = SyncReport()

        def done(row: SyncRow) -> None:
            report.add(row)
            report_row(row, every=True, as_json=False, dry_run=self.dry_run)

        selection = RepositorySelection(
            Glob.parse(self.source.name),
            platforms=self.platforms,
            referrers=self.referrers,
            target=self.target.name,
        )
        async with AsyncExitStack() as stack:
            ends = await self._open(stack)
            await SyncRun(
                SyncJob("copy", (selection,), target_registry=self.target.registry, mount=ends.same),
                ends.source,
                ends.target,
                done=done,
                options=ReplicationOptions(dry_run=self.dry_run, recheck=self.recheck),
                progress=MeterProgress(meter),
            ).run()
        return report

    async def _open(self, stack: AsyncExitStack) -> _Ends:
        from moorage.replication.local import LocalSource, LocalTarget
        from moorage.replication.remote import RemoteSource, RemoteTarget

        store: Registry | None = None
        if self.access.settings is not None:
            store = await self._open_store(stack, self.access.settings)
        source: ImageSource
        target: ImageTarget
        if self.source.registry:
            source = RemoteSource(await self._client(stack, self.source, plain_http=self.access.plain_source))
        else:
            assert store is not None, "a name of the store needs a configuration"
            source = LocalSource(store)
        if self.target.registry:
            client = await self._client(stack, self.target, plain_http=self.access.plain_target)
            target = RemoteTarget(client, denied_is_absent=not self.dry_run)
        else:
            assert store is not None, "a name of the store needs a configuration"
            target = LocalTarget(store)
        return _Ends(source, target, same=self.source.registry == self.target.registry)

    async def _open_store(self, stack: AsyncExitStack, settings: Settings) -> Registry:
        from moorage.wiring.replication import opened_registry
        from moorage.wiring.storage import opened_driver

        driver = await stack.enter_async_context(opened_driver(settings))
        return await stack.enter_async_context(opened_registry(settings, driver))

    async def _client(self, stack: AsyncExitStack, place: _Place, *, plain_http: bool) -> RegistryClient:
        from moorage.wiring.replication import make_docker_client

        client = make_docker_client(
            place.registry,
            plain_http=plain_http,
            ca_file=self.access.ca_file,
            auth_file=self.access.auth_file,
        )
        stack.push_async_callback(client.close)
        return client


# --- results ---------------------------------------------------------------------------------------------------


def _show_result(source: _Place, target: _Place, result: CopyResult, *, dry_run: bool) -> None:
    from moorage.cli.copied import describe_counts

    tag = _target_tag(source, target)
    place = f"{target.registry}/" if target.registry else _STORE
    where = f"{place}{target.name}{f':{tag}' if tag else f'@{result.digest}'}"
    if not (result.tagged or result.counts.changed):
        typer.echo(f"{where} is up to date: {result.digest}")
        return
    verb = "would copy" if dry_run else "copied"
    typer.echo(f"{verb} {source.text} to {where}: {describe_counts(result.counts)}")
    if result.before is not None and result.tagged:
        typer.echo(f"{'would replace' if dry_run else 'replaced'} {result.before}")
    typer.echo(str(result.digest))


def _finish_tags(report: SyncReport, *, dry_run: bool) -> None:
    from moorage.cli.copied import report_summary

    report_summary(report, as_json=False, dry_run=dry_run)
    raise typer.Exit(0 if report.is_complete else 1)
