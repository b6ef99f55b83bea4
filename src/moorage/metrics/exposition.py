"""The page for Prometheus: the metrics of all processes, added up.

The only module that uses prometheus_client, which renders the requested format.
"""

from __future__ import annotations

import gzip
import platform
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from moorage import __version__
from moorage.metrics import process
from moorage.metrics.recorder import (
    COUNT,
    DURATION_AT,
    RECEIVED,
    REQUEST_SIZE,
    REQUEST_SIZE_AT,
    SECONDS,
    SENT,
    SENT_AT,
    WIDTH,
    Snapshot,
    add_row,
)
from moorage.metrics.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from moorage.metrics.board import Board
    from moorage.metrics.recorder import Reading, Series

__all__ = ["page"]

_GZIP_LEVEL: Final = 1
_go_text: Final[Callable[[float], str]] = floatToGoString


def page(
    board: Board,
    master: int,
    own: Iterable[Reading],
    accept: str,
    accept_encoding: str,
    *,
    unresponsive_after_s: float,
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers for the `accept` and `accept_encoding` of a request.

    `own` are gauges of the whole server that this process knows.  A worker that has not published its numbers for
    `unresponsive_after_s` seconds is stopped, or its event loop is blocked.  Takes milliseconds: not for an event
    loop that has other things to do.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(_families(board, master, own, unresponsive_after_s)))
    encoder, kind = choose_encoder(accept)
    body, headers = encoder(registry), {"content-type": kind, "vary": "accept, accept-encoding"}
    if "gzip" in accept_encoding.lower():
        body = gzip.compress(body, _GZIP_LEVEL)
        headers["content-encoding"] = "gzip"
    return body, headers


class _Once(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def describe(self) -> Iterable[Family]:
        """Return nothing, because registering would collect otherwise."""
        return ()

    def collect(self) -> Iterable[Family]:
        return self._families


def _families(board: Board, master: int, own: Iterable[Reading], unresponsive_after_s: float) -> list[Family]:
    dead, living = board.read()
    everything = Snapshot()
    for snapshot in (dead, *living):
        everything.add(snapshot)
    for snapshot in living:
        everything.add_gauges(snapshot)
    counters, gauges = everything.counters, everything.gauges
    gauges["moorage_workers",] = len(living)
    late = time.monotonic() - unresponsive_after_s
    gauges["moorage_workers_unresponsive",] = sum(snapshot.published < late for snapshot in living)
    gauges["moorage_build_info", __version__, platform.python_version()] = 1
    for check in everything.failing:
        gauges["moorage_health_check_failing", check] = 1
    for name, labels, value in (*own, *process.readings(master, [snapshot.pid for snapshot in living])):
        gauges[name, *labels] = value
    with suppress(OSError):
        counters["process_cpu_seconds_total",] = counters.get(
            ("process_cpu_seconds_total",), 0
        ) + process.cpu_seconds(master)
    _old_names(counters)
    for handler in {handler for handler, _, _ in everything.requests}:
        gauges.setdefault(("registry_http_in_flight_requests", handler), 0)

    families: dict[str, Any] = {name: _family(name) for name in TABLE}
    for series, value in sorted((counters | gauges).items()):
        families[series[0]].add_metric(series[1:], value)
    _add_requests(families, everything.requests)
    for series, row in sorted(everything.histograms.items()):
        _add_histogram(families[series[0]], series, row[0], row[1:])
    return [family for family in families.values() if family.samples]


def _family(name: str) -> Family:
    metric = TABLE[name]
    if metric.kind == "histogram":
        return HistogramMetricFamily(name, metric.meaning, labels=metric.labels)
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(name, metric.meaning, labels=metric.labels)


def _old_names(counters: dict[Series, float]) -> None:
    """Add the cache metrics of CNCF Distribution: 2.8 and 3 name the cache of blob sizes differently."""
    requested = counters.get(("moorage_cache_requests_total", "blobs"))
    if requested is None:
        return
    found = counters["moorage_cache_hits_total", "blobs"]
    counters["registry_storage_cache_total", "Request"] = requested
    counters["registry_storage_cache_total", "Hit"] = found
    counters["registry_storage_cache_total", "Miss"] = requested - found
    counters["registry_storage_cache_requests_total",] = requested
    counters["registry_storage_cache_hits_total",] = found
    counters["registry_storage_cache_errors_total",] = 0


def _add_requests(families: dict[str, Any], requests: dict[tuple[str, str, int], list[float]]) -> None:
    by_handler: dict[str, list[float]] = {}
    by_method: dict[tuple[str, str], list[float]] = {}
    for (handler, method, status), row in sorted(requests.items()):
        # promhttp writes methods in lower case.
        families["registry_http_requests_total"].add_metric([handler, str(status), method.lower()], row[COUNT])
        add_row(by_handler, handler, row)
        add_row(by_method, (handler, method.lower()), row)
    for key, row in by_method.items():
        name = "registry_http_request_duration_seconds"
        _add_histogram(families[name], (name, *key), row[SECONDS], row[DURATION_AT:REQUEST_SIZE_AT])
    for handler, row in by_handler.items():
        for name, total, buckets in (
            ("registry_http_request_size_bytes", row[REQUEST_SIZE], row[REQUEST_SIZE_AT:SENT_AT]),
            ("registry_http_response_size_bytes", row[SENT], row[SENT_AT:WIDTH]),
        ):
            _add_histogram(families[name], (name, handler), total, buckets)
        families["moorage_http_received_bytes_total"].add_metric([handler], row[RECEIVED])
        families["moorage_http_sent_bytes_total"].add_metric([handler], row[SENT])


def _add_histogram(family: Any, series: Series, total: float, counts: Sequence[float]) -> None:
    family.add_metric(series[1:], list(_cumulative(TABLE[series[0]].bounds, counts)), total)


def _cumulative(bounds: Sequence[float], counts: Sequence[float]) -> Iterator[tuple[str, float]]:
    so_far = 0.0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        so_far += count
        # `1`, not `1.0`, as in CNCF Distribution, for queries that name a bucket.
        yield _go_text(bound).removesuffix(".0"), so_far
