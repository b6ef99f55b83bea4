"""Response headers for pages of other origins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from tests.http.client import ABSENT, NAME
from tests.http.conftest import DELETABLE

from moorage.auth.access import ListedGrants as Granted
from moorage.auth.access import Principal, missing
from moorage.config.sections.clients import Cors
from moorage.config.sections.http import Http
from moorage.config.sections.log import AccessLog, Log
from moorage.errors import Unauthorized
from moorage.health_checks import HealthChecks
from moorage.http.app import create_app
from moorage.http.middleware import Traffic
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob
from moorage.wiring.app import make_registry
from moorage.wiring.http import build_stack, http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from moorage.auth.access import AccessRequest, Credentials
    from moorage.registry.stored import StoredRegistry

    Asking = Callable[..., httpx.AsyncClient]

UI: Final = "https://ui.example"
TAGS: Final = f"/v2/{NAME}/tags/list"
PREFLIGHT: Final = {"origin": UI, "access-control-request-method": "GET"}


class Closed:
    """Grants pulls to every client with credentials."""

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        grants = Granted({("repository", NAME): frozenset({"pull"})})
        if credentials is None or missing(grants, request):
            raise Unauthorized('Basic realm="r"', [(need.type, need.name, need.action) for need in request.needs])
        return Principal("alice", grants)

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    """A client of the application with everything around it that a worker puts there."""
    registries: list[StoredRegistry] = []
    clients: list[httpx.AsyncClient] = []

    def make(http: Http, *, closed: bool = True, failing: str = "") -> httpx.AsyncClient:
        log = Log(accesslog=AccessLog(disabled=True))
        settings = DELETABLE.model_copy(update={"http": http, "log": log})
        registry = make_registry(MemoryDriver(), settings, b"s")
        health = HealthChecks([])
        if failing:
            health.failing[failing] = "on purpose"
        app = create_app(registry, http_options(settings), Closed() if closed else None)
        transport = httpx.ASGITransport(build_stack(app, health, Traffic(), settings))
        registries.append(registry)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://registry.test"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()
    for registry in registries:
        await registry.close()


def allowed(*origins: str, **more: Any) -> Http:
    return Http(cors=Cors(origins=origins or (UI,), **more))


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    """The Access-Control headers, each of which must be there once."""
    found: dict[str, str] = {}
    for name, value in answer.headers.multi_items():
        if name.startswith("access-control-"):
            assert name not in found, f"{name} twice"
            found[name.removeprefix("access-control-")] = value
    return found


@pytest.mark.parametrize("path", [TAGS, "/v2/", "/v2/_catalog", f"/v2/{NAME}/blobs/{ABSENT}"])
@pytest.mark.parametrize("configured", [True, False])
async def test_options_needs_no_credentials(asking: Asking, path: str, configured: bool) -> None:
    """Browsers send none with it; the reference's 401 is the first complaint of every user interface."""
    client = asking(allowed() if configured else Http())
    answer = await client.options(path, headers=PREFLIGHT)
    assert answer.status_code == 204
    assert {"GET", "HEAD"} <= set(answer.headers["allow"].split(", "))
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert bool(cors_headers(answer)) is configured


async def test_a_preflight_is_told_what_is_allowed(asking: Asking) -> None:
    client = asking(allowed(credentials=True, maxage=90.0, methods=("GET", "DELETE"), allowheaders=("X-A", "X-B")))
    answer = await client.options(TAGS, headers=PREFLIGHT)
    assert cors_headers(answer) == {
        "allow-origin": UI, "allow-credentials": "true", "allow-methods": "GET, DELETE",
        "allow-headers": "X-A, X-B", "max-age": "90",
    }  # fmt: skip
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("path", ["/v2/nothing/here", "/unknown", "/"])
async def test_a_preflight_is_never_refused(asking: Asking, path: str) -> None:
    """Else the page could not even read that there is no such thing."""
    client = asking(allowed())
    assert (await client.options(path, headers=PREFLIGHT)).is_success
    answer = await client.get(path, headers={"origin": UI})
    assert cors_headers(answer)["allow-origin"] == UI


async def test_a_preflight_passes_while_the_registry_is_unhealthy(asking: Asking) -> None:
    """The page then reads the 503 instead of guessing."""
    client = asking(allowed(), failing="storage")
    assert (await client.options(TAGS, headers=PREFLIGHT)).status_code == 204
    answer = await client.get(TAGS, headers={"origin": UI})
    assert (answer.status_code, cors_headers(answer)["allow-origin"]) == (503, UI)


