"""Settings that mean something else here, or have another default, than in CNCF Distribution 2.8 or 3.x.

Each rule takes the settings and the environment and yields what differs for this deployment.  Differences that
concern every deployment are listed in docs/migrating/index.md; the most visible ones are repeated here.

Source: registry/ of CNCF Distribution 2.8.3 and 3.1.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.migration.advice import Advice, Group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moorage.config.model import Settings

__all__ = ["differences"]


def differences(settings: Settings, environ: Mapping[str, str]) -> Iterator[Advice]:
    """Yield what behaves differently for these settings."""
    for rule in _RULES:
        yield from rule(settings, environ)


def _changed(kind: str, subject: str, text: str, remedy: str = "") -> Advice:
    return Advice(Group.CHANGED, kind, subject, text, remedy)


def _processes(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    if settings.http.workers is None and settings.storage.inmemory is None:
        text = "2.8 and 3 are one process; Moorage starts one per CPU core, at most 8"
        yield _changed("workers", "http.workers", text, "set http.workers where memory is scarce")


def _uploads(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    if settings.http.secret:
        text = "is shared with the old registry: uploads in progress continue after the switch, in both directions"
        yield Advice(Group.KEPT, "secret", "http.secret", text)
        return
    yield _changed(
        "secret",
        "http.secret",
        "is not set, so it is random at every start: clients must begin uploads in progress again, as after a "
        "restart of the old registry; several nodes need the same one",
        "set it on the old registry first (openssl rand -hex 32) where uploads must survive the switch",
    )


def _deletion(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    if not settings.storage.delete.enabled:
        text = "deletion is off: 405, for tags as well; 3.0.0 to 3.1.0 deleted tags all the same"
        yield _changed("deletion", "storage.delete.enabled", text, "set it to true where clients delete tags")
        return
    text = "single tags can be deleted (2.8: 405); a deletion by digest removes every tag of the manifest"
    yield _changed("deletion", "storage.delete.enabled", text)
    if settings.storage.driver in {"s3", "gcs", "azure"}:
        text = "a deletion by digest in a bucket is answered after two seconds"
        yield _changed("deletion-delay", "storage.cache.links", text, "set it to 0 for scripts that delete a lot")


def _collector(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    if settings.storage.inmemory is None:
        yield _changed(
            "garbage-collection",
            "registry garbage-collect",
            "runs beside the serving registry, keeps a day of grace and what can be restored, and waits ten "
            "minutes before it removes; signatures and children of sparse indexes stay with their image",
            "set storage.maintenance.garbagecollection.foreignwriters while another registry writes to the same "
            "store: runs then only report",
        )


def _manifests(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    text = "are refused when pushed and not served when stored, as in 3"
    yield _changed(
        "schema-1", "manifests of schema 1", text, "push such images again with a Docker of 2017 or later"
    )
    urls = settings.validation.manifests.urls
    if not settings.validation.disabled and not urls.allow and not urls.deny:
        text = (
            "without allow or deny, layers with foreign URLs are accepted; CNCF Distribution refuses all of them"
        )
        yield _changed("foreign-urls", "validation.manifests.urls", text, "list what is allowed in allow")


def _artifacts(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    if settings.storage.inmemory is None:
        yield _changed(
            "referrers",
            "/v2/NAME/referrers/DIGEST",
            "is answered: clients use it instead of fallback tags; artifacts stored before are not indexed yet",
            "run `moorage storage rebuild-referrers CONFIG` once, also beside a running registry",
        )


def _debug(settings: Settings, environ: Mapping[str, str]) -> Iterator[Advice]:
    if settings.http.debug.addr:
        text = "/debug/pprof and /debug/vars are not offered; /debug/health and the metrics are"
        yield _changed("debug", f"http.debug.addr {settings.http.debug.addr}", text)
    exports = sorted(name for name in environ if name.startswith("OTEL_EXPORTER_OTLP"))
    if exports and "OTEL_TRACES_EXPORTER" not in environ:
        text = "3 sends traces unless OTEL_TRACES_EXPORTER is none; Moorage sends none unless it is otlp"
        yield _changed("traces", exports[0], text, "set OTEL_TRACES_EXPORTER=otlp")


def _buckets(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    s3, gcs, azure = settings.storage.s3, settings.storage.gcs, settings.storage.azure
    if s3 is not None and s3.regionendpoint and s3.forcepathstyle is None:
        text = "with regionendpoint the bucket is in the path of URLs, as in 2.8; 3 puts it into the host name"
        yield _changed("path-style", "storage.s3.forcepathstyle", text, "write false for 3's behaviour")
    if gcs is not None and not gcs.keyfile and not gcs.credentials and not settings.storage.redirect.disable:
        text = (
            "without a key, blobs pass through the registry where Google grants no signatures; 3 answers 500 then"
        )
        yield _changed("redirects", "storage.gcs", text)
    if azure is not None:
        if not azure.credentials.type:
            text = "is shared_key where accountkey is given, as in 2.8; 3 refuses to start without a type"
            yield _changed("azure-credentials", "storage.azure.credentials.type", text)
        text = "must exist; 2.8 creates a missing one"
        yield _changed("azure-container", f"storage.azure.container {azure.container}", text)
    if s3 is not None or gcs is not None or azure is not None:
        text = "an upload that the old registry began is continued here; one begun here is unknown to the old one"
        yield _changed("uploads-in-buckets", f"storage.{settings.storage.driver}", text)


def _middleware(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    for index, entry in enumerate(settings.middleware.storage):
        key = f"middleware.storage[{index}]"
        if entry.disabled:
            text = f"{entry.name} is left out; CNCF Distribution applies entries with disabled: true all the same"
            yield _changed("middleware-disabled", key, text, "remove disabled where the entry is in use today")
        elif entry.name == "redirect":
            text = "the path of baseurl is kept, as in 3; 2.8 drops it"
            yield _changed("middleware-redirect", key, text)


def _notifications(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    for index, endpoint in enumerate(settings.notifications.endpoints):
        if endpoint.disabled:
            text = "is disabled, and stays so: notifications are not available in this version"
            yield Advice(Group.IGNORED, "notifications", f"notifications.endpoints[{index}]", text)
    if settings.notifications.events.includereferences:
        text = "has no effect: notifications are not available in this version"
        yield Advice(Group.IGNORED, "notifications", "notifications.events.includereferences", text)


def _encryption(settings: Settings, _: Mapping[str, str]) -> Iterator[Advice]:
    acme = settings.http.tls.letsencrypt
    if acme.cachefile and len(acme.hosts) > 1:
        text = "one certificate names all hosts; 3 obtains one for each"
        yield _changed("certificates", "http.tls.letsencrypt.hosts", text)
    for enabled, key in (
        (settings.http.h2c.enabled, "http.h2c.enabled"),
        (settings.http.tls.enabled, "http.http2"),
    ):
        if enabled:
            text = "HTTP/1.1 is served, to which all clients fall back; a proxy adds HTTP/2"
            yield _changed("http2", key, text)


def _listing(_: Settings, __: Mapping[str, str]) -> Iterator[Advice]:
    text = "lists tags in byte order, and only those that can be pulled; n and last are honoured (2.8 ignores n)"
    yield _changed("tag-lists", "/v2/NAME/tags/list", text)


_RULES: Final[tuple[Callable[[Settings, Mapping[str, str]], Iterator[Advice]], ...]] = (
    _processes,
    _uploads,
    _deletion,
    _collector,
    _manifests,
    _artifacts,
    _listing,
    _debug,
    _buckets,
    _middleware,
    _notifications,
    _encryption,
)
