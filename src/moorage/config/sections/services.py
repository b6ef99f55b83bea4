"""What the registry works with: `auth`, `guessing`, `middleware`, `notifications`, `redis`, `proxy`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from moorage.config.sections.base import (
    NANOSECONDS,
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
    "Exec",
    "Guessing",
    "Htpasswd",
    "Ignore",
    "Local",
    "Middleware",
    "MiddlewareEntry",
    "NoAuth",
    "Notifications",
    "Proxy",
    "Redis",
    "RedisPool",
    "RedisTls",
    "Silly",
    "Token",
]


class NoAuth(Section):
    """Everybody may do everything."""


class Silly(Section):
    """Anything in the Authorization header will do; for tests."""

    realm: LooseText = setting("", "Realm told to clients.", required=True)
    service: LooseText = setting("", "Service told to clients.", required=True)


class Htpasswd(Section):
    """Users and bcrypt passwords in a file."""

    realm: LooseText = setting("", "Realm told to clients.", required=True)
    path: LoosePath = setting("", "File with a line `user:hash` per user.", required=True)


class Token(Section):
    """Tokens of a token server."""

    realm: LooseText = setting("", "Address of the token server.", required=True)
    service: LooseText = setting("", "Name of this registry at the token server.", required=True)
    issuer: LooseText = setting("", "Issuer that tokens must name.", required=True)
    rootcertbundle: LoosePath = setting(
        "", "PEM file with the certificates that sign tokens; read again when it changes."
    )
    jwks: LoosePath = setting("", "JWKS file with the keys that sign tokens; read again when it changes.")
    autoredirect: Flag = setting(False, "The token server is `/auth/token` on the host that was asked.")
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
    ] = setting((), "Algorithms that tokens may be signed with.", shown="all")  # fmt: skip


class Local(Section):
    """Moorage's own token server: users, robots and rules in files."""

    policy: LoosePath = setting("", "YAML file with who may do what.", required=True, ours=True)
    users: LoosePath = setting("", "File with a line `user:hash` per user, as `auth.htpasswd` has it.", ours=True)
    realm: LooseText = setting("", "Address of `/token` as clients see it.", ours=True,
                               shown="`token` below where clients see the registry")  # fmt: skip
    service: LooseText = setting("moorage", "Name of this registry in its tokens.", ours=True)
    tokenlifetime: Annotated[float, period_within(60.0, 24 * 3600.0)] = setting(
        300.0, "How long an access token is good, from `1m` to `24h`. Rights taken away may last so long.",
        unit="duration", ours=True,
    )  # fmt: skip
    loginlifetime: Annotated[float, period_within(0.0, 3660 * 24 * 3600.0)] = setting(
        0.0,
        "How long `docker login` lasts at most; 0: until password or secret change.",
        unit="duration",
        ours=True,
    )
    keyrotation: Annotated[float, period_within(60.0, 366 * 24 * 3600.0)] = setting(
        24 * 3600.0, "How long one key signs; each is derived from `http.secret`.", unit="duration", ours=True
    )


class Auth(Section):
    """One provider at most."""

    none: NoAuth | None = setting(None, "Everybody may do everything.")
    silly: Silly | None = setting(None, "Anything in the Authorization header will do.")
    htpasswd: Htpasswd | None = setting(None, "Users and passwords in a file.")
    token: Token | None = setting(None, "Tokens of a token server.")
    local: Local | None = setting(
        None, "Users, robots and rules in files, with a token server of our own.", ours=True
    )

    @property
    def provider(self) -> str:
        """The name of the chosen provider, "none" if there is none."""
        return next((name for name in PROVIDERS if getattr(self, name) is not None), "none")


PROVIDERS: Final = ("none", "silly", "htpasswd", "token", "local")


class Guessing(Section):
    """How those who guess passwords are slowed down. Not below `auth`, where the reference takes one key only."""

    failures: Annotated[int, at_least(0, 1000)] = setting(
        20,
        "Different wrong credentials within `window` after which an address has to wait, counted in each worker; "
        "0: never.",
        ours=True,
    )
    window: Period = setting(60.0, "How long wrong credentials count.", unit="duration", ours=True)
    longestwait: Period = setting(60.0, "Waits double from one second up to this.", unit="duration", ours=True)


class MiddlewareEntry(Section):
    """One middleware."""

    name: Text = setting("", "Name of the middleware.", required=True)
    disabled: Flag = setting(False, "Leave it out.")
    options: Mapping[str, Any] = setting(dict, "Its options.", secret=True)


class Middleware(Section):
    """What wraps the parts of the registry; the last entry of a list is the outermost."""

    registry: tuple[MiddlewareEntry, ...] = setting((), "Around the registry.")
    repository: tuple[MiddlewareEntry, ...] = setting((), "Around every repository.")
    storage: tuple[MiddlewareEntry, ...] = setting((), "Around the storage.")


class Events(Section):
    """What is told."""

    includereferences: Flag = setting(False, "Name the content that a manifest refers to.")


class Ignore(Section):
    """What an endpoint is not told."""

    mediatypes: tuple[Text, ...] = setting((), "Media types left out.")
    actions: tuple[Text, ...] = setting((), "Actions left out: pull, push, mount, delete.")


