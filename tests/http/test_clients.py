"""Who asks, behind which proxies: what is believed for logs, and what alone may decide anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.http.client import NAME, Client

from moorage.config.model import Settings
from moorage.config.sections.clients import PROXY_WORDS
from moorage.config.sections.http import Http
from moorage.http.clients import DEFAULT_CLIENTS, SHORTHANDS, Clients, _canonical
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from tests.http.conftest import Serve

    from moorage.auth.access import AccessRequest, Credentials, Principal

PEER: Final = "192.0.2.1"


def scope(*headers: tuple[str, str], client: Any = (PEER, 1234)) -> dict[str, Any]:
    return {"headers": [(name.encode(), value.encode()) for name, value in headers], "client": client}


def forwarded_for(*lines: str) -> list[tuple[str, str]]:
    return [("x-forwarded-for", line) for line in lines]


@pytest.mark.parametrize(
    ("headers", "client", "expected"),
    [
        ((), ("192.0.2.1", 1), "192.0.2.1"),
        ((), ("::ffff:192.0.2.1", 1), "192.0.2.1"),
        ((), ("2001:db8::1", 1), "2001:db8::1"),
        ((), None, ""),
        ((), ("", 0), ""),
        ((("x-forwarded-for", "198.51.100.7, 10.0.0.1"),), ("192.0.2.1", 1), "198.51.100.7"),
        ((("x-forwarded-for", "unknown, 198.51.100.7"),), ("192.0.2.1", 1), "198.51.100.7"),
        ((("x-forwarded-for", "nonsense"), ("x-real-ip", "198.51.100.8")), ("192.0.2.1", 1), "198.51.100.8"),
        ((("x-real-ip", "nonsense"),), ("192.0.2.1", 1), "192.0.2.1"),
        ((("x-forwarded-for", 'fe80::1%x - root [1] "GET'),), ("192.0.2.1", 1), "192.0.2.1"),
        ((("x-forwarded-for", "fe80::1%eth0"),), ("192.0.2.1", 1), "fe80::1"),
        ((), ("fe80::2%eth0", 1), "fe80::2"),
    ],
)
def test_without_the_setting_logs_show_the_first_valid_address(headers: Any, client: Any, expected: str) -> None:
    """docs/reference/http-api.md, section 11."""
    assert DEFAULT_CLIENTS.remote_address(scope(*headers, client=client)) == expected


def test_long_claims_do_not_stay_in_memory() -> None:
    """4,096 headers of 100 KiB each, from a client without credentials, would hold 400 MiB of every worker."""
    before = _canonical.cache_info().currsize
    for number in range(3):
        assert DEFAULT_CLIENTS.remote_address(scope(("x-forwarded-for", f"{number}{'1' * 100_000}"))) == PEER
    assert _canonical.cache_info().currsize <= before + 1  # the connection's own address


def test_without_the_setting_nothing_is_decided_by_a_header() -> None:
    """An attacker would otherwise guess each password from a new address."""
    claims = [
        ("x-forwarded-for", "198.51.100.7"),
        ("x-real-ip", "198.51.100.8"),
        ("forwarded", "for=198.51.100.9"),
    ]
    for claim in claims:
        assert DEFAULT_CLIENTS.decisive_address(scope(claim)) == PEER


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
        (["6.6.6.6", "198.51.100.7"], "198.51.100.7"),  # HAProxy adds a line of its own
        (["6.6.6.6, 198.51.100.7, 10.0.0.9,10.1.2.3"], "198.51.100.7"),
        (["10.0.0.9"], "10.0.0.9"),  # every hop is trusted
        (["6.6.6.6, unknown, 10.0.0.9"], "10.0.0.9"),
        (["6.6.6.6, unknown"], "10.9.9.9"),
        (["6.6.6.6, _hidden, 10.0.0.9"], "10.0.0.9"),
        ([""], "10.9.9.9"),
        (["198.51.100.7, , "], "198.51.100.7"),
        (["198.51.100.7:4711"], "198.51.100.7"),  # Azure's gateway adds the port
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["2001:DB8:0::0007"], "2001:db8::7"),
        (["fe80::1%eth0"], "fe80::1"),  # Go writes the zone of a link-local address
        (["[fe80::1%eth0.5]:4711"], "fe80::1"),
        (['6.6.6.6, fe80::1%eth0" 200'], "10.9.9.9"),
        (["6.6.6.6, fe80::1%e h"], "10.9.9.9"),
        (["6.6.6.6, fe80::1%"], "10.9.9.9"),
        (["6.6.6.6, fe80::1%\x9b2J"], "10.9.9.9"),
        ([f"6.6.6.6, fe80::1%{'e' * 33}"], "10.9.9.9"),
        (["6.6.6.6, 198.51.100.7%eth0"], "10.9.9.9"),
        (["6.6.6.6, " + "10.0.0.1, " * 40 + "10.0.0.2"], "10.0.0.1"),  # no such chain exists
    ],
)
def test_the_right_most_address_that_is_no_proxy_of_ours_is_the_client(lines: list[str], expected: str) -> None:
    """Entries before it may come from the client itself."""
    clients = Clients(["10.0.0.0/8"])
    requested = scope(*forwarded_for(*lines), client=("10.9.9.9", 1))
    assert clients.decisive_address(requested) == expected
    assert clients.remote_address(requested) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ("for=6.6.6.6, for=198.51.100.7;proto=https;by=10.0.0.1", "198.51.100.7"),
        ('proto=https; For="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="198.51.100.7:443"', "198.51.100.7"),
        ('for=198.51.100.7;host="a,b", for=10.0.0.2', "198.51.100.7"),
        (r'for=6.6.6.6, for="\"198.51.100.7"', "10.9.9.9"),
        ("for=6.6.6.6, for=unknown", "10.9.9.9"),
        ("for=6.6.6.6, proto=https", "10.9.9.9"),
        ('for=6.6.6.6;host="never closed, for=198.51.100.7', "198.51.100.7"),
        ("garbage", "10.9.9.9"),
    ],
)
def test_the_standard_header_is_read_as_well(value: str, expected: str) -> None:
    """RFC 7239: names in any case, quoted strings, IPv6 in brackets, hidden identifiers."""
    assert (
        Clients(["10.0.0.0/8"]).decisive_address(scope(("forwarded", value), client=("10.9.9.9", 1))) == expected
    )


def test_one_header_counts_and_no_other_beside_it() -> None:
    """A client that sends the header which its proxy does not know would choose its address."""
    clients = Clients(["10.0.0.0/8"])
    headers = [("x-real-ip", "6.6.6.6"), ("forwarded", "for=6.6.6.7"), ("x-forwarded-for", "198.51.100.7")]
    assert clients.decisive_address(scope(*headers, client=("10.0.0.1", 1))) == "198.51.100.7"
    assert clients.decisive_address(scope(("x-real-ip", "198.51.100.7"), client=("10.0.0.1", 1))) == "198.51.100.7"


@pytest.mark.parametrize(
    ("trusted", "peer", "believed"),
    [
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.2", False),
        (["2001:db8::/32"], "2001:db8:1::1", True),
        (["2001:db8::/32"], "10.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["::ffff:10.0.0.0/104"], "10.0.0.1", True),
        (["loopback"], "127.8.8.8", True),
        (["loopback"], "::1", True),
        (["private"], "192.168.1.1", True),
        (["private"], "fd00::1", True),
        (["private"], "127.0.0.1", False),
        (["private"], "8.8.8.8", False),
        (["0.0.0.0/0", "::/0"], "8.8.8.8", True),
        (["unix"], "", True),
        (["unix"], "127.0.0.1", False),
        (["private", "loopback"], "", False),
        ([], "127.0.0.1", False),
    ],
)
def test_only_the_listed_proxies_are_believed(trusted: list[str], peer: str, believed: bool) -> None:
    """The peers of a dual-stack socket look like IPv6; those of a Unix socket have no address."""
    requested = scope(*forwarded_for("198.51.100.7"), client=(peer, 1))
    clients = Clients(trusted)
    expected = "198.51.100.7" if believed else peer.removeprefix("::ffff:")
    assert clients.decisive_address(requested) == clients.remote_address(requested) == expected
    clients.drop_untrusted_headers(requested)
    assert bool(requested["headers"]) is believed


def test_headers_of_others_are_dropped_and_the_rest_is_kept() -> None:
    """No later reader of them, Location or log, can be misled."""
    headers = [(name, "x") for name in ("host", "forwarded", "x-forwarded-host", "x-real-ip", "x-forwarded-proto")]
    requested = scope(*headers, ("accept", "*/*"))
    Clients(["10.0.0.0/8"]).drop_untrusted_headers(requested)
    assert requested["headers"] == [(b"host", b"x"), (b"accept", b"*/*")]
    untouched = scope(*headers)
    DEFAULT_CLIENTS.drop_untrusted_headers(untouched)
    assert len(untouched["headers"]) == 5


def test_an_entry_that_is_no_address_is_not_taken() -> None:
    """Configuration refuses it before; a program that makes its own Clients hears of it, too."""
    with pytest.raises(ValueError, match="nonsense"):
        Clients(["nonsense"])


def test_the_words_of_the_setting_are_all_known() -> None:
    """`config/` cannot ask `http/`, so the two lists are held together here."""
    assert set(PROXY_WORDS) == set(SHORTHANDS)


class Recording:
    """Remembers what was asked."""

    def __init__(self) -> None:
        self.requested: list[AccessRequest] = []

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        from moorage.auth.access import UNRESTRICTED as EVERYBODY

        self.requested.append(request)
        return EVERYBODY

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass


CLAIMS: Final = {
    "x-forwarded-for": "6.6.6.6, 198.51.100.7", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https",
}  # fmt: skip


@pytest.mark.parametrize(
    ("trusted", "remote", "place"),
    [
        (None, "127.0.0.1", "https://evil.example"),
        (("192.0.2.0/24",), "127.0.0.1", "http://registry.test"),
        (("loopback",), "198.51.100.7", "https://evil.example"),
    ],
)
async def test_authentication_is_told_the_decisive_address(
    serve: Serve, trusted: tuple[str, ...] | None, remote: str, place: str
) -> None:
    """It slows down guessing by this address (httpx's transport comes from 127.0.0.1)."""
    settings = Settings(http=Http(trustedproxies=trusted))
    authority = Recording()
    client: Client = serve(options=http_options(settings), authority=authority)
    answer = await client.send("POST", f"/v2/{NAME}/blobs/uploads/", b"", CLAIMS)
    assert authority.requested[0].remote == remote
    assert answer.headers["location"].startswith(f"{place}/")
    assert f"{authority.requested[0].scheme}://{authority.requested[0].host}" == place
