"""Checks of `sync`: addresses, credentials, patterns that cannot match, names that are not valid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moorage.config.addresses import UNSPECIFIED, host_and_port, is_address
from moorage.config.checks.patterns import check_tag_selection, repository_problem
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.model import Settings
    from moorage.config.sections.http import Http
    from moorage.config.sections.sync import CopiedRepositories, RemoteRegistry, SyncJobSettings

__all__ = ["check_sync"]

_PLATFORM: Final = re.compile(r"[a-z0-9_.-]+/[a-z0-9_.-]+(?:/[a-z0-9_.-]+)?", re.ASCII)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TARGET: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*/?", re.ASCII)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check_sync(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of the section."""
    names: dict[str, int] = {}
    for index, job in enumerate(settings.sync.jobs):
        key = f"sync.jobs[{index}]"
        if job.name and names.setdefault(job.name, index) != index:
            message = f"is the name of sync.jobs[{names[job.name]}] as well; reports need different names"
            yield Problem(message, f"{key}.name")
        yield from _job(job, key, settings.http)
    yield from _without_effect(settings)


def _job(job: SyncJobSettings, key: str, http: Http) -> Iterator[Problem]:
    yield from _registry(job.source, f"{key}.source")
    if job.target is not None:
        yield from _registry(job.target, f"{key}.target")
    if job.target is None and job.source.registry and _is_this_registry(job.source.registry, http):
        message = (
            f"{job.source.registry} is the address of this registry, which would be copied to itself; name "
            "another source, or a target"
        )
        yield Problem(message, f"{key}.source.registry")
    for index, repositories in enumerate(job.repositories):
        yield from _repositories(repositories, f"{key}.repositories[{index}]")


def _registry(remote: RemoteRegistry, key: str) -> Iterator[Problem]:
    address = remote.registry
    if address and ("@" in address or not is_address(_with_scheme(remote), scheme=True)):
        message = f"expected a host with an optional port, such as registry.example:5000, found {address!r}"
        yield Problem(message, f"{key}.registry")
    elif address.startswith("http://") and not remote.plainhttp:
        yield Problem("sends passwords in clear text; set plainhttp if that is meant", f"{key}.registry")
    if remote.username and not remote.password:
        yield Problem("needs a password", f"{key}.username")
    if remote.password and not remote.username:
        yield Problem("needs a username", f"{key}.password")
    if remote.exec.command and remote.username:
        yield Problem("contradicts username and password; remove either", f"{key}.exec.command")
    if remote.plainhttp and remote.ca:
        yield Problem("has no effect with plainhttp", f"{key}.ca", kind="warning")


def _with_scheme(remote: RemoteRegistry) -> str:
    return remote.registry if "://" in remote.registry else f"https://{remote.registry}"


def _is_this_registry(address: str, http: Http) -> bool:
    host = address.partition("://")[2] or address
    if http.host and host == http.host.partition("://")[2].rstrip("/"):
        return True
    try:
        name, port = host_and_port(host)
        here, listening = host_and_port(http.addr)
    except ValueError:  # no port, or a Unix socket
        return False
    return port == listening and (name == here or (name in _LOOPBACK and here in UNSPECIFIED | _LOOPBACK))


def _repositories(repositories: CopiedRepositories, key: str) -> Iterator[Problem]:
    match, target = repositories.match, repositories.target
    if match and (problem := repository_problem(match)):
        yield Problem(f"{problem}, found {match!r}", f"{key}.match")
    yield from check_tag_selection(repositories.tags, f"{key}.tags")
    for index, text in enumerate(repositories.platforms):
        if _PLATFORM.fullmatch(text) is None:
            message = f"expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64, found {text!r}"
            yield Problem(message, f"{key}.platforms[{index}]")
    if target and _TARGET.fullmatch(target) is None:
        message = f"expected a name of a repository, or a prefix such as mirror/, in lower case, found {target!r}"
        yield Problem(message, f"{key}.target")
    elif target and not target.endswith("/") and "*" in match:
        message = f"every repository that matches {match} would be copied to {target}; as a prefix it is {target}/"
        yield Problem(message, f"{key}.target")


def _without_effect(settings: Settings) -> Iterator[Problem]:
    sync = settings.sync
    if not sync.enabled:
        return
    if not sync.jobs:
        yield Problem("has no effect: there is no job in sync.jobs", "sync.enabled", kind="warning")
    if settings.storage.driver == "inmemory":
        yield Problem("has no effect with storage.inmemory", "sync.enabled", kind="warning")
    if settings.storage.maintenance.readonly.enabled:
        message = "copies nothing to this registry while storage.maintenance.readonly is enabled"
        yield Problem(message, "sync.enabled", kind="warning")