class Endpoint(Section):
    """A receiver of notifications."""

    name: Text = setting("", "Name in logs and metrics.")
    disabled: Flag = setting(False, "Leave it out.")
    url: Text = setting("", "Where events are posted to.")
    headers: Mapping[str, tuple[Text, ...]] = setting(dict, "Headers sent along.", secret=True)
    timeout: Annotated[float, duration_or(1.0)] = setting(1.0, "Longest time for one request.", unit="duration")
    threshold: Annotated[int, positive_or(10)] = setting(10, "Failures in a row before sending pauses.")
    backoff: Annotated[float, duration_or(1.0)] = setting(1.0, "Pause after failures.", unit="duration")
    ignoredmediatypes: tuple[Text, ...] = setting((), "Media types left out.")
    ignore: Ignore = setting(Ignore, "What the endpoint is not told.")


class Notifications(Section):
    """Telling others what happened."""

    events: Events = setting(Events, "What is told.", variable="EVENTCONFIG")
    endpoints: tuple[Endpoint, ...] = setting((), "Receivers.")


class RedisTls(Section):
    """TLS to Redis; on when anything of it is given."""

    enabled: Flag = setting(False, "Speak TLS also without any of the others.", ours=True)
    certificate: PathText = setting("", "PEM file with the client's certificate.")
    key: PathText = setting("", "PEM file with the client's key.")
    rootcas: tuple[PathText, ...] = setting((), "PEM files with authorities; none: those of the system.")
    clientcas: tuple[Text, ...] = setting((), "Spelling of 3.0.", instead="redis.tls.rootcas")


class RedisPool(Section):
    """The connection pool's settings as 2.8 spelt them."""

    maxidle: Whole = setting(0, "Spelling of 2.8.", instead="redis.maxidleconns")
    maxactive: Whole = setting(0, "Spelling of 2.8.", instead="redis.poolsize")
    idletimeout: Nanoseconds = setting(0.0, "Spelling of 2.8.", instead="redis.connmaxidletime")


class Redis(Section):
    """The Redis server that `storage.cache.blobdescriptor: redis` uses; see [Caching](caching.md)."""

    addr: Text = setting("", "Spelling of 2.8.", instead="redis.addrs")
    addrs: tuple[Text, ...] = setting((), "`host:port` of the server; several: a cluster, or the sentinels.")
    mastername: Text = setting("", "Name of the master that sentinels are asked for.")
    clientname: Text = setting("", "Name told to the server.")
    username: Text = setting("", "User name.")
    password: Text = setting("", "Password.", secret=True)
    sentinelusername: Text = setting("", "User name at the sentinels.")
    sentinelpassword: Text = setting("", "Password at the sentinels.", secret=True)
    db: Whole = setting(0, "Number of the database.")
    protocol: Whole = setting(3, "Version of the protocol.")
    dialtimeout: Nanoseconds = setting(5.0, "Longest time to connect.", unit="duration")
    readtimeout: Nanoseconds = setting(
        3.0, "Longest time for an answer; a lookup waits 0.2s at most.", unit="duration"
    )
    writetimeout: Nanoseconds = setting(
        0.0, "Longest time to send; the shorter of the two counts.", unit="duration", shown="`readtimeout`"
    )
    contexttimeoutenabled: Flag = setting(False, "Has no effect: every call has its limit.")
    maxretries: Whole = setting(3, "Attempts of a call.")
    minretrybackoff: Nanoseconds = setting(0.008, "Shortest pause between attempts.", unit="duration")
    maxretrybackoff: Nanoseconds = setting(0.512, "Longest pause between attempts.", unit="duration")
    poolsize: Whole = setting(0, "Connections of a worker.", shown="10")
    poolfifo: Flag = setting(False, "Has no effect.")
    pooltimeout: Nanoseconds = setting(0.0, "Longest wait for a connection.", unit="duration",
                                       shown="`readtimeout` and 1s")  # fmt: skip
    minidleconns: Whole = setting(0, "Has no effect: connections are made when they are needed.")
    maxidleconns: Whole = setting(0, "Has no effect: idle connections end by their age.")
    maxactiveconns: Whole = setting(0, "Most connections of a worker; 0: `poolsize`.")
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
    disableidentity: Flag = setting(False, "Do not tell the server which library we are.")
    identitysuffix: Text = setting("", "Has no effect.")
    unstableresp3: Flag = setting(False, "Has no effect.")
    tls: RedisTls = setting(RedisTls, "TLS to Redis.")
    pool: RedisPool = setting(RedisPool, "Spelling of 2.8.", instead="redis")


class Exec(Section):
    """A program that knows the upstream's credentials."""

    command: Text = setting("", "Program, run as `COMMAND get` (docker-credential-helper).")
    lifetime: Annotated[float | None, NANOSECONDS] = setting(
        None, "How long an answer is used; 0: ask every time.", unit="duration", shown="for ever"
    )


class Proxy(Section):
    """A pull-through cache of one other registry."""

    remoteurl: Text = setting("", "The other registry; empty: none.")
    username: Text = setting("", "User name at the other registry.")
    password: Text = setting("", "Password at the other registry.", secret=True)
    exec: Exec = setting(Exec, "A program that knows the credentials.")
    ttl: Nanoseconds = setting(168 * 3600.0, "How long content is kept; 0: for ever.", unit="duration")
    cachewritetimeout: Nanoseconds = setting(300.0, "Longest time to store one blob.", unit="duration")
