"""A registry with its debug listener, for tests: real processes, and what they say of themselves."""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.parser import text_string_to_metric_families
from tests.live import start_moorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.live import Live

LIMIT_S: Final = 60.0


class Debugged:
    """`live` is the registry; `port` that of its debug listener."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.port = debug_port(live.logs())

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """From the debug listener."""
        return get(self.port, path, **headers)

    def requested(self, path: str) -> tuple[int, str]:
        """From the registry."""
        return get(self.live.port, path)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Every sample by its name and, sorted, its labels."""
        status, body = self.get("/metrics")
        assert status == 200, body
        return {
            (sample.name, *(f"{name}={text}" for name, text in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    def total(self, name: str = "registry_http_requests_total", *labels: str) -> float:
        """The sum of a metric's samples that have the labels."""
        return sum(value for key, value in self.metrics().items() if key[0] == name and set(labels) <= set(key))

    def logged(self, text: str, times: int = 1) -> None:
        until(lambda: self.live.logs().count(text) >= times, f"{text!r} in the log", self.live.logs)


@contextlib.contextmanager
def debugged(
    root: Path, *, environment: Mapping[str, str] | None = None, http: Mapping[str, Any] | None = None, **more: Any
) -> Iterator[Debugged]:
    """Three workers, metrics on."""
    debug = {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}
    settings = {"workers": 3, "debug": debug, **(http or {})}
    with start_moorage(root, environment=environment, http=settings, **more) as live:
        yield Debugged(live)


def debug_port(log: str) -> int:
    found = re.search(r"debug listener on http://[^\"]*?:(\d+)[\"\s]", log)
    assert found is not None, log
    return int(found[1])


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """On a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def until(reached: Callable[[], object], what: str, reported: Callable[[], object] = str) -> None:
    """Poll until `reached`; AssertionError after the limit.  A connection that fails is no answer yet."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if reached():
                return
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s for {what}: {str(reported())[-3000:]}"
        time.sleep(0.02)
