"""Fixtures that any test may ask for: a live server of ours, the reference, and a client for either."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis
import pytest
import structlog

from tests.leaks import pytest_collection_finish, pytest_runtest_teardown
from tests.live import Live, everything_required, start_moorage, start_reference
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.certs import Holder

__all__ = ["pytest_collection_finish", "pytest_runtest_teardown"]

# Nothing fails because the machine is busy: no example has a deadline, in hypothesis' own profile "ci" neither.
# Where a run must be green, one run tries what the next one tries; elsewhere each searches on.
hypothesis.settings.register_profile(
    "search", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ci" if everything_required() else "search")

# So that a failed comparison in the contract suites shows its values.
pytest.register_assert_rewrite("moorage.testing")


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command or server that runs in the test's process configures logging; the next test has its own."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def live_moorage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server of two workers for a module's tests; use a repository of your own."""
    with start_moorage(tmp_path_factory.mktemp("live") / "data") as live:
        yield live


@pytest.fixture
def live_reference(tmp_path: Path) -> Iterator[Live]:
    """Debian's docker-registry 2.8 over an empty store."""
    with start_reference(tmp_path / "reference") as live:
        yield live


@pytest.fixture
def wire(live_moorage: Live) -> Wire:
    """A client of `live_moorage`."""
    return Wire(live_moorage.host)


@pytest.fixture(scope="module")
def ca() -> Holder:
    """The authority that signs servers' certificates; clients trust it."""
    return _root("test CA")


@pytest.fixture(scope="module")
def client_ca() -> Holder:
    """The authority that signs clients' certificates; servers trust it."""
    return _root("client CA")


@pytest.fixture(scope="module")
def alice(client_ca: Holder) -> Holder:
    """A client's certificate."""
    from tests.server import certs

    return client_ca.issue("alice", usage=certs.CLIENT)


def _root(name: str) -> Holder:
    from tests.server import certs

    return certs.root(name)
