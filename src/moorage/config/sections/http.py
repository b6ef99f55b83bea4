"""`http`: listener, TLS, limits, proxies and CORS."""

from collections.abc import Mapping
from typing import Annotated, Literal

from moorage.config.sections.base import Flag, PathText, Period, Section, Span, Text, at_least, one_of, setting
from moorage.config.sections.clients import Cors, Proxy

__all__ = ["CertificatePair", "Debug", "H2c", "Http", "Http2", "LetsEncrypt", "Prometheus", "Tls"]


class LetsEncrypt(Section):
    """Certificates by ACME."""

    cachefile: PathText = setting("", "Directory for account and certificates, created if missing; enables ACME.")
    cachedir: PathText = setting("", "Another name of `cachefile`, which is a directory.", own=True)
    email: Text = setting("", "Contact address for the authority; optional.")
    hosts: tuple[Text, ...] = setting(
        (), "Host names, at least one; one certificate has all of them. No wildcards, no addresses."
    )
    directoryurl: Text = setting(
        "", "Another ACME authority than Let's Encrypt.", shown="https://acme-v02.api.letsencrypt.org/directory"
    )
    http01: Text = setting(
        "",
        "`host:port` to answer HTTP-01 challenges on, which authorities send to port 80; other requests are "
        "redirected to HTTPS. Empty: challenges are TLS-ALPN-01 on `http.addr`, to which port 443 must be "
        "forwarded.",
        own=True,
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the hosts in lower case, without duplicates."""
        return tuple(dict.fromkeys(host.lower() for host in self.hosts))


class CertificatePair(Section):
    """A certificate for other host names."""

    certificate: PathText = setting("", "PEM file with the certificate and its chain.", required=True, own=True)
    key: PathText = setting("", "PEM file with the private key.", required=True, own=True)


class Tls(Section):
    """HTTPS."""

    certificate: PathText = setting("", "PEM file with the certificate and its chain; reloaded when it changes.")
    key: PathText = setting("", "PEM file with the private key.")
    certificates: tuple[CertificatePair, ...] = setting(
        (),
        "Certificates for other host names, chosen by the name that a client requests (SNI); clients that request "
        "none of these names get `certificate`.",
        own=True,
    )
    clientcas: tuple[PathText, ...] = setting(
        (), "PEM files with CAs that verify client certificates; each client needs a certificate."
    )
    clientauth: Annotated[
        Literal[
            "", "require-and-verify-client-cert", "require-any-client-cert", "verify-client-cert-if-given",
            "request-client-cert",
        ],
        one_of(
            "", "require-and-verify-client-cert", "require-any-client-cert", "verify-client-cert-if-given",
            "request-client-cert",
        ),
    ] = setting("", "Policy for client certificates, with `clientcas`. The two that verify nothing are refused.",
                shown="require-and-verify-client-cert")  # fmt: skip
    minimumtls: Annotated[Literal["tls1.2", "tls1.3"], one_of("tls1.2", "tls1.3", empty="tls1.2")] = setting(
        "tls1.2", "Minimum TLS version. `tls1.0` and `tls1.1` count as `tls1.2`, with a warning."
    )
    ciphersuites: tuple[Text, ...] = setting(
        (),
        "Cipher suites for TLS 1.2 by Go's names, the preferred one first.",
        shown="those with ECDHE and AES-GCM or ChaCha20; the client's preference decides",
    )
    letsencrypt: LetsEncrypt = setting(LetsEncrypt, "Certificates by ACME.")
    handshaketimeout: Period = setting(
        10.0, "Longest time that a TLS handshake may take.", unit="duration", own=True
    )

    @property
    def enabled(self) -> bool:
        """Return whether the section switches TLS on."""
        return bool(self.certificate or self.letsencrypt.cachefile)


class Prometheus(Section):
    """Metrics."""

    enabled: Flag = setting(False, "Serve metrics on the debug listener; needs `http.debug.addr`.")
    path: Text = setting("/metrics", "Path of the metrics.")


class Debug(Section):
    """Second listener for health and metrics."""

    addr: Text = setting(
        "",
        "`host:port` of the debug listener: plain HTTP without authentication; empty: none.",
    )
    prometheus: Prometheus = setting(Prometheus, "Metrics.")


class Http2(Section):
    """HTTP/2 over TLS, which is not supported."""

    disabled: Flag = setting(
        False,
        "Has no effect: only HTTP/1.1 is served, and a proxy adds HTTP/2. An explicit `false` gets a warning.",
    )


class H2c(Section):
    """HTTP/2 without TLS, which is not supported."""

    enabled: Flag = setting(
        False, "Has no effect, with a warning: HTTP/1.1 is served; a proxy must be set to HTTP/1.1."
    )


class Http(Section):
    """The listener."""

    addr: Text = setting(
        "",
        "`host:port` to listen on (`:5000` is every interface), or the socket's path for `net: unix`. "
        "Required in a file: an empty address is a random port on every interface in CNCF Distribution.",
        shown="`127.0.0.1:5000` without a file",
    )
    net: Annotated[Literal["tcp", "unix"], one_of("tcp", "unix", empty="tcp")] = setting("tcp", "Socket type.")
    host: Text = setting(
        "", "URL (scheme and host) of the registry as clients reach it; overrides forwarded headers."
    )
    prefix: Text = setting("", "Path prefix of the API, such as `/registry/`.")
    relativeurls: Flag = setting(False, "Send `Location` headers without scheme and host.")
    secret: Text = setting(
        "",
        "Key that signs the state of uploads. Registries behind one load balancer must share it; "
        "without it uploads do not survive a restart. `openssl rand -hex 32` generates one; published samples are "
        "refused.",
        secret=True,
        shown="random at every start",
    )
    draintimeout: Span = setting(0.0, "Time limit for running requests after SIGTERM.", unit="duration")
    headers: Mapping[str, tuple[Text, ...]] = setting(
        dict, "Headers added to every response below `/v2/`, each with a list of values."
    )
    tls: Tls = setting(Tls, "HTTPS.")
    debug: Debug = setting(Debug, "Second listener for health and metrics.")
    http2: Http2 = setting(Http2, "HTTP/2 over TLS, which is not supported.")
    h2c: H2c = setting(H2c, "HTTP/2 without TLS, which is not supported.")
    workers: Annotated[int | None, at_least(1, 1024)] = setting(
        None, "Worker processes.", own=True, shown="one per available core, at most 8"
    )
    headertimeout: Period = setting(30.0, "Time limit for the headers of a request.", unit="duration", own=True)
    bodytimeout: Period = setting(
        120.0,
        "Longest pause of a client within the body of a request, and the window of `leastrate`. A large layer "
        "may take hours.",
        unit="duration",
        own=True,
    )
    sendtimeout: Period = setting(
        120.0,
        "Longest time in which a client may read nothing of its response, and the window of `leastrate`.",
        unit="duration",
        own=True,
    )
    leastrate: Annotated[int, at_least(0)] = setting(
        100,
        "Lowest rate at which a client may send a body, on average over `bodytimeout`, or read a response, over "
        "`sendtimeout`; slower clients are disconnected. Delays of the storage do not count. 0: only "
        "the timeouts apply.",
        unit="bytes per second",
        own=True,
    )
    idletimeout: Period = setting(
        120.0,
        "Longest idle time of a connection between two requests. Set it above the idle timeout of a proxy.",
        unit="duration",
        own=True,
    )
    headerlimit: Annotated[int, at_least(4096, 1 << 20)] = setting(
        64 << 10,
        "Size limit of the headers of a request; more is refused with 431.",
        unit="bytes",
        own=True,
    )
    trustedproxies: tuple[Proxy, ...] | None = setting(
        None,
        "Proxies whose `Forwarded` and `X-Forwarded-*` headers are used: addresses, networks, `loopback`, "
        "`private`, `unix` for clients of a Unix socket. If set, these headers of other clients are dropped; an "
        "empty list trusts no proxy.",
        own=True,
        shown="headers of all clients are used, for URLs and the access log only",
    )
    cors: Cors = setting(Cors, "Cross-origin requests of browsers (CORS).", own=True)
