"""OpenTelemetry's variables: honoured, or refused by name."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from moorage.startup import StartupError
from moorage.tracing.check import check
from moorage.tracing.environment import exporters
from moorage.tracing.setup import _resource, _Throttle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")


def test_nothing_is_the_default() -> None:
    """The reference's is localhost:4318, and an error in the log every few seconds without a collector."""
    assert exporters({}) == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", ()), ("none", ()), ("otlp", ("otlp",)), (" OTLP ", ("otlp",)), ("console", ("console",)),
     ("otlp,console,otlp", ("otlp", "console"))],
)  # fmt: skip
def test_exporters_are_chosen_by_the_standard_variable(value: str, expected: tuple[str, ...]) -> None:
    assert exporters({"OTEL_TRACES_EXPORTER": value}) == expected


def test_the_sdk_can_be_switched_off() -> None:
    assert exporters({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}) == ()


def test_an_unknown_exporter_is_refused() -> None:
    with pytest.raises(StartupError, match="OTEL_TRACES_EXPORTER: expected otlp, console or none, found 'zipkin'"):
        exporters({"OTEL_TRACES_EXPORTER": "zipkin"})


def checked(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    check(os.environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://x"),
        ("EXPORTER_OTLP_ENDPOINT", "http://h:port"),
        ("EXPORTER_OTLP_TIMEOUT", "soon"),
        ("EXPORTER_OTLP_COMPRESSION", "zip"),
        ("EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ("RESOURCE_ATTRIBUTES", "novalue"),
        ("TRACES_SAMPLER", "sometimes"),
        ("BSP_SCHEDULE_DELAY", "1s"),
        ("BSP_MAX_QUEUE_SIZE", "0"),
        ("BSP_MAX_QUEUE_SIZE", ""),
        ("BSP_MAX_EXPORT_BATCH_SIZE", "5000"),
    ],
)
def test_a_value_that_cannot_be_honoured_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The SDK would silently use its default."""
    with pytest.raises(StartupError) as caught:
        checked(monkeypatch, **{name: value})
    assert str(caught.value)


def test_a_sampler_s_argument_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartupError, match="SAMPLER_ARG"):
        checked(monkeypatch, TRACES_SAMPLER="traceidratio", TRACES_SAMPLER_ARG="half")


def test_headers_are_secrets_even_when_they_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold the collector's keys."""
    with pytest.raises(StartupError) as caught:
        checked(monkeypatch, EXPORTER_OTLP_HEADERS="authorization hush")
    assert "hush" not in str(caught.value)
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(caught.value)


def test_what_is_right_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked(
        monkeypatch,
        EXPORTER_OTLP_ENDPOINT="https://collector.example:4318",
        EXPORTER_OTLP_HEADERS="authorization=Bearer%20x,b=c",
        EXPORTER_OTLP_PROTOCOL="http/protobuf",
        EXPORTER_OTLP_TIMEOUT="3",
        EXPORTER_OTLP_COMPRESSION="gzip",
        RESOURCE_ATTRIBUTES="deployment.environment=test,a=b",
        TRACES_SAMPLER="parentbased_traceidratio",
        TRACES_SAMPLER_ARG="0.25",
        BSP_SCHEDULE_DELAY="100",
    )


def test_who_we_are_is_told_unless_the_variables_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = _resource("one/0").attributes
    assert (attributes["service.name"], attributes["service.instance.id"]) == ("moorage", "one/0")
    assert "service.version" in attributes
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,service.instance.id=mine,x=y")
    attributes = _resource("one/0").attributes
    assert (attributes["service.name"], attributes["service.instance.id"], attributes["x"]) == ("a", "mine", "y")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "b")
    assert _resource("one/0").attributes["service.name"] == "b"


def test_a_collector_that_is_away_is_told_of_once_a_minute() -> None:
    now = 0.0
    rarely = _Throttle(lambda: now)

    def passes(name: str) -> str | None:
        record = logging.LogRecord(name, logging.ERROR, "", 0, "cannot %s", ("send",), None)
        return record.getMessage() if rarely.filter(record) else None

    now = 100.0
    assert passes("opentelemetry.exporter") == "cannot send"
    assert passes("opentelemetry.exporter") is None
    assert passes("urllib3.connectionpool") is None
    assert passes("asyncio") == "cannot send"
    now = 161.0
    assert passes("opentelemetry.sdk") == "cannot send (and 2 lines since the last)"
