"""Sections `retention` and `immutability`: which tags stay, which must not be moved or deleted."""

from typing import Annotated

from moorage.config.sections.base import Flag, Period, Section, Text, at_least, setting

__all__ = [
    "HeldContent",
    "Immutability",
    "ImmutableTags",
    "Retention",
    "RetentionPulls",
    "RetentionRule",
    "TagSelection",
    "UntaggedManifests",
]

_REPOSITORIES = "Repositories: `*` matches a part of one component of the name, `**` any number of components."


class TagSelection(Section):
    """Tags that a rule selects; conditions that are not set hold for every tag."""

    match: tuple[Text, ...] = setting((), "One of these patterns matches the tag: `pr-*`.", shown="all", own=True)
    regex: Text = setting("", "This regular expression matches the whole tag.", own=True)
    semver: Text = setting(
        "",
        "The tag is a version in this range: `^1.2`, `~1.4`, `1.x`, `>=1.0 <2.0`.",
        own=True,
    )
    except_: tuple[Text, ...] = setting((), "Patterns of tags that are not selected.", own=True)


class RetentionRule(Section):
    """Of the selected tags, those that meet one of the conditions stay; the others are deleted unless another rule
    keeps them.  A tag that no rule selects stays.
    """

    name: Text = setting("", "Name in reports.", shown="`rules[N]`", own=True)
    repositories: tuple[Text, ...] = setting((), _REPOSITORIES, required=True, own=True)
    tags: TagSelection = setting(TagSelection, "Tags that the rule selects.", own=True)
    keeplast: Annotated[int | None, at_least(0)] = setting(
        None, "Keep so many of the selected tags of each repository, those that were pushed last.", own=True
    )
    pushedwithin: Annotated[float | None, *Period.__metadata__] = setting(
        None, "Keep tags pushed within this time: `720h` is 30 days.", unit="duration", own=True
    )
    pulledwithin: Annotated[float | None, *Period.__metadata__] = setting(
        None,
        "Keep tags pulled within this time. Deletes nothing until pulls have been recorded for so long.",
        unit="duration",
        own=True,
    )
    keepall: Flag = setting(False, "Keep every selected tag, also if another rule would delete it.", own=True)


class UntaggedManifests(Section):
    """Deletion of manifests that no tag leads to."""

    after: Annotated[float | None, *Period.__metadata__] = setting(
        None, "Age from which they are deleted, at least `1h`.", unit="duration", shown="never", own=True
    )
    repositories: tuple[Text, ...] = setting(("**",), _REPOSITORIES, shown="all", own=True)


class HeldContent(Section):
    """Legal hold: content that nothing deletes until the entry is removed, also while `retention.enabled` is
    false.  Without `tags` and `digests`, everything in the repositories is held.
    """

    repositories: tuple[Text, ...] = setting((), _REPOSITORIES, required=True, own=True)
    tags: tuple[Text, ...] = setting(
        (), "Patterns of tags; with what they point to, they cannot change.", own=True
    )
    digests: tuple[Text, ...] = setting((), "Digests of manifests or blobs.", own=True)
    reason: Text = setting("", "Reason, shown to clients that are refused.", required=True, own=True)


class RetentionPulls(Section):
    """Record of the last pull of tags and manifests."""

    enabled: Flag = setting(
        False, "Record pulls also if no rule has `pulledwithin`, so that one can be added later.", own=True
    )
    flush: Period = setting(60.0, "Time between two writes of a worker's record.", unit="duration", own=True)


class Retention(Section):
    """Deletion of tags by rules; see [Retention](retention.md)."""

    enabled: Flag = setting(
        False, "Apply the rules periodically; `moorage retention` applies them at once.", own=True
    )
    interval: Period = setting(24 * 3600.0, "Time between two runs.", unit="duration", own=True)
    dryrun: Flag = setting(False, "Only log what periodic runs would delete.", own=True)
    rules: tuple[RetentionRule, ...] = setting((), "Rules.", own=True)
    untagged: UntaggedManifests = setting(UntaggedManifests, "Manifests without a tag.", own=True)
    holds: tuple[HeldContent, ...] = setting((), "Legal holds.", own=True)
    pulls: RetentionPulls = setting(RetentionPulls, "Record of the last pulls.", own=True)


class ImmutableTags(Section):
    """Tags that cannot be moved to another manifest."""

    repositories: tuple[Text, ...] = setting((), _REPOSITORIES, required=True, own=True)
    tags: tuple[Text, ...] = setting(("*",), "Patterns of tags.", shown="all", own=True)
    except_: tuple[Text, ...] = setting((), "Patterns of tags that may be moved: `latest`.", own=True)
    deletable: Flag = setting(False, "They may be deleted, by clients and by retention.", own=True)


class Immutability(Section):
    """Immutable tags: a push of another manifest to one is refused; see [Retention](retention.md)."""

    rules: tuple[ImmutableTags, ...] = setting((), "Rules; one that matches is enough.", own=True)
