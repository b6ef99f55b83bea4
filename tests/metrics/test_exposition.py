"""The page that Prometheus reads, by Prometheus' own parsers."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.live import require

from moorage.metrics import process
from moorage.metrics.board import Board
from moorage.metrics.exposition import page
from moorage.metrics.recorder import Recorder
from moorage.metrics.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

READINGS = [
    *((f"moorage_cache_{kind}_total", (name,), float(value))
      for name in ("blobs", "manifests", "referrers") for kind, value in (("requests", 10), ("hits", 7))),
    ("moorage_storage_threads", (), 4.0),
    ("moorage_tag_history_dropped_total", (), 1.0),
    ("moorage_storage_queue_length", (), 0.0),
    ("moorage_mirror_stale_tags_total", (), 2.0),
    *((f"registry_proxy_{kind}_total", (content,), 5.0)
      for kind in ("requests", "hits", "misses", "pulled_bytes", "pushed_bytes")
      for content in ("blob", "manifest")),
]  # fmt: skip
OWN = [
    ("moorage_tls_certificate_expiry_timestamp_seconds", (), 1.8e9),
    *((f"moorage_storage_{name}", (), 1.0)
      for name in ("writable", "size_bytes", "free_bytes", "inodes", "free_inodes")),
]  # fmt: skip


_parse: Callable[[str], Iterable[Metric]] = parse_openmetrics


class Route:
    label = "manifest"


def filled() -> Board:
    """Two workers that live and one that died, each with a request and everything else there is."""
    board = Board(2)
    for number in range(3):
        place = board.claim()
        recorder = Recorder()
        for method, status, sent in (("GET", 200, 2000), ("HEAD", 404, 0)):
            scope: dict[str, Any] = {"method": method, "moorage.route": Route, "headers": []}
            if status == 404:
                scope |= {"moorage.refusal": "MANIFEST_UNKNOWN", "moorage.aborted": True}
            recorder.begin(scope)
            recorder.end(scope, status, 0.02, 300, 0, sent)
        recorder.count("moorage_auth_failures_total", "wrong")
        recorder.count("moorage_storage_errors_total", "filesystem", "Commit", "full")
        recorder.observe(("registry_storage_action_seconds", "filesystem", "Stat"), 0.5)
        recorder.observe(("moorage_event_loop_lag_seconds",), 0.1)
        snapshot = recorder.snapshot(READINGS)
        snapshot.failing = {"storagedriver_filesystem": "down"} if number == 2 else {}
        board.publish(place, snapshot)
        if number == 0:
            board.release(place)
    return board


def scrape(accept: str = "", encoding: str = "") -> tuple[bytes, dict[str, str]]:
    return page(filled(), os.getpid(), OWN, accept, encoding, unresponsive_after_s=5.0)


def values(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Every sample by its name and, sorted, its labels."""
    return {
        (sample.name, *(f"{name}={text}" for name, text in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def shown() -> dict[tuple[str, ...], float]:
    body, _ = scrape()
    return values(parse_text(body.decode()))


def test_requests_of_all_processes_are_added_up(shown: dict[tuple[str, ...], float]) -> None:
    assert shown["registry_http_requests_total", "code=200", "handler=manifest", "method=get"] == 3
    assert shown["registry_http_requests_total", "code=404", "handler=manifest", "method=head"] == 3
    assert shown["registry_http_response_size_bytes_sum", "handler=manifest"] == 6000
    assert shown["registry_http_request_size_bytes_count", "handler=manifest"] == 6
    assert shown["moorage_http_aborted_responses_total", "handler=manifest"] == 3
    name = "registry_http_request_duration_seconds"
    labels = ("handler=manifest", "method=get")
    assert shown[f"{name}_sum", *labels] == pytest.approx(0.06)
    assert shown[f"{name}_bucket", labels[0], "le=0.01", labels[1]] == 0
    assert shown[f"{name}_bucket", labels[0], "le=0.025", labels[1]] == 3
    assert shown[f"{name}_bucket", labels[0], "le=+Inf", labels[1]] == 3


def test_gauges_are_those_of_the_living(shown: dict[tuple[str, ...], float]) -> None:
    assert shown["moorage_workers",] == 2
    assert shown["moorage_workers_unresponsive",] == 2, "they have published at the start of the clock"
    assert shown["moorage_storage_threads",] == 8
    assert shown["registry_http_in_flight_requests", "handler=manifest"] == 0
    assert shown["moorage_health_check_failing", "check=storagedriver_filesystem"] == 1


def test_the_reference_s_two_spellings_of_its_cache(shown: dict[tuple[str, ...], float]) -> None:
    assert [shown["registry_storage_cache_total", f"type={kind}"] for kind in ("Request", "Hit", "Miss")] == [
        30, 21, 9,
    ]  # fmt: skip
    assert shown["registry_storage_cache_requests_total",] == 30
    assert shown["registry_storage_cache_hits_total",] == 21
    assert shown["registry_storage_cache_errors_total",] == 0


def test_processes_are_measured(shown: dict[tuple[str, ...], float]) -> None:
    """The test's own process is master and workers in one."""
    assert shown["process_cpu_seconds_total",] > 0
    assert shown["process_resident_memory_bytes",] > 1 << 20
    assert shown["process_open_fds",] > 2
    assert 1.5e9 < shown["process_start_time_seconds",] < 1e10


def test_every_metric_of_the_table_is_there_with_its_kind_labels_and_help() -> None:
    body, _ = scrape()
    families = {family.name: family for family in parse_text(body.decode())}
    for metric in TABLE.values():
        name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        family = families.pop(name)
        assert family.type == metric.kind, name
        assert family.documentation == metric.meaning
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        assert labels == set(metric.labels), name
    assert families == {}


def test_buckets_are_spelt_as_the_reference_spells_them() -> None:
    """Prometheus 2 takes `1` and `1.0` for two buckets."""
    text = scrape()[0].decode()
    for spelling in ('le="1"', 'le="2.5"', 'le="10"', 'le="1024"', 'le="1.048576e+06"', 'le="2.147483648e+09"'):
        assert spelling in text


def test_openmetrics_is_spoken_to_those_who_ask() -> None:
    """The default of Prometheus."""
    body, headers = scrape("application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.5")
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert values(_parse(body.decode()))["moorage_workers",] == 2


def test_the_page_is_packed_for_those_who_ask() -> None:
    body, headers = scrape("", "gzip, deflate")
    assert headers["content-encoding"] == "gzip"
    assert b"moorage_workers 2" in gzip.decompress(body)


def test_a_server_that_has_done_nothing_has_a_page() -> None:
    body, _ = page(Board(1), os.getpid(), (), "", "", unresponsive_after_s=5.0)
    assert values(parse_text(body.decode()))["moorage_workers",] == 0


@pytest.mark.client
def test_promtool_finds_nothing_to_complain_of_in_our_own_names() -> None:
    """The reference's names are as they are."""
    body, _ = scrape()
    command = [require("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=body, capture_output=True, check=False, timeout=30)
    complaints = [
        line for line in (done.stdout + done.stderr).decode().splitlines() if line.startswith("moorage_")
    ]
    assert complaints == []
    assert done.returncode in {0, 3}, done.stderr


def test_when_the_machine_started_is_known_without_proc_stat(monkeypatch: pytest.MonkeyPatch) -> None:
    """ProcSubset=pid of a systemd unit leaves nothing but processes in /proc."""
    by_proc = process._booted()

    def hidden(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", hidden)
    assert abs(process._booted() - by_proc) <= 1
