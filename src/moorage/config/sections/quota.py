"""Section `quota`."""

import re
from typing import TYPE_CHECKING, Annotated, Final

from moorage.config.scalars import ScalarReader
from moorage.config.sections.base import Period, Section, at_least, setting
from moorage.config.sections.sizes import Size

if TYPE_CHECKING:
    from moorage.config.tree import Scalar

__all__ = ["Quota", "QuotaRule"]

_PATTERN: Final = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*", re.ASCII)


def _read_pattern(scalar: "Scalar") -> str:
    text = scalar.text
    if _PATTERN.fullmatch(text) is None or "***" in text:
        raise ValueError(
            "expected the beginning of repository names such as team-a or team-a/images, in lower case and "
            "without a slash at either end; * stands for a part of a component, ** for parts of several"
        )
    return text


_Pattern = Annotated[str, ScalarReader("repository pattern", _read_pattern)]


class QuotaRule(Section):
    """Limits of the repositories that a pattern covers, all of them together."""

    repositories: _Pattern = setting(
        "",
        "Covered repositories: `team-a` is that repository and all below it. `*` stands for a part of a "
        "component, `**` for parts of several; `*` alone is the whole registry. Where several rules cover a "
        "repository, each of them limits it.",
        required=True,
        own=True,
    )
    bytes: Size | None = setting(
        None, "Limit of the stored bytes, such as `10GiB`.", unit="bytes", own=True, shown="unlimited"
    )
    tags: Annotated[int, at_least(1)] | None = setting(None, "Limit of the tags.", own=True, shown="unlimited")


class Quota(Section):
    """Limits of bytes and tags per repository prefix."""

    rules: tuple[QuotaRule, ...] = setting((), "The limits.", own=True)
    interval: Period = setting(
        86400.0, "Time between two counts of all that is stored; between them changes are added.",
        unit="duration", own=True,
    )  # fmt: skip
