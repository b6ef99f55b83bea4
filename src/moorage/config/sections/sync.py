"""Section `sync`: repositories of other registries that are copied to this one, or to another."""

from typing import Annotated

from moorage.config.sections.base import (
    NANOSECONDS,
    Flag,
    PathText,
    Period,
    Section,
    Text,
    at_least,
    setting,
)
from moorage.config.sections.sizes import Size

__all__ = ["CopiedRepositories", "CopiedTags", "CredentialHelper", "RemoteRegistry", "Sync", "SyncJobSettings"]


class CredentialHelper(Section):
    """Program that prints the credentials of the registry."""

    command: Text = setting("", "Program, run as `COMMAND get` (docker-credential-helper).", own=True)
    lifetime: Annotated[float | None, NANOSECONDS] = setting(
        None,
        "Lifetime of the helper's result; 0: run it for every request.",
        unit="duration",
        shown="for ever",
        own=True,
    )


class RemoteRegistry(Section):
    """A registry and its credentials; without any it is accessed anonymously."""

    registry: Text = setting(
        "", "Host of the registry, with its port: `docker.io`, `registry.example:5000`.", required=True, own=True
    )
    username: Text = setting("", "User name.", own=True)
    password: Text = setting("", "Password or token.", secret=True, own=True)
    exec: CredentialHelper = setting(CredentialHelper, "Credential helper.", own=True)
    plainhttp: Flag = setting(False, "Use HTTP without TLS.", own=True)
    ca: PathText = setting("", "PEM file with CAs that are trusted beside those of the system.", own=True)
    realms: tuple[Text, ...] = setting(
        (),
        "Hosts of token servers that get the credentials though they belong to another domain than the registry.",
        own=True,
    )


class CopiedTags(Section):
    """Tags that are copied; conditions that are not set hold for every tag."""

    match: tuple[Text, ...] = setting(
        (),
        "One of these patterns matches the tag: `3.*`. A tag without a star must exist in the source.",
        shown="all",
        own=True,
    )
    regex: Text = setting("", "This regular expression matches the whole tag.", own=True)
    semver: Text = setting(
        "", "The tag is a version in this range: `^1.2`, `~1.4`, `1.x`, `>=1.0 <2.0`.", own=True
    )
    except_: tuple[Text, ...] = setting((), "Patterns of tags that are not copied.", own=True)
    newest: Annotated[int, at_least(1)] | None = setting(
        None, "Only so many of these tags, those with the highest versions.", shown="all", own=True
    )


class CopiedRepositories(Section):
    """Repositories that are copied."""

    match: Text = setting(
        "",
        "Name in the source, or a pattern: `*` matches a part of one component, `**` any number of components. A "
        "pattern needs a source that lists its repositories, which Docker Hub does not.",
        required=True,
        own=True,
    )
    tags: CopiedTags = setting(CopiedTags, "Tags that are copied.", own=True)
    platforms: tuple[Text, ...] = setting(
        (), "Platforms that are copied of an index: `linux/amd64`, `linux/arm/v7`.", shown="all", own=True
    )
    referrers: Flag = setting(True, "Copy signatures, SBOMs and other referrers, too.", own=True)
    target: Text = setting(
        "",
        "Name in the target; with a slash at its end, a prefix of the name in the source: `mirror/`.",
        shown="the same name",
        own=True,
    )


class SyncJobSettings(Section):
    """Repositories of one registry that are copied to another."""

    name: Text = setting("", "Name in reports and logs.", required=True, own=True)
    source: RemoteRegistry = setting(RemoteRegistry, "Registry that is read.", own=True)
    target: RemoteRegistry | None = setting(None, "Registry that is written to.", shown="this one", own=True)
    repositories: tuple[CopiedRepositories, ...] = setting((), "Repositories.", required=True, own=True)


class Sync(Section):
    """Copies of repositories of other registries; see [Sync and copy](sync.md)."""

    enabled: Flag = setting(False, "Run the jobs periodically; `moorage sync` runs them at once.", own=True)
    interval: Period = setting(6 * 3600.0, "Time between two runs.", unit="duration", own=True)
    dryrun: Flag = setting(False, "Only log what periodic runs would copy.", own=True)
    parallelism: Annotated[int, at_least(1, 64)] = setting(
        3, "Images copied at the same time, each with up to four blobs.", own=True
    )
    ratelimit: Size | None = setting(
        None,
        "Bytes per second of all transfers together, such as `20MB`.",
        unit="bytes",
        shown="unlimited",
        own=True,
    )
    jobs: tuple[SyncJobSettings, ...] = setting((), "Jobs.", own=True)
