"""The configuration of an existing deployment: its problems as advice, and what is kept of it.

Above: `cli/migrate.py`.  Below: `config/load.py`, which finds the problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.config.source import BUILT_IN, PLACES
from moorage.migration.advice import Advice, Group

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moorage.config.load import Examined
    from moorage.config.model import Settings
    from moorage.config.problems import Problem

__all__ = ["files_of", "of_files", "of_problems", "of_settings"]

_WITHOUT_EFFECT: Final = ("has no effect", "counts as off", "ignored", "is not a setting")
_PASSWORD_FILE: Final = "auth.htpasswd.path"  # noqa: S105  a key


def of_problems(problems: Iterable[Problem]) -> Iterator[Advice]:
    """Yield one advice for each problem that `config check` reports."""
    for problem in problems:
        where = ": ".join(part for part in (str(problem.origin), problem.key) if part) or "configuration"
        hint = f" (did you mean {problem.nearest}?)" if problem.nearest else ""
        if problem.kind == "fault" and problem.key == _PASSWORD_FILE:
            text = f"{problem.message}; Debian's docker-registry is configured so, and lets no client in either"
            yield Advice(Group.TO_DO, "password-file-directory", where, text, "or write auth: none")
            continue
        if problem.kind == "warning" and problem.message.startswith("not read: "):
            text = f"{problem.message}; registry:2 reads {PLACES[0]}, registry:3 {PLACES[1]}"
            remedy = "remove the file that is not meant, or name the other in the command: moorage serve FILE"
            yield Advice(Group.CHANGED, "two-configuration-files", where, text, remedy)
            continue
        group, kind = _GROUPS[problem.kind]
        if problem.kind == "warning" and problem.message.startswith(_WITHOUT_EFFECT):
            group, kind = Group.IGNORED, "without-effect"
        yield Advice(group, kind, where, f"{problem.message}{hint}")


_GROUPS: Final = {
    "error": (Group.REFUSED, "configuration"),
    "fault": (Group.TO_DO, "configuration"),
    "unknown": (Group.IGNORED, "unknown-key"),
    "warning": (Group.CHANGED, "configuration"),
}


def of_files(examined: Examined) -> Iterator[Advice]:
    """Yield which configuration file is read; `of_problems` has the other one, where there are two."""
    if examined.path is not None:
        text = "is read as it is, with variables applied"
        yield Advice(Group.KEPT, "configuration-file", str(examined.path), text)
        return
    yield Advice(
        Group.TO_DO,
        "no-configuration",
        BUILT_IN,
        f"there is no configuration file at {' or '.join(map(str, PLACES))}, and none was named",
        "name the file of the old registry: moorage migrate check FILE",
    )


def of_settings(examined: Examined, environ: Mapping[str, str]) -> Iterator[Advice]:
    """Yield the settings that mean the same as in CNCF Distribution."""
    settings = examined.settings
    storage, http = settings.storage, settings.http
    reported = {problem.origin.source for problem in examined.problems}
    applied = sorted(name for name in environ if name.startswith("REGISTRY_") and name not in reported)
    if applied:
        yield Advice(Group.KEPT, "variables", ", ".join(applied), "apply to the file, as before")
    if storage.filesystem is not None:
        text = "is served in place, in the same layout; nothing is converted"
        yield Advice(
            Group.KEPT, "store", f"storage.filesystem.rootdirectory {storage.filesystem.rootdirectory}", text
        )
    elif storage.driver in {"s3", "gcs", "azure"}:
        section = getattr(storage, storage.driver)
        place = getattr(section, "bucket", "") or getattr(section, "container", "")
        text = "is served in place, under the same keys; nothing is converted"
        yield Advice(Group.KEPT, "store", f"storage.{storage.driver} {place}", text)
    elif storage.inmemory is not None:
        yield Advice(Group.KEPT, "store", "storage.inmemory", "lives in the memory of the process, as before")
    if http.addr:
        yield Advice(Group.KEPT, "address", f"http.addr {http.addr}", "is listened on")
    yield from _access(settings)
    if storage.cache.blobdescriptor == "redis":
        text = "may be shared with the old registry while both run; only sizes of blobs are read from it"
        yield Advice(Group.KEPT, "redis", "storage.cache.blobdescriptor redis", text)
    if storage.maintenance.readonly.enabled:
        yield Advice(Group.KEPT, "read-only", "storage.maintenance.readonly", "every write is refused, as before")


def _access(settings: Settings) -> Iterator[Advice]:
    auth, http = settings.auth, settings.http
    if auth.htpasswd is not None and not Path(auth.htpasswd.path).is_dir():
        text = "the bcrypt entries of the password file are valid as they are; others match no password, as before"
        yield Advice(Group.KEPT, "authentication", "auth.htpasswd", text)
    if auth.token is not None:
        text = "tokens of servers for 2.8 (libtrust key ids) and for 3 (RFC 7638 thumbprints) are valid"
        yield Advice(Group.KEPT, "authentication", "auth.token", text)
    if auth.silly is not None:
        yield Advice(
            Group.KEPT,
            "authentication",
            "auth.silly",
            "accepts every client that sends any Authorization header, as before; it protects nothing",
            "configure auth.htpasswd, auth.token or auth.local",
        )
    if http.tls.certificate:
        text = "certificate and key are used as they are; a renewed pair is read without a restart"
        yield Advice(Group.KEPT, "tls", "http.tls", text)
    if http.tls.letsencrypt.cachefile:
        text = "account and certificates of version 3 are used from the directory, and version 3 can use it again"
        yield Advice(Group.KEPT, "tls", "http.tls.letsencrypt", text)


def files_of(examined: Examined) -> list[tuple[str, str]]:
    """Return key and path of each file that the service reads besides its data; a directory is none."""
    settings = examined.settings
    tls, auth, storage = settings.http.tls, settings.auth, settings.storage
    found = [("configuration", str(examined.path or ""))]
    found += [("http.tls.certificate", tls.certificate), ("http.tls.key", tls.key)]
    found += [(f"http.tls.clientcas[{index}]", path) for index, path in enumerate(tls.clientcas)]
    if auth.htpasswd is not None:
        found.append((_PASSWORD_FILE, auth.htpasswd.path))
    if auth.token is not None:
        found += [("auth.token.rootcertbundle", auth.token.rootcertbundle), ("auth.token.jwks", auth.token.jwks)]
    if auth.local is not None:
        found += [("auth.local.policy", auth.local.policy), ("auth.local.users", auth.local.users)]
    if storage.gcs is not None:
        found.append(("storage.gcs.keyfile", storage.gcs.keyfile))
    if settings.redis is not None:
        redis = settings.redis.tls
        found += [("redis.tls.certificate", redis.certificate), ("redis.tls.key", redis.key)]
        found += [(f"redis.tls.rootcas[{index}]", path) for index, path in enumerate(redis.rootcas)]
    for index, entry in enumerate(settings.middleware.storage):
        key = entry.options.get("privatekey")
        if isinstance(key, str) and not entry.disabled:
            found.append((f"middleware.storage[{index}].options.privatekey", key))
    return [(key, path) for key, path in found if path and not Path(path).is_dir()]
