"""Root of the settings: all sections of the configuration file.

`Settings` is frozen; `settings.http.addr` is `http.addr` in the file.  Durations are seconds.  Tests construct
settings directly: `Settings(storage=Storage(inmemory=Inmemory()))`.

Source: docs/reference/configuration.md, sections 3 to 14.
"""

from typing import Annotated, Literal

from moorage.config.sections.base import Section, Text, one_of, setting
from moorage.config.sections.http import Http
from moorage.config.sections.log import Log
from moorage.config.sections.proxy import Proxy
from moorage.config.sections.quota import Quota
from moorage.config.sections.retention import Immutability, Retention
from moorage.config.sections.rules import (
    Catalog,
    Compatibility,
    Health,
    Policy,
    Reporting,
    TagListing,
    Validation,
)
from moorage.config.sections.services import Auth, Guessing, Middleware, Notifications, Redis
from moorage.config.sections.storage import Storage
from moorage.config.sections.sync import Sync

__all__ = ["Settings"]


class Settings(Section):
    """All settings."""

    version: Text = setting("0.1", "Version of the file format; `0.1` is the only one.")
    log: Log = setting(Log, "Logging.")
    loglevel: Annotated[
        Literal["", "error", "warn", "info", "debug"], one_of("", "error", "warn", "info", "debug", fold=True)
    ] = setting("", "Deprecated.", instead="log.level")
    storage: Storage = setting(Storage, "Storage back end; exactly one driver.")
    http: Http = setting(Http, "HTTP listener.")
    health: Health = setting(Health, "Health checks.")
    catalog: Catalog = setting(Catalog, "Repository catalog.")
    tags: TagListing = setting(TagListing, "Tag listings.")
    validation: Validation = setting(Validation, "Validation of pushed manifests.")
    policy: Policy = setting(Policy, "Repository policy.")
    quota: Quota = setting(Quota, "Limits of bytes and tags per repository prefix.", own=True)
    retention: Retention = setting(Retention, "Deletion of tags by rules, and legal holds.", own=True)
    immutability: Immutability = setting(Immutability, "Tags that cannot be moved.", own=True)
    sync: Sync = setting(Sync, "Copies of repositories of other registries.", own=True)
    auth: Auth = setting(Auth, "Authentication.")
    guessing: Guessing = setting(Guessing, "Rate limit of failed logins.", own=True)
    middleware: Middleware = setting(Middleware, "Middleware of the storage driver.")
    notifications: Notifications = setting(Notifications, "Notifications of events by webhooks.")
    redis: Redis | None = setting(None, "Redis server of the shared cache.")
    proxy: Proxy = setting(Proxy, "Pull-through cache of other registries.")
    reporting: Reporting | None = setting(None, "Error reporting of 2.8: has no effect, with a warning.")
    compatibility: Compatibility | None = setting(None, "Legacy formats of 2.8: has no effect, with a warning.")
