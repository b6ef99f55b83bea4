"""A real server and a collector."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from tests.live import NotStarted, start_moorage
from tests.server.debugging import until
from tests.tracing.collector import collecting
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def environment(url: str, **more: str) -> dict[str, str]:
    named = {f"OTEL_{name}": value for name, value in more.items()}
    return {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url, **named}


def test_a_request_and_its_storage_arrive_at_the_collector(tmp_path: Path) -> None:
    """From every worker, and what was not sent yet is sent at the end."""
    with collecting() as collector:
        variables = environment(
            collector.url,
            SERVICE_NAME="edge",
            EXPORTER_OTLP_HEADERS="x-key=hush",
            BSP_SCHEDULE_DELAY="3600000",
            EXPORTER_OTLP_COMPRESSION="gzip",
        )
        log = {"accesslog": {"disabled": False}, "formatter": "json"}
        with start_moorage(tmp_path / "data", environment=variables, log=log) as live:
            wire = Wire(live.host)
            digest = wire.push_blob("traced/app", b"hello")
            assert wire.send("GET", f"/v2/traced/app/blobs/{digest}", headers=PARENT).status == 200
            assert collector.spans == [], "an hour is not over"
        until(lambda: collector.named("GET /v2/<name>/blobs/<digest>"), "the last spans", lambda: collector.spans)

        (span,) = collector.named("GET /v2/<name>/blobs/<digest>")
        assert (span["trace"], span["parent"]) == (TRACE, "b7ad6b7169203331")
        assert span["http.response.status_code"] == 200
        within = [each for each in collector.spans if each["parent"] == span["id"]]
        assert {each["name"] for each in within} >= {"storage GetContent"}
        assert collector.named("PUT /v2/<name>/blobs/uploads/<uuid>")
        assert {resource["service.name"] for resource in collector.resources} == {"edge"}
        path, headers = collector.requests[0]
        assert (path, headers["x-key"]) == ("/v1/traces", "hush")
        assert "hush" not in live.logs()
        lines = [json.loads(line) for line in live.logs().splitlines() if TRACE in line]
        assert [line["http.response.status"] for line in lines] == [200]


def test_workers_that_are_replaced_send_what_they_have(tmp_path: Path) -> None:
    with collecting() as collector:
        variables = environment(collector.url, BSP_SCHEDULE_DELAY="3600000")
        with start_moorage(tmp_path / "data", environment=variables, http={"workers": 1}) as live:
            assert Wire(live.host).send("GET", "/v2/").status == 200
            live.process.send_signal(signal.SIGHUP)
            until(lambda: collector.named("GET /v2/"), "the old worker's spans", live.logs)


@pytest.mark.parametrize("away", ["refusing", "failing"])
def test_a_collector_that_is_away_disturbs_nobody(tmp_path: Path, away: str) -> None:
    """Requests are answered, the server ends in time, and the log has one line of it."""
    with collecting() as collector:
        collector.status = 500
        url = collector.url if away == "failing" else "http://127.0.0.1:1"
        variables = environment(url, BSP_SCHEDULE_DELAY="20", EXPORTER_OTLP_TIMEOUT="1")
        with start_moorage(tmp_path / "data", environment=variables, http={"workers": 1}) as live:
            wire = Wire(live.host, keep=True)
            until(lambda: wire.send("GET", "/v2/").status == 200 and "opentelemetry" in live.logs(), "a complaint")
            for _ in range(100):
                assert wire.send("GET", "/v2/").status == 200
            wire.close()
            assert live.stop() == 0
    complaints = [line for line in live.logs().splitlines() if "opentelemetry" in line or "urllib3" in line]
    assert len(complaints) == 1, complaints


def test_spans_on_the_console_are_one_line_each(tmp_path: Path) -> None:
    with start_moorage(tmp_path / "data", environment={"OTEL_TRACES_EXPORTER": "console"}) as live:
        assert Wire(live.host).send("GET", "/v2/").status == 200
    spans = [json.loads(line) for line in live.logs().splitlines() if line.startswith("{")]
    assert any(span["name"] == "GET /v2/" for span in spans)


def test_a_bad_value_ends_the_start_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match=r"(?s)ended with status 1.*OTEL_TRACES_EXPORTER: expected otlp"):
        start_moorage(tmp_path / "data", environment={"OTEL_TRACES_EXPORTER": "jaeger"})
    propagators = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_PROPAGATORS": "pigeon"}
    with pytest.raises(NotStarted, match=r"(?s)ended with status 1.*OTEL_PROPAGATORS: .*pigeon") as caught:
        start_moorage(tmp_path / "data", environment=propagators)
    assert "Traceback" not in str(caught.value)
