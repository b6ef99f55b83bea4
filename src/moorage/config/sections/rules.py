"""The small sections: `health`, `catalog`, `tags`, `validation`, `policy`, and two that are history."""

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
    "Manifests",
    "NewRelic",
    "Platform",
    "Policy",
    "Reporting",
    "Repository",
    "Schema1",
    "StorageCheck",
    "Tags",
    "TcpCheck",
    "Urls",
    "Validation",
    "WriteProbe",
]

_INTERVAL = "Time between two checks."
_TIMEOUT = "Longest time for one check; 0: no limit."
_THRESHOLD = "Failures in a row that make the registry unhealthy; 0 is 1."


class StorageCheck(Section):
    """Look at the storage."""

    enabled: Flag = setting(False, "Check the storage.")
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(0, _THRESHOLD)


class WriteProbe(Section):
    """Write a small file to the data directory now and then."""

    disabled: Flag = setting(
        False,
        "Never write one; a directory that cannot be written to is then noticed by the first push.",
        ours=True,
    )
    interval: Annotated[float, duration_or(60.0)] = setting(
        60.0,
        "Time between two files; a tenth of it, 5 seconds at most, after a failure.",
        unit="duration",
        ours=True,
    )


class FileCheck(Section):
    """Unhealthy while a file exists."""

    file: PathText = setting("", "The file.", required=True)
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(
        0, "Taken for the reference's sake; a file makes the registry unhealthy at once."
    )


class HttpCheck(Section):
    """Unhealthy while a HEAD request is answered otherwise than expected."""

    uri: Text = setting("", "The address asked.", required=True)
    headers: Mapping[str, tuple[Text, ...]] = setting(dict, "Headers sent along.", secret=True)
    statuscode: Whole = setting(200, "The status expected.")
    timeout: Span = setting(0.0, _TIMEOUT, unit="duration")
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(0, _THRESHOLD)


class TcpCheck(Section):
    """Unhealthy while a connection fails."""

    addr: Text = setting("", "`host:port` connected to.", required=True)
    timeout: Span = setting(0.0, _TIMEOUT, unit="duration")
    interval: Annotated[float, duration_or(10.0)] = setting(10.0, _INTERVAL, unit="duration")
    threshold: Annotated[int, at_least(0)] = setting(0, _THRESHOLD)


class Health(Section):
    """What makes the registry unhealthy."""

    storagedriver: StorageCheck = setting(StorageCheck, "Look at the storage.")
    writeprobe: WriteProbe = setting(
        WriteProbe, "Check that the data directory can be written to; for `storage.filesystem`."
    )
    file: tuple[FileCheck, ...] = setting((), "Unhealthy while a file exists.", variable="FILECHECKERS")
    http: tuple[HttpCheck, ...] = setting((), "Unhealthy while an address answers otherwise.",
                                          variable="HTTPCHECKERS")  # fmt: skip
    tcp: tuple[TcpCheck, ...] = setting((), "Unhealthy while a connection fails.", variable="TCPCHECKERS")


class Catalog(Section):
    """`/v2/_catalog`."""

    maxentries: Annotated[int, positive_or(1000)] = setting(
        1000, "Most repositories in one answer; 0 or less is 1000."
    )


class Tags(Section):
    """`/v2/NAME/tags/list`."""

    maxtags: Annotated[int, at_least(0)] = setting(1000, "Most tags in an answer to a request that says `n`.")


class Urls(Section):
    """Addresses in the layers of a manifest; with neither list, no address is allowed."""

    allow: tuple[Text, ...] = setting((), "Regular expressions, one of which every address must match.")
    deny: tuple[Text, ...] = setting((), "Regular expressions that no address may match.")


class Platform(Section):
    """A platform."""

    architecture: Text = setting("", "Architecture, such as `amd64`.")
    os: Text = setting("", "Operating system, such as `linux`.")


class Indexes(Section):
    """Which images of an index must be here when it is pushed."""

    platforms: Annotated[Literal["all", "none", "list"], one_of("all", "none", "list", fold=True, empty="all")] = (
        setting("all", "Images that must be here: `all`, `none`, or those of `platformlist`.")
    )
    platformlist: tuple[Platform, ...] = setting((), "Platforms for `platforms: list`.")


class Manifests(Section):
    """What a manifest may hold."""

    urls: Urls = setting(Urls, "Addresses in layers.")
    indexes: Indexes = setting(Indexes, "Images of an index.")


class Validation(Section):
    """Checks of pushed manifests."""

    disabled: Flag = setting(False, "Leave the checks of `manifests` out.")
    enabled: Flag = setting(False, "Deprecated; true is `disabled: false`.", instead="validation.disabled")
    manifests: Manifests = setting(Manifests, "What a manifest may hold.")


class Repository(Section):
    """What a repository may hold."""

    classes: tuple[Text, ...] = setting((), "Classes of content taken: `image`, `plugin`.", shown="all")


class Policy(Section):
    """Rules for repositories."""

    repository: Repository = setting(Repository, "What a repository may hold.")


class Bugsnag(Section):
    """A service of 2.8."""

    apikey: Text = setting("", "Not used.", secret=True)
    releasestage: Text = setting("", "Not used.")
    endpoint: Text = setting("", "Not used.")


class NewRelic(Section):
    """A service of 2.8."""

    licensekey: Text = setting("", "Not used.", secret=True)
    name: Text = setting("", "Not used.")
    verbose: Flag = setting(False, "Not used.")


class Reporting(Section):
    """Error reporting of 2.8; read, warned about, not used."""

    bugsnag: Bugsnag = setting(Bugsnag, "Not used.")
    newrelic: NewRelic = setting(NewRelic, "Not used.")


class Schema1(Section):
    """Image manifests of before 2015."""

    enabled: Flag = setting(False, "Not used; such manifests are refused.")
    signingkeyfile: Text = setting("", "Not used.", variable="TRUSTKEY")


class Compatibility(Section):
    """Old formats of 2.8; read, warned about, not used."""

    schema1: Schema1 = setting(Schema1, "Image manifests of before 2015.")
