"""Redirects: settings become the rules of `middleware.storage`.

Below: `config/checks/middleware.py`, which reads the options; `storage/middleware/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.config.checks.middleware import (
    CloudFrontOptions,
    RedirectOptions,
    RewriteOptions,
    enabled,
    read_options,
)
from moorage.startup import StartupError
from moorage.storage.middleware.redirect import RedirectRule
from moorage.storage.middleware.rewrite import Rewrite
from moorage.wiring.storage import s3_options

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.storage.middleware.rule import Rule

__all__ = ["make_rules"]


def make_rules(settings: Settings) -> tuple[Rule, ...]:
    """Return the rules in the order of the list.  Raises StartupError for a wrong option or an unusable key."""
    rules: list[Rule] = []
    for key, entry in enabled(settings):
        options, problems = read_options(entry, key)
        match options:
            case None:
                raise StartupError("; ".join(str(problem) for problem in problems))
            case RedirectOptions(baseurl):
                rules.append(RedirectRule(baseurl))
            case RewriteOptions(scheme, host, prefix):
                rules.append(Rewrite(scheme=scheme, host=host, trim_path_prefix=prefix))
            case CloudFrontOptions():
                rules.append(_cloudfront(settings, key, options))
    return tuple(rules)


def _cloudfront(settings: Settings, key: str, options: CloudFrontOptions) -> Rule:
    from moorage.storage.middleware.cloudfront import CloudFront, Signer, load_key
    from moorage.storage.middleware.ip_ranges import IpRanges

    if settings.storage.s3 is None:
        raise StartupError("cloudfront needs storage.s3", key)
    try:
        private = load_key(options.privatekey)
    except StartupError as error:
        raise StartupError(str(error), f"{key}.options.privatekey") from error
    nearby = None
    if options.ipfilteredby != "none":
        nearby = IpRanges(options.iprangesurl, regions=options.regions, every_s=options.updatefrequency)
    return CloudFront(
        options.baseurl,
        Signer(private, options.keypairid),
        prefix=s3_options(settings.storage.s3).prefix,
        lasts_s=options.duration,
        nearby=nearby,
    )