async def test_every_answer_can_be_read_by_the_page(asking: Asking) -> None:
    """A 401 that the page cannot see does not ask for a password; a digest that it cannot see deletes nothing."""
    client = asking(allowed())
    known = {"origin": UI, "authorization": "Basic YTpi"}
    answers = {
        401: await client.get(TAGS, headers={"origin": UI}),
        404: await client.get(TAGS, headers=known),
        301: await client.get(f"{TAGS}/", headers=known, follow_redirects=False),
        200: await client.get("/v2/", headers=known),
        405: await client.post(TAGS, headers=known),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        found = cors_headers(answer)
        assert found["allow-origin"] == UI
        assert "allow-credentials" not in found
        assert {"Docker-Content-Digest", "WWW-Authenticate", "Link", "Location"} <= set(
            found["expose-headers"].split(", ")
        )
        assert answer.headers["vary"] == "Origin"
    assert answers[401].headers["www-authenticate"] == 'Basic realm="r"'


async def test_exposeheaders_are_those_that_a_page_may_read(asking: Asking) -> None:
    """Instead of the usual ones."""
    answer = await asking(allowed(exposeheaders=("Link", "X-Mine"))).get("/v2/", headers={"origin": UI})
    assert cors_headers(answer)["expose-headers"] == "Link, X-Mine"


async def test_a_blob_is_still_a_blob(asking: Asking) -> None:
    client = asking(allowed(), closed=False)
    layer = blob(size=200_000)
    begun = await client.post(f"/v2/{NAME}/blobs/uploads/", headers={"origin": UI})
    await client.put(f"{begun.headers['location']}&digest={layer.digest}", content=layer.data)
    answer = await client.get(f"/v2/{NAME}/blobs/{layer.digest}", headers={"origin": UI})
    assert answer.content == layer.data
    assert cors_headers(answer)["allow-origin"] == UI


@pytest.mark.parametrize(
    "origin",
    [None, "https://ui.example.evil.test", "http://ui.example", "https://ui.example:444", "null", "*", ""],
)
async def test_other_origins_are_told_nothing(asking: Asking, origin: str | None) -> None:
    """The browser keeps the answer from such a page; a cache must not give it another page's answer either."""
    client = asking(allowed(credentials=True))
    headers = {} if origin is None else {"origin": origin}
    for answer in (
        await client.get("/v2/", headers=headers),
        await client.options(TAGS, headers={**headers, "access-control-request-method": "GET"}),
    ):
        assert cors_headers(answer) == {}
        assert answer.headers["vary"] == "Origin"


async def test_one_of_several_origins_is_answered_by_its_own_name(asking: Asking) -> None:
    """Browsers take one origin or `*`, never a list."""
    client = asking(allowed(UI, "http://localhost:8080"))
    for origin in (UI, "http://localhost:8080"):
        assert cors_headers(await client.get("/v2/", headers={"origin": origin}))["allow-origin"] == origin


async def test_every_origin_may_be_let_in(asking: Asking) -> None:
    client = asking(allowed("*"))
    answer = await client.get("/v2/", headers={"origin": "https://anything.example"})
    assert cors_headers(answer)["allow-origin"] == "*"
    assert "vary" not in answer.headers


BY_HAND: Final = Http(
    headers={
        "Access-Control-Allow-Origin": (UI,), "Access-Control-Allow-Methods": ("HEAD", "GET", "OPTIONS", "DELETE"),
        "Access-Control-Allow-Headers": ("Authorization", "Accept", "Cache-Control"),
        "Access-Control-Expose-Headers": ("Docker-Content-Digest",), "X-Content-Type-Options": ("nosniff",),
    }
)  # fmt: skip


async def test_what_guides_write_into_headers_goes_on_working(asking: Asking) -> None:
    """The guide of joxit/docker-registry-ui has it so, for the reference, which then refuses OPTIONS with 401."""
    client = asking(BY_HAND)
    preflight = await client.options(TAGS, headers=PREFLIGHT)
    refused = await client.get(TAGS, headers={"origin": UI})
    assert (preflight.status_code, refused.status_code) == (204, 401)
    for answer in (preflight, refused):
        assert answer.headers.get_list("access-control-allow-origin") == [UI]
        assert answer.headers.get_list("access-control-allow-methods") == ["HEAD", "GET", "OPTIONS", "DELETE"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_setting_takes_the_place_of_such_headers(asking: Asking) -> None:
    """Two Access-Control-Allow-Origin are none to a browser."""
    both = BY_HAND.model_copy(update={"cors": Cors(origins=("https://other.example",))})
    client = asking(both)
    for origin, found in ((UI, {}), ("https://other.example", {"allow-origin": "https://other.example"})):
        headers = {"origin": origin, "authorization": "Basic YTpi"}
        answer = await client.get("/v2/", headers=headers)
        headers = cors_headers(answer)
        headers.pop("expose-headers", None)
        assert headers == found
        assert answer.headers["x-content-type-options"] == "nosniff"
