"""Every setting of Moorage: the sections joined, as the file has them.

`Settings` is frozen; `settings.http.addr` is `http.addr` in the file.  Durations are seconds.  Code that needs
settings in a test makes them directly: `Settings(storage=Storage(inmemory=Inmemory()))`.

Source: docs/reference/configuration.md, sections 3 to 14.
"""

from typing import Annotated, Literal

from moorage.config.sections.base import Section, Text, one_of, setting
from moorage.config.sections.http import Http
from moorage.config.sections.log import Log
from moorage.config.sections.rules import (
    Catalog,
    Compatibility,
    Health,
    Policy,
    Reporting,
    Tags,
    Validation,
)
from moorage.config.sections.services import Auth, Guessing, Middleware, Notifications, Proxy, Redis
from moorage.config.sections.storage import Storage

__all__ = ["Settings"]


class Settings(Section):
    """The whole file."""

    version: Text = setting("0.1", "Version of the file's format; there is only `0.1`.")
    log: Log = setting(Log, "What is logged.")
    loglevel: Annotated[
        Literal["", "error", "warn", "info", "debug"], one_of("", "error", "warn", "info", "debug", fold=True)
    ] = setting("", "Deprecated.", instead="log.level")
    storage: Storage = setting(Storage, "Where the registry keeps everything; exactly one driver.")
    http: Http = setting(Http, "Where the registry listens.")
    health: Health = setting(Health, "What makes the registry unhealthy.")
    catalog: Catalog = setting(Catalog, "The list of repositories.")
    tags: Tags = setting(Tags, "Lists of tags.")
    validation: Validation = setting(Validation, "Checks of pushed manifests.")
    policy: Policy = setting(Policy, "Rules for repositories.")
    auth: Auth = setting(Auth, "Who may come in.")
    guessing: Guessing = setting(Guessing, "How those who guess passwords are slowed down.", ours=True)
    middleware: Middleware = setting(Middleware, "What wraps the parts of the registry.")
    notifications: Notifications = setting(Notifications, "Telling others what happened.")
    redis: Redis | None = setting(None, "The Redis server.")
    proxy: Proxy = setting(Proxy, "A pull-through cache of another registry.")
    reporting: Reporting | None = setting(None, "Error reporting of 2.8. Read, warned about, not used.")
    compatibility: Compatibility | None = setting(None, "Old formats of 2.8. Read, warned about, not used.")
