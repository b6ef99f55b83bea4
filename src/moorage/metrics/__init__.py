"""Metrics: each worker counts for itself, and one page has the sums of all workers.

    a request, a storage action ─► recorder.py   plain numbers of this process; a microsecond each
                                       │ every second, and at the end
                                       ▼
                                   board.py      shared memory; the master adds up the counters of ended workers
                                       │ on a request
                                       ▼
                                   exposition.py the page for Prometheus, rendered in worker 0

`table.py` declares every metric.  This package is imported only if `http.debug.addr` is set, and exposition.py,
the only user of prometheus_client, only with `http.debug.prometheus.enabled`.

prometheus_client's own mode for several processes takes 8 to 13 us per request for the four metrics of CNCF
Distribution (locks, and writes to mapped files); this takes 1.3 us for all metrics.  That mode also needs a
writable directory, in which every process leaves files.
"""
