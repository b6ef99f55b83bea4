"""Rules for manifests, made from the `validation` and `policy` sections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from moorage.registry.validation import ValidationRules
from moorage.wiring.proxy import cache_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.model import Settings
    from moorage.types import RepoName

__all__ = ["is_sparse_in", "validation_rules"]


def validation_rules(settings: Settings) -> ValidationRules:
    """Return the rules for manifests that clients push."""
    validation = settings.validation
    classes = frozenset(settings.policy.repository.classes)
    layers = validation.manifests.layers == "all"
    if validation.disabled and not validation.enabled:
        return ValidationRules(classes=classes, layers=layers)
    urls, indexes = validation.manifests.urls, validation.manifests.indexes
    platforms = {
        "all": None,
        "none": frozenset[tuple[str, str]](),
        "list": frozenset((item.os, item.architecture) for item in indexes.platformlist),
    }[indexes.platforms]
    return ValidationRules(
        allow_urls=tuple(re.compile(text) for text in urls.allow),
        deny_urls=tuple(re.compile(text) for text in urls.deny),
        platforms=platforms,
        classes=classes,
        layers=layers,
    )


def is_sparse_in(settings: Settings) -> Callable[[RepoName], bool]:
    """Return the test for repositories whose manifests may name config and layers that are not stored.

    These are those of a mirror, which stores a layer when it is pulled, and all with `layers: none`.
    """
    if settings.validation.manifests.layers == "none":
        return lambda _: True
    limits = cache_limits(settings)
    return lambda name: limits.of(name) is not None
