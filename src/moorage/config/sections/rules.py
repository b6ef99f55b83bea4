"""Sections `health`, `catalog`, `tags`, `validation`, `policy`, and two of 2.8 without effect."""

from collections.abc import Mapping
from typing import Annotated, Literal

from moorage.config.sections.base import (
    Flag,
    PathText,
    Section,
    Span,
    Text,
    Whole,
    at_least,
    duration_or,
    one_of,
    positive_or,
    setting,
)

__all__ = [
    "Bugsnag",
    "Catalog",
    "Compatibility",
    "FileCheck",
    "Health",
    "HttpCheck",
    "Indexes",
    "ManifestRules",
    "NewRelic",
    "Platform",
    "Policy",
    "Reporting",
    "Repository",
    "Schema1",
    "StorageCheck",
    "TagListing",
    "TcpCheck",
    "Urls",
    "Validation",
    "WriteProbe",
]

_INTERVAL = "Time between two checks."
_TIMEOUT = "Time limit of a check; 0: none."
_THRESHOLD = "Consecutive failures that make the registry unhealthy; 0 counts as 1."


class StorageCheck(Section):
    """Check of the storage driver."""

    enabled: Flag = setting(False, "Check the storage.")
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(0, _THRESHOLD)


class WriteProbe(Section):
    """Periodic write to the data directory."""

    disabled: Flag = setting(
        False,
        "Disable the check; a directory that is not writable is then detected by the first push.",
        own=True,
    )
    interval: Annotated[float, duration_or(60.0)] = setting(
        60.0,
        "Time between two writes; a tenth of it, at most 5 seconds, after a failure.",
        unit="duration",
        own=True,
    )


class FileCheck(Section):
    """Unhealthy while a file exists."""

    file: PathText = setting("", "Path of the file.", required=True)
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(
        0, "Has no effect: a file makes the registry unhealthy at once."
    )


class HttpCheck(Section):
    """Unhealthy while the response to HEAD has another status than expected."""

    uri: Text = setting("", "URL of the request.", required=True)
    headers: Mapping[str, tuple[Text, ...]] = setting(dict, "Additional request headers.", secret=True)
    statuscode: Whole = setting(200, "Expected status.")
    timeout: Span = setting(0.0, _TIMEOUT, unit="duration")
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(0, _THRESHOLD)


class TcpCheck(Section):
    """Unhealthy while a connection fails."""

    addr: Text = setting("", "`host:port` to connect to.", required=True)
    timeout: Span = setting(0.0, _TIMEOUT, unit="duration")
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(0, _THRESHOLD)


class Health(Section):
    """Health checks: while one fails, requests are answered 503."""

    storagedriver: StorageCheck = setting(StorageCheck, "Check of the storage driver.")
    writeprobe: WriteProbe = setting(
        WriteProbe, "Check that the data directory is writable; for `storage.filesystem`."
    )
    file: tuple[FileCheck, ...] = setting((), "Unhealthy while a file exists.", variable="FILECHECKERS")
    http: tuple[HttpCheck, ...] = setting((), "Unhealthy while a URL returns another status than expected.",
                                          variable="HTTPCHECKERS")  # fmt: skip
    tcp: tuple[TcpCheck, ...] = setting((), "Unhealthy while a connection fails.", variable="TCPCHECKERS")


class Catalog(Section):
    """`/v2/_catalog`."""

    maxentries: Annotated[int, positive_or(1000)] = setting(
        1000, "Repositories per page; 0 or less counts as 1000."
    )


class TagListing(Section):
    """`/v2/NAME/tags/list`."""

    maxtags: Annotated[int, at_least(0)] = setting(1000, "Tags per page, for requests with `n`.")


class Urls(Section):
    """URLs in the layers of a manifest; without both lists no URL is allowed."""

    allow: tuple[Text, ...] = setting((), "Regular expressions; every URL must match one.")
    deny: tuple[Text, ...] = setting((), "Regular expressions; no URL may match one.")


class Platform(Section):
    """Platform of an image."""

    architecture: Text = setting("", "Architecture, such as `amd64`.")
    os: Text = setting("", "Operating system, such as `linux`.")


class Indexes(Section):
    """Images of an index that must exist when it is pushed."""

    platforms: Annotated[Literal["all", "none", "list"], one_of("all", "none", "list", fold=True, empty="all")] = (
        setting("all", "Images that must exist: `all`, `none`, or those of `platformlist`.")
    )
    platformlist: tuple[Platform, ...] = setting((), "Platforms for `platforms: list`.")


class ManifestRules(Section):
    """Rules for manifests."""

    urls: Urls = setting(Urls, "URLs in layers.")
    indexes: Indexes = setting(Indexes, "Images of an index.")
    layers: Annotated[Literal["all", "none"], one_of("all", "none", fold=True, empty="all")] = setting(
        "all",
        "Configs and layers that must exist: `all` or `none`. With `none`, also if `disabled` is set, a manifest "
        "is accepted without them; a pull of an absent one is answered 404.",
        own=True,
    )


class Validation(Section):
    """Validation of pushed manifests."""

    disabled: Flag = setting(False, "Disable the rules of `manifests`.")
    enabled: Flag = setting(False, "Deprecated; true is `disabled: false`.", instead="validation.disabled")
    manifests: ManifestRules = setting(ManifestRules, "Rules for manifests.")


class Repository(Section):
    """Content of repositories."""

    classes: tuple[Text, ...] = setting((), "Accepted classes of content: `image`, `plugin`.", shown="all")


class Policy(Section):
    """Repository policy."""

    repository: Repository = setting(Repository, "Content of repositories.")


class Bugsnag(Section):
    """Reporting service of 2.8."""

    apikey: Text = setting("", "Not used.", secret=True)
    releasestage: Text = setting("", "Not used.")
    endpoint: Text = setting("", "Not used.")


class NewRelic(Section):
    """Reporting service of 2.8."""

    licensekey: Text = setting("", "Not used.", secret=True)
    name: Text = setting("", "Not used.")
    verbose: Flag = setting(False, "Not used.")


class Reporting(Section):
    """Error reporting of 2.8: has no effect, with a warning."""

    bugsnag: Bugsnag = setting(Bugsnag, "Not used.")
    newrelic: NewRelic = setting(NewRelic, "Not used.")


class Schema1(Section):
    """Image manifests of schema 1."""

    enabled: Flag = setting(False, "Not used; such manifests are refused.")
    signingkeyfile: Text = setting("", "Not used.", variable="TRUSTKEY")


class Compatibility(Section):
    """Legacy formats of 2.8: has no effect, with a warning."""

    schema1: Schema1 = setting(Schema1, "Image manifests of schema 1.")
