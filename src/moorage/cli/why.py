"""`moorage why`: what keeps a manifest or blob, or what has removed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.gc.why import DigestExplanation, KeepReason, RepositoryExplanation
    from moorage.registry.history import TagEvent
    from moorage.storage.driver import Driver
    from moorage.types import Digest, Reference, RepoName

__all__ = ["why"]


def why(
    config: Config = None,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE|DIGEST", help="team/app:v1, team/app@sha256:..., or sha256:...")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Explain what keeps content, or what removed it.

    For a tag or a manifest or blob of a repository, that repository is read; for a digest alone, the whole store.
    Exit status 0 if something keeps it; 1 if nothing does: the next garbage collection removes it, or it is gone.

    Example: moorage why /etc/docker/registry/config.yml team/app:v1
    """
    import json

    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.cli.progress import run_with_progress

    settings = load_or_exit(config).settings
    name, wanted = _parsed(reference)
    if settings.storage.driver == "inmemory":
        typer.echo("storage.inmemory is the memory of one process; there is nothing to read", err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    answer = run_with_progress(
        lambda meter: _explain(settings, name, wanted, meter), quiet=quiet, interrupted="nothing was changed"
    )
    if as_json:
        typer.echo(json.dumps(answer.as_json(reference)))
    else:
        for line in answer.lines(reference):
            typer.echo(line)
    raise typer.Exit(0 if answer.kept else 1)


def _parsed(text: str) -> tuple[RepoName | None, Reference]:
    """Return the repository, None for a digest alone, and the tag or digest.  Exits with 2 for another text."""
    from moorage.errors import RegistryError
    from moorage.types import Digest, parse_repo_name, parse_tag

    try:
        name, at, digest = text.rpartition("@")
        if at:
            return parse_repo_name(name), Digest.parse(digest)
        name, _, tag = text.rpartition(":")
        if "/" not in tag and name in {"sha256", "sha512"}:
            return None, Digest.parse(text)
        return parse_repo_name(name), parse_tag(tag)
    except RegistryError:
        typer.echo(f"expected team/app:TAG, team/app@DIGEST or a digest, found {text!r}", err=True)
        raise typer.Exit(2) from None


async def _explain(settings: Settings, name: RepoName | None, wanted: Reference, meter: Meter) -> _Answer:
    from datetime import UTC, datetime

    from moorage.gc.why import explain_digest, explain_in
    from moorage.registry.erase import audit_records
    from moorage.types import Digest
    from moorage.wiring.garbage_collection import collection_options
    from moorage.wiring.protection import make_holds
    from moorage.wiring.storage import opened_driver

    options, legal, now = collection_options(settings), make_holds(settings), datetime.now(UTC)

    def holds(name: RepoName) -> bool:
        return bool(legal.of(name))

    def progress(done: int, total: int) -> None:
        meter.describe(f"{done} of {total} repositories" if total else f"{done} repositories")

    async with opened_driver(settings) as driver:
        answer = _Answer()
        digest = wanted if isinstance(wanted, Digest) else None
        if name is not None and not isinstance(wanted, Digest):
            digest = await _tag(driver, name, wanted, answer)
        meter.begin("reading", None)
        if name is None and digest is not None:
            answer.everywhere = await explain_digest(
                driver, digest, options, now=now, holds=holds, progress=progress
            )
            answer.repositories = list(answer.everywhere.repositories)
        elif name is not None and digest is not None:
            answer.repositories = [await explain_in(driver, name, digest, options, now=now, holds=holds)]
        if digest is not None:
            answer.digest = digest
            answer.erased = await audit_records(driver, digest)
    return answer


async def _tag(driver: Driver, name: RepoName, tag: Any, answer: _Answer) -> Digest | None:
    """Return the manifest that a tag names or has named last, and note the history of the tag."""
    from moorage.registry import layout
    from moorage.registry.tags import NOWHERE, TagStore
    from moorage.registry.timeline import tag_timeline
    from moorage.registry.trash import Trash

    answer.history = await tag_timeline(driver, name, tag)
    digest = await TagStore(driver).resolve(name, tag)
    if digest is not None and digest != NOWHERE:
        return digest
    answer.no_tag = True
    last = next((event.digest for event in reversed(answer.history) if event.digest is not None), None)
    if last is not None:
        return last
    trash = Trash(driver, keep_s=0)  # also records that can no longer be restored
    deleted = [entry async for page in trash.entries(name, under=layout.trashed_tag(name, tag)) for entry in page]
    return max(deleted, key=lambda entry: entry.at).digest if deleted else None


@dataclass(slots=True)
class _Answer:
    """Everything that is known of the content.  `no_tag`: the tag is not there; `digest` is what it named last."""

    digest: Digest | None = None
    repositories: list[RepositoryExplanation] | tuple[()] = ()
    everywhere: DigestExplanation | None = None
    history: Sequence[TagEvent] = ()
    no_tag: bool = False
    erased: Sequence[dict[str, Any]] = ()

    @property
    def kept(self) -> bool:
        if self.everywhere is not None:
            return self.everywhere.kept
        return any(each.keeps for each in self.repositories)

    def lines(self, reference: str) -> Iterator[str]:
        """Yield the explanation for people."""
        yield f"{reference}: {'not there' if self.no_tag else self.digest}"
        if self.no_tag and self.digest is not None:
            yield f"  named last: {self.digest}"
        for event in reversed(self.history[-10:]):
            what = "deleted" if event.digest is None else f"set to {event.digest}"
            yield f"  {_time(event.at)}: {what}{_by(event.by, event.reason)}"
        for each in self.repositories:
            yield from _repository_lines(each)
        if self.everywhere is not None:
            yield from _byte_lines(self.everywhere)
        for record in self.erased:
            yield f"erased {record.get('at', '')}{_by(str(record.get('by', '')), str(record.get('what', '')))}"
        if not self.kept:
            there = self.everywhere is None or self.everywhere.stat is not None
            linked = any(each.has_manifest or each.has_layer for each in self.repositories)
            if self.digest is not None and there and (linked or self.everywhere is not None):
                yield "nothing keeps it: the next garbage collection removes it"
            else:
                yield "nothing keeps it, and it is not there"

    def as_json(self, reference: str) -> dict[str, Any]:
        """Return the explanation for programs."""
        return {
            "reference": reference,
            "digest": None if self.digest is None else str(self.digest),
            "tag_exists": None if not self.history and not self.no_tag else not self.no_tag,
            "kept": self.kept,
            "repositories": [
                {
                    "repository": each.name,
                    "has_manifest": each.has_manifest,
                    "has_layer": each.has_layer,
                    "manifest_kept_by": list(map(_reason_json, each.manifest)),
                    "layer_kept_by": list(map(_reason_json, each.layer)),
                    "deleted": [
                        {"kind": entry.kind, "at": entry.at.isoformat(), "by": entry.by, "reason": entry.reason}
                        for entry in each.deleted
                    ],
                }
                for each in self.repositories
            ],
            "bytes": _bytes_json(self.everywhere),
            "history": [
                {
                    "at": event.at.isoformat(),
                    "digest": None if event.digest is None else str(event.digest),
                    "by": event.by,
                    "reason": event.reason,
                }
                for event in self.history
            ],
            "erased": list(self.erased),
        }


def _repository_lines(each: RepositoryExplanation) -> Iterator[str]:
    yield f"{each.name}:"
    for kind, linked, reasons in (
        ("manifest", each.has_manifest, each.manifest),
        ("layer", each.has_layer, each.layer),
    ):
        for reason in reasons:
            yield f"  {kind}{':' if ' ' in reason.kind else ' kept by'} {_reason(reason)}"
        if linked and not reasons:
            yield f"  {kind}: nothing keeps it in this repository"
    for entry in each.deleted:
        yield f"  deleted {_time(entry.at)} ({entry.kind}){_by(entry.by, entry.reason)}"


def _byte_lines(found: DigestExplanation) -> Iterator[str]:
    from moorage.cli.progress import format_bytes

    if found.stat is None:
        yield "bytes: not in the store"
        return
    yield f"bytes: {format_bytes(found.stat.size)}, written {_time(found.stat.modified)}"
    if found.young_until is not None:
        yield f"  kept by young until {_time(found.young_until)}"


def _reason(reason: KeepReason) -> str:
    text = reason.kind
    if reason.tag:
        text += f" {reason.tag}"
    if reason.by is not None:
        text += f" {reason.by}"
    return text if reason.until is None else f"{text} until {_time(reason.until)}"


def _reason_json(reason: KeepReason) -> dict[str, Any]:
    return {
        "kind": reason.kind,
        "tag": reason.tag or None,
        "by": None if reason.by is None else str(reason.by),
        "until": None if reason.until is None else reason.until.isoformat(),
    }


def _bytes_json(found: DigestExplanation | None) -> dict[str, Any] | None:
    if found is None or found.stat is None:
        return None
    young = found.young_until
    return {
        "size": found.stat.size,
        "written": found.stat.modified.isoformat(),
        "young_until": None if young is None else young.isoformat(),
    }


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _by(user: str, reason: str) -> str:
    return (f" by {user}" if user else "") + (f": {reason}" if reason else "")
