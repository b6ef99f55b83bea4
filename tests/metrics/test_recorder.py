"""`metrics/recorder.py`: the counters of one process."""

from __future__ import annotations

import os
from typing import Any

import pytest

from moorage.errors import Unauthorized
from moorage.metrics.recorder import COUNT, OTHER, RECEIVED, REQUEST_SIZE, SENT, WIDTH, Recorder, Snapshot
from moorage.metrics.storage import StorageTimes
from moorage.metrics.table import TABLE
from moorage.storage.driver import KeyMissing, StorageExhausted, StorageUnavailable


class Route:
    def __init__(self, label: str) -> None:
        self.label = label


def scope(method: str = "GET", label: str = "", **more: Any) -> dict[str, Any]:
    route = {"moorage.route": Route(label)} if label else {}
    return {"method": method, "headers": [], **route, **more}


def count(recorder: Recorder, request: dict[str, Any], status: int = 200, **sizes: int) -> None:
    recorder.begin(request)
    recorder.end(
        request, status, 0.003, sizes.get("request_size", 100), sizes.get("received", 0), sizes.get("sent", 0)
    )


def counters(recorder: Recorder) -> dict[tuple[str, ...], float]:
    return recorder.snapshot(()).counters


def test_a_request_is_counted_by_endpoint_method_and_status() -> None:
    recorder = Recorder()
    count(recorder, scope("PUT", "manifest"), 201, request_size=600, received=500, sent=7)
    count(recorder, scope("PUT", "manifest"), 201, request_size=200, received=100, sent=0)
    count(recorder, scope("GET"), 404)
    rows = recorder.snapshot(()).requests
    assert rows.keys() == {("manifest", "PUT", 201), (OTHER, "GET", 404)}
    row = rows["manifest", "PUT", 201]
    assert len(row) == WIDTH
    assert (row[COUNT], row[REQUEST_SIZE], row[RECEIVED], row[SENT]) == (2, 800, 600, 7)
    assert sum(row[5:]) == 3 * 2, "each request falls into one bucket of each histogram"


def test_methods_that_nobody_knows_share_a_row() -> None:
    """Else a client fills the memory by inventing them."""
    recorder = Recorder()
    for number in range(100):
        count(recorder, scope(f"M{number}"), 405)
    assert {method for _, method, _ in recorder.snapshot(()).requests} == {"unknown"}
    assert recorder.snapshot(()).requests[OTHER, "unknown", 405][COUNT] == 100


def test_what_is_in_flight_is_seen_by_endpoint() -> None:
    recorder = Recorder()
    running = [
        scope("PATCH", "blob_upload_chunk"),
        scope("GET", "blob_upload_chunk"),
        scope("GET", "blob"),
        scope(),
    ]
    for each in running:
        recorder.begin(each)
    gauges = recorder.snapshot(()).gauges
    assert gauges["registry_http_in_flight_requests", "blob_upload_chunk"] == 2
    assert gauges["registry_http_in_flight_requests", OTHER] == 1
    assert gauges["moorage_uploads_in_progress",] == 1, "a request for the offset uploads nothing"
    for each in running:
        recorder.end(each, 200, 0.1, 0, 0, 0)
    assert recorder.snapshot(()).gauges == {("moorage_uploads_in_progress",): 0}


@pytest.mark.parametrize(
    ("challenge", "given", "reason"),
    [
        ('Basic realm="r"', False, "missing"),
        ('Basic realm="r"', True, "wrong"),
        ('Bearer realm="r",error="insufficient_scope"', True, "insufficient_scope"),
        ('Bearer realm="r",error="invalid_token"', True, "invalid_token"),
    ],
)
def test_refused_credentials_are_counted_by_reason(challenge: str, given: bool, reason: str) -> None:
    """A wave of wrong passwords shows, and is not hidden among the first requests of honest clients."""
    recorder = Recorder()
    headers = [(b"authorization", b"Basic x")] if given else []
    refused = {"moorage.refusal": Unauthorized.code, "moorage.challenge": challenge, "headers": headers}
    count(recorder, scope("GET", "base", **refused), 401)
    assert counters(recorder)["moorage_auth_failures_total", reason] == 1
    assert counters(recorder)["moorage_refusals_total", "UNAUTHORIZED"] == 1


def test_throttled_credentials_are_counted() -> None:
    recorder = Recorder()
    count(recorder, scope("GET", "base", **{"moorage.refusal": "TOOMANYREQUESTS"}), 429)
    assert counters(recorder)["moorage_auth_failures_total", "throttled"] == 1


def test_readings_of_others_are_sorted_by_their_kind() -> None:
    readings = [("moorage_cache_hits_total", ("blobs",), 7.0), ("moorage_storage_queue_length", (), 2.0)]
    snapshot = Recorder().snapshot(readings)
    assert snapshot.counters["moorage_cache_hits_total", "blobs"] == 7
    assert snapshot.gauges["moorage_storage_queue_length",] == 2
    assert snapshot.counters["process_cpu_seconds_total",] > 0
    assert snapshot.pid == os.getpid()


def test_a_reading_that_the_table_does_not_have_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Recorder().snapshot([("moorage_invented", (), 1.0)])


def test_storage_actions_are_timed_and_failures_told_apart() -> None:
    """A full disk and a network that is away are mended by different people."""
    recorder = Recorder()
    watch = StorageTimes(recorder)
    for error in (None, KeyMissing("x"), StorageExhausted("x"), StorageUnavailable("x")):
        try:
            with watch("filesystem", "Commit", "key"):
                if error is not None:
                    raise error
        except (KeyMissing, StorageUnavailable):
            pass
    snapshot = recorder.snapshot(())
    row = snapshot.histograms["registry_storage_action_seconds", "filesystem", "Commit"]
    assert sum(row[1:]) == 4
    errors = {
        key[1:]: value for key, value in snapshot.counters.items() if key[0] == "moorage_storage_errors_total"
    }
    assert errors == {("filesystem", "Commit", "full"): 1, ("filesystem", "Commit", "unavailable"): 1}


def test_a_histogram_s_bounds_belong_to_the_bucket_below() -> None:
    """`le` is less or equal."""
    recorder = Recorder()
    series = ("registry_storage_action_seconds", "d", "a")
    for value in (0.005, 0.0051, 1e9):
        recorder.observe(series, value)
    row = recorder.snapshot(()).histograms[series]
    assert (row[1], row[2], row[-1]) == (1, 1, 1)
    assert len(row) == len(TABLE[series[0]].bounds) + 2


def test_snapshots_add_up_and_gauges_do_not_survive() -> None:
    one, two = Recorder(), Recorder()
    count(one, scope("GET", "blob"), sent=5)
    count(two, scope("GET", "blob"), sent=6)
    two.count("moorage_refusals_total", "X")
    two.observe(("moorage_event_loop_lag_seconds",), 1.0)
    two.begin(scope("GET", "blob"))
    total = Snapshot()
    for recorder in (one, two):
        total.add(Snapshot.unpack(recorder.snapshot(()).pack()))
    assert total.requests["blob", "GET", 200][SENT] == 11
    assert total.counters["moorage_refusals_total", "X"] == 1
    assert total.histograms["moorage_event_loop_lag_seconds",][0] == 1.0
    assert total.gauges == {}


def test_failing_checks_of_several_are_united() -> None:
    one, two = Snapshot(failing={"a": "x"}), Snapshot(failing={"a": "y", "b": "z"})
    total = Snapshot()
    total.add_gauges(one)
    total.add_gauges(two)
    assert total.failing == {"a": "x", "b": "z"}
