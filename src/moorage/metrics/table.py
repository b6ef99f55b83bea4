"""Every metric: name, kind, labels, meaning.  docs/monitoring.md has the same table (a test compares them).

`registry_...` are metrics of CNCF Distribution, so that its dashboards keep working; `process_...` have the
meaning that Prometheus gives them; `moorage_...` are additional.  Units are in the names: seconds, bytes.

Source: docs/reference/configuration.md, section 15; docker/go-metrics; the output of docker-registry 2.8.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["DURATIONS", "LAGS", "SIZES", "STORAGE_DURATIONS", "TABLE", "Metric"]

DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
"""Bounds of `registry_http_request_duration_seconds`, as go-metrics sets them."""

STORAGE_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of `registry_storage_action_seconds`: the defaults of Prometheus' Go client."""

SIZES: Final = tuple(float(1024 << step) for step in range(22))
"""Bounds of request and response sizes: 1 KiB to 2 GiB, doubling."""

LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` as it is queried, with `_total` for counters; `bounds` of a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    bounds: tuple[float, ...] = ()


_ALL: Final = (
    Metric("registry_http_requests_total", "counter", ("handler", "code", "method"), "Requests answered."),
    Metric("registry_http_request_duration_seconds", "histogram", ("handler", "method"),
           "Time until the response was sent; a slow client prolongs it.",
           DURATIONS),
    Metric("registry_http_request_size_bytes", "histogram", ("handler",),
           "Size of requests: headers and received body.", SIZES),
    Metric("registry_http_response_size_bytes", "histogram", ("handler",), "Size of response bodies.",
           SIZES),
    Metric("registry_http_in_flight_requests", "gauge", ("handler",), "Requests in progress."),
    Metric("registry_storage_action_seconds", "histogram", ("driver", "action"),
           "Time that an action of the storage driver took, failures included.", STORAGE_DURATIONS),
    Metric("registry_storage_cache_total", "counter", ("type",),
           "Cache of blob sizes, as 2.8 counts it: `Request`, `Hit`, `Miss`."),
    Metric("registry_storage_cache_requests_total", "counter", (),
           "Cache of blob sizes, as 3 counts it: look-ups."),
    Metric("registry_storage_cache_hits_total", "counter", (), "Cache of blob sizes: hits."),
    Metric("registry_storage_cache_errors_total", "counter", (), "Cache of blob sizes: errors; always 0."),
    Metric("registry_proxy_requests_total", "counter", ("type",),
           "GETs in mirrored repositories, of `blob` and `manifest`."),
    Metric("registry_proxy_hits_total", "counter", ("type",), "Those that were answered from the store."),
    Metric("registry_proxy_misses_total", "counter", ("type",), "Those that needed the upstream registry."),
    Metric("registry_proxy_pulled_bytes_total", "counter", ("type",), "Bytes received from upstream registries."),
    Metric("registry_proxy_pushed_bytes_total", "counter", ("type",),
           "Bytes of content for clients of a mirror."),
    Metric("moorage_mirror_stale_tags_total", "counter", (),
           "Cached tags that were served while the upstream registry could not be asked."),
    Metric("moorage_build_info", "gauge", ("version", "python"),
           "Always 1; the labels have the running versions."),
    Metric("moorage_workers", "gauge", (), "Running workers, draining ones included."),
    Metric("moorage_workers_unresponsive", "gauge", (),
           "Workers that have not responded for five seconds: stopped, or the event loop is blocked."),
    Metric("moorage_uploads_in_progress", "gauge", (), "Requests that are uploading data."),
    Metric("moorage_http_received_bytes_total", "counter", ("handler",), "Bytes of request bodies."),
    Metric("moorage_http_sent_bytes_total", "counter", ("handler",), "Bytes of response bodies."),
    Metric("moorage_http_aborted_responses_total", "counter", ("handler",),
           "Responses that the client did not receive completely: it closed the connection or stopped reading."),
    Metric("moorage_refusals_total", "counter", ("code",), "Refused requests by error code."),
    Metric("moorage_auth_failures_total", "counter", ("reason",),
           "Refused logins: `missing` (no credentials, the usual first request of every client), `wrong`, "
           "`invalid_token`, `insufficient_scope`, `throttled`."),
    Metric("moorage_storage_errors_total", "counter", ("driver", "action", "kind"),
           "Failures of the storage: `full` (no space, over quota, read-only) or `unavailable`."),
    Metric("moorage_storage_writable", "gauge", (),
           "1 while the data directory can be written to, 0 while pushes are refused because it cannot."),
    Metric("moorage_storage_size_bytes", "gauge", (), "Size of the file system that holds the data directory."),
    Metric("moorage_storage_free_bytes", "gauge", (),
           "Bytes free there for an unprivileged process, without quotas."),
    Metric("moorage_storage_inodes", "gauge", (),
           "Inodes of that file system; absent where their number is not fixed."),
    Metric("moorage_storage_free_inodes", "gauge", (), "Inodes free there."),
    Metric("moorage_storage_threads", "gauge", (), "Threads of the filesystem driver."),
    Metric("moorage_storage_queue_length", "gauge", (), "Calls that wait for one of these threads."),
    Metric("moorage_cache_requests_total", "counter", ("cache",),
           "Look-ups in a cache: `blobs` (sizes), `links` (object stores), `manifests`, `referrers`."),
    Metric("moorage_cache_hits_total", "counter", ("cache",), "Look-ups that the cache answered."),
    Metric("moorage_tag_history_dropped_total", "counter", (),
           "Changes of tags that could not be recorded in their history; the tags are set all the same."),
    Metric("moorage_health_check_failing", "gauge", ("check",),
           "1 for each health check that fails in any worker."),
    Metric("moorage_event_loop_lag_seconds", "histogram", (),
           "Delay of a timer that each worker sets every second: the time for which the event loop was blocked.",
           LAGS),
    Metric("moorage_tls_certificate_expiry_timestamp_seconds", "gauge", (),
           "Expiry of the first served certificate that expires, in seconds since 1970."),
    Metric("process_cpu_seconds_total", "counter", (), "CPU time of all processes, ended ones included."),
    Metric("process_resident_memory_bytes", "gauge", (),
           "Memory of all processes; shared memory counts for each of them."),
    Metric("process_virtual_memory_bytes", "gauge", (), "Address space of all processes."),
    Metric("process_open_fds", "gauge", (), "Open files and connections of all processes."),
    Metric("process_max_fds", "gauge", (), "Limit of open files of each process."),
    Metric("process_start_time_seconds", "gauge", (), "Start time of the server, in seconds since 1970."),
)  # fmt: skip

TABLE: Final = {metric.name: metric for metric in _ALL}
