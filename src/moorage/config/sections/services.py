"""Sections `auth`, `guessing`, `middleware`, `notifications` and `redis`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from moorage.config.sections.base import (
    Flag,
    LoosePath,
    LooseText,
    Nanoseconds,
    PathText,
    Period,
    Section,
    Text,
    Whole,
    at_least,
    duration_or,
    one_of,
    period_within,
    positive_or,
    setting,
)

__all__ = [
    "PROVIDERS",
    "Auth",
    "Endpoint",
    "Events",
    "Guessing",
    "Htpasswd",
    "Ignore",
    "Local",
    "Middleware",
    "MiddlewareEntry",
    "NoAuth",
    "Notifications",
    "Redis",
    "RedisPool",
    "RedisTls",
    "Silly",
    "Token",
]


class NoAuth(Section):
    """No authentication."""


class Silly(Section):
    """Accepts any Authorization header; for tests."""

    realm: LooseText = setting("", "Realm of the challenge.", required=True)
    service: LooseText = setting("", "Service of the challenge.", required=True)


class Htpasswd(Section):
    """Users and bcrypt passwords in a file."""

    realm: LooseText = setting("", "Realm of the challenge.", required=True)
    path: LoosePath = setting("", "File with a line `user:hash` per user.", required=True)


class Token(Section):
    """Tokens of a token server."""

    realm: LooseText = setting("", "Address of the token server.", required=True)
    service: LooseText = setting("", "Name of this registry at the token server.", required=True)
    issuer: LooseText = setting("", "Required issuer of tokens.", required=True)
    rootcertbundle: LoosePath = setting(
        "", "PEM file with the certificates that sign tokens; reloaded when it changes."
    )
    jwks: LoosePath = setting("", "JWKS file with the keys that sign tokens; reloaded when it changes.")
    autoredirect: Flag = setting(False, "The token server is `/auth/token` on the host of the request.")
    autoredirectpath: LooseText = setting("/auth/token", "Path for `autoredirect`.")
    signingalgorithms: tuple[
        Annotated[
            str,
            one_of(
                "EdDSA", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512",
                "PS256", "PS384", "PS512",
            ),
        ],
        ...,
    ] = setting((), "Accepted signature algorithms.", shown="all")  # fmt: skip


class Local(Section):
    """Built-in token server: users, robots and permissions in files."""

    policy: LoosePath = setting("", "YAML file with users' permissions.", required=True, own=True)
    users: LoosePath = setting("", "File with a line `user:hash` per user, as for `auth.htpasswd`.", own=True)
    realm: LooseText = setting("", "Address of `/token` for clients.", own=True,
                               shown="`token` below the registry's address")  # fmt: skip
    service: LooseText = setting("moorage", "Name of this registry in its tokens.", own=True)
    tokenlifetime: Annotated[float, period_within(60.0, 24 * 3600.0)] = setting(
        300.0, "Lifetime of access tokens, from `1m` to `24h`. Revoked permissions may last so long.",
        unit="duration", own=True,
    )  # fmt: skip
    loginlifetime: Annotated[float, period_within(0.0, 3660 * 24 * 3600.0)] = setting(
        0.0,
        "Longest duration of a `docker login`; 0: until password or secret change.",
        unit="duration",
        own=True,
    )
    keyrotation: Annotated[float, period_within(60.0, 366 * 24 * 3600.0)] = setting(
        24 * 3600.0, "Lifetime of a signing key; keys are derived from `http.secret`.", unit="duration", own=True
    )


class Auth(Section):
    """At most one provider."""

    none: NoAuth | None = setting(None, "No authentication: all clients may do everything.")
    silly: Silly | None = setting(None, "Accepts any Authorization header; for tests.")
    htpasswd: Htpasswd | None = setting(None, "Users and passwords in a file.")
    token: Token | None = setting(None, "Tokens of a token server.")
    local: Local | None = setting(
        None, "Users, robots and permissions in files, with a built-in token server.", own=True
    )

    @property
    def provider(self) -> str:
        """Return the name of the configured provider, "none" without one."""
        return next((name for name in PROVIDERS if getattr(self, name) is not None), "none")


PROVIDERS: Final = ("none", "silly", "htpasswd", "token", "local")


class Guessing(Section):
    """Rate limit of failed logins.  Not below `auth`, where CNCF Distribution accepts one key only."""

    failures: Annotated[int, at_least(0, 1000)] = setting(
        20,
        "Different wrong credentials within `window` after which an address must wait, counted in each worker; "
        "0: no limit.",
        own=True,
    )
    window: Period = setting(60.0, "How long wrong credentials are counted.", unit="duration", own=True)
    longestwait: Period = setting(60.0, "Longest wait; waits double from one second.", unit="duration", own=True)


class MiddlewareEntry(Section):
    """One middleware."""

    name: Text = setting("", "Name of the middleware.", required=True)
    disabled: Flag = setting(False, "Ignore this entry.")
    options: Mapping[str, Any] = setting(dict, "Options of the middleware.", secret=True)


class Middleware(Section):
    """Middleware; the last entry of a list is the outermost."""

    registry: tuple[MiddlewareEntry, ...] = setting((), "Middleware of the registry; none exist.")
    repository: tuple[MiddlewareEntry, ...] = setting((), "Middleware of repositories; none exist.")
    storage: tuple[MiddlewareEntry, ...] = setting((), "Middleware of the storage driver.")


class Events(Section):
    """Content of events."""

    includereferences: Flag = setting(False, "Include the descriptors that a manifest references.")


class Ignore(Section):
    """Events that an endpoint does not get."""

    mediatypes: tuple[Text, ...] = setting((), "Ignored media types.")
    actions: tuple[Text, ...] = setting((), "Ignored actions: pull, push, mount, delete.")


class Endpoint(Section):
    """A receiver of notifications."""

    name: Text = setting("", "Name in logs and metrics.")
    disabled: Flag = setting(False, "Ignore this entry.")
    url: Text = setting("", "URL that events are posted to.")
    headers: Mapping[str, tuple[Text, ...]] = setting(dict, "Additional request headers.", secret=True)
    timeout: Annotated[float, duration_or(1.0)] = setting(1.0, "Time limit of a request.", unit="duration")
    threshold: Annotated[int, positive_or(10)] = setting(10, "Consecutive failures before sending pauses.")
    backoff: Annotated[float, duration_or(1.0)] = setting(1.0, "Pause after failures.", unit="duration")
    ignoredmediatypes: tuple[Text, ...] = setting((), "Ignored media types.")
    ignore: Ignore = setting(Ignore, "Events that the endpoint does not get.")


class Notifications(Section):
    """Notifications of events by webhooks."""

    events: Events = setting(Events, "Content of events.", variable="EVENTCONFIG")
    endpoints: tuple[Endpoint, ...] = setting((), "Receivers.")


class RedisTls(Section):
    """TLS to Redis; enabled by any of its keys."""

    enabled: Flag = setting(False, "Use TLS without any of the other keys.", own=True)
    certificate: PathText = setting("", "PEM file with the client's certificate.")
    key: PathText = setting("", "PEM file with the client's key.")
    rootcas: tuple[PathText, ...] = setting((), "PEM files with CAs; empty: those of the system.")
    clientcas: tuple[Text, ...] = setting((), "Spelling of 3.0.", instead="redis.tls.rootcas")


class RedisPool(Section):
    """Connection pool, in the spelling of 2.8."""

    maxidle: Whole = setting(0, "Spelling of 2.8.", instead="redis.maxidleconns")
    maxactive: Whole = setting(0, "Spelling of 2.8.", instead="redis.poolsize")
    idletimeout: Nanoseconds = setting(0.0, "Spelling of 2.8.", instead="redis.connmaxidletime")


class Redis(Section):
    """Redis server of `storage.cache.blobdescriptor: redis`; see [Caching](caching.md)."""

    addr: Text = setting("", "Spelling of 2.8.", instead="redis.addrs")
    addrs: tuple[Text, ...] = setting((), "`host:port` of the server; several: a cluster, or sentinels.")
    mastername: Text = setting("", "Name of the master at the sentinels.")
    clientname: Text = setting("", "Client name sent to the server.")
    username: Text = setting("", "User name.")
    password: Text = setting("", "Password.", secret=True)
    sentinelusername: Text = setting("", "User name at the sentinels.")
    sentinelpassword: Text = setting("", "Password at the sentinels.", secret=True)
    db: Whole = setting(0, "Database number.")
    protocol: Whole = setting(3, "Protocol version.")
    dialtimeout: Nanoseconds = setting(5.0, "Time limit of connecting.", unit="duration")
    readtimeout: Nanoseconds = setting(3.0, "Time limit of a reply; a lookup waits at most 0.2s.", unit="duration")
    writetimeout: Nanoseconds = setting(
        0.0, "Time limit of sending; the shorter of both applies.", unit="duration", shown="`readtimeout`"
    )
    contexttimeoutenabled: Flag = setting(False, "Has no effect: every call has a time limit.")
    maxretries: Whole = setting(3, "Attempts of a call.")
    minretrybackoff: Nanoseconds = setting(0.008, "Shortest pause between attempts.", unit="duration")
    maxretrybackoff: Nanoseconds = setting(0.512, "Longest pause between attempts.", unit="duration")
    poolsize: Whole = setting(0, "Connections of a worker.", shown="10")
    poolfifo: Flag = setting(False, "Has no effect.")
    pooltimeout: Nanoseconds = setting(0.0, "Longest wait for a connection.", unit="duration",
                                       shown="`readtimeout` and 1s")  # fmt: skip
    minidleconns: Whole = setting(0, "Has no effect: connections are opened on demand.")
    maxidleconns: Whole = setting(0, "Has no effect: idle connections are closed by age.")
    maxactiveconns: Whole = setting(0, "Connection limit of a worker; 0: `poolsize`.")
    connmaxidletime: Nanoseconds = setting(
        1800.0, "Idle time after which a connection is replaced.", unit="duration"
    )
    connmaxlifetime: Nanoseconds = setting(
        0.0, "Age at which a connection is replaced; 0: never.", unit="duration"
    )
    maxredirects: Whole = setting(3, "Has no effect.")
    readonly: Flag = setting(False, "Refused: a replica may lag behind a removal.")
    routebylatency: Flag = setting(False, "Refused, as `readonly`.")
    routerandomly: Flag = setting(False, "Refused, as `readonly`.")
    disableidentity: Flag = setting(False, "Do not send the library's name to the server.")
    identitysuffix: Text = setting("", "Has no effect.")
    unstableresp3: Flag = setting(False, "Has no effect.")
    tls: RedisTls = setting(RedisTls, "TLS to Redis.")
    pool: RedisPool = setting(RedisPool, "Spelling of 2.8.", instead="redis")
